"""The model's side: prompts as tokens, seeded texts, and arms that come and go."""

from __future__ import annotations

import pytest
import torch

import neuronsteer as ns
from neuronsteer.evaluation.experiments._bench import Arm, Bench, Settings, candidates
from neuronsteer.evaluation.readers import Library

from .material import DATA, LABELS, subject


@pytest.fixture(scope="module")
def parts():
    return subject()


def bench_of(parts, **settings) -> Bench:
    model, tokenizer, neurons = parts
    generation = {"do_sample": True, "temperature": 1.0}
    options = Settings(generation=generation, **{"batch_size": 2} | settings)
    return Bench(model, tokenizer, LABELS, Library(DATA, LABELS), options, neurons)


def test_prompts_begin_with_one_bos_and_do_not_end(parts):
    bench = bench_of(parts)
    tokenizer = parts[1]
    ids = bench.encode("the cat")
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] != tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat"


def test_models_that_talk_are_talked_to(parts):
    model, tokenizer, neurons = parts
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + (
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    before = tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        bench = bench_of((model, tokenizer, neurons), chat=True)
        said = tokenizer.decode(bench.encode("Hello"), skip_special_tokens=True)
    finally:
        tokenizer.chat_template = before
    assert said == "<user>Hello<assistant>"


def test_long_prompts_lose_their_beginning(parts):
    bench = bench_of(parts)
    limit = parts[0].config.max_position_embeddings
    made = bench.generate(["x" * (limit + 50)], [None], 4, key=("a",))
    assert len(made[0]) == 4


def test_texts_depend_on_the_key_and_nothing_else(parts):
    bench = bench_of(parts)
    prompts = ["the cat", "a much longer prompt", "кот"]

    def made(key, seed=0):
        bench.settings = Settings(
            generation={"do_sample": True}, batch_size=2, seed=seed
        )  # fmt: skip
        return bench.generate(prompts, [None] * 3, 8, key=key)

    first = made(("a",))
    torch.manual_seed(99)
    assert made(("a",)) == first
    assert made(("b",)) != first
    assert made(("a",), seed=1) != first
    assert all(len(row) == 8 for row in first)


def test_rows_are_steered_to_their_own_target(parts):
    model, tokenizer, neurons = parts
    bench = bench_of(parts, batch_size=8)
    with bench.using(Arm("neurons", neurons)):
        mixed = bench.generate(["the cat"] * 3, ["en", None, "ja"], 10, key=("a",), greedy=True)
    ids = torch.tensor([bench.encode("the cat")])
    for row, target in zip(mixed, ["en", None, "ja"], strict=True):
        with ns.attach(model, neurons) as steer:
            steer.to(target)
            alone = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False
            )
        assert row == alone[0, ids.shape[1] :].tolist()


def test_an_arm_inside_an_arm_acts_alone(parts):
    model, tokenizer, neurons = parts
    bench = bench_of(parts)
    ids = torch.tensor([tokenizer("the cat").input_ids])
    plain = model(ids).logits
    with bench.using(Arm("neurons", neurons)):
        bench.switch()("en")
        outer = model(ids).logits
        with bench.using(Arm("part", neurons.only("ja"))):
            assert bench.arm.name == "part"
            assert torch.equal(model(ids).logits, plain)
            bench.switch()("ja")
            assert not torch.equal(model(ids).logits, plain)
        assert bench.arm.name == "neurons"
        assert torch.equal(model(ids).logits, plain)
        bench.switch()("en")
        assert torch.equal(model(ids).logits, outer)
    assert torch.equal(model(ids).logits, plain) and bench.arm.neurons is None


def test_without_an_arm_nothing_is_steered(parts):
    bench = bench_of(parts)
    plain = bench.generate(["the cat"], [None], 6, key=("a",))
    assert bench.generate(["the cat"], ["en"], 6, key=("a",)) == plain
    bench.switch()("en")


def test_the_identifier_chooses_from_more_than_the_labels():
    found = candidates(["sw", "fr"])
    assert found[:2] == ("sw", "fr") and len(found) > 10 and len(set(found)) == len(found)
