"""The model's side: prompts as tokens, seeded texts, and treatments that come and go."""

from __future__ import annotations

import pytest
import torch

import neuronsteer as ns
from neuronsteer.evaluation.experiments._model_under_test import (
    EvaluationSettings,
    ModelUnderTest,
    Treatment,
    candidates,
)
from neuronsteer.evaluation.readers import EvaluationData

from .material import DATA, LABELS, subject


@pytest.fixture(scope="module")
def parts():
    return subject()


def under_test(parts, **settings) -> ModelUnderTest:
    model, tokenizer, neurons = parts
    generation = {"do_sample": True, "temperature": 1.0}
    options = EvaluationSettings(generation=generation, **{"batch_size": 2} | settings)
    return ModelUnderTest(model, neurons, tokenizer, LABELS, EvaluationData(DATA, LABELS), options)


def test_prompts_begin_with_one_bos_and_do_not_end(parts):
    tested = under_test(parts)
    tokenizer = parts[1]
    ids = tested.encode("the cat")
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] != tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat"


def test_models_that_chat_get_the_template(parts):
    model, tokenizer, neurons = parts
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}" + (
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    before = tokenizer.chat_template
    tokenizer.chat_template = template
    try:
        tested = under_test((model, tokenizer, neurons), chat=True)
        said = tokenizer.decode(tested.encode("Hello"), skip_special_tokens=True)
    finally:
        tokenizer.chat_template = before
    assert said == "<user>Hello<assistant>"


def test_long_prompts_lose_their_beginning(parts):
    tested = under_test(parts)
    limit = parts[0].config.max_position_embeddings
    made = tested.generate_tokens(["x" * (limit + 50)], [None], 4, key=("a",))
    assert len(made[0]) == 4


def test_texts_depend_on_the_key_and_nothing_else(parts):
    tested = under_test(parts)
    prompts = ["the cat", "a much longer prompt", "кот"]

    def made(key, seed=0):
        tested.settings = EvaluationSettings(
            generation={"do_sample": True}, batch_size=2, seed=seed
        )  # fmt: skip
        return tested.generate_tokens(prompts, [None] * 3, 8, key=key)

    first = made(("a",))
    torch.manual_seed(99)
    assert made(("a",)) == first
    assert made(("b",)) != first
    assert made(("a",), seed=1) != first
    assert all(len(row) == 8 for row in first)


def test_rows_are_steered_to_their_own_target(parts):
    model, tokenizer, neurons = parts
    tested = under_test(parts, batch_size=8)
    with tested.under(Treatment("neurons", neurons)):
        mixed = tested.generate_tokens(
            ["the cat"] * 3, ["en", None, "ja"], 10, key=("a",), greedy=True
        )
    ids = torch.tensor([tested.encode("the cat")])
    for row, target in zip(mixed, ["en", None, "ja"], strict=True):
        with ns.attach(model, neurons) as steer:
            steer.to(target)
            alone = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False
            )
        assert row == alone[0, ids.shape[1] :].tolist()


def test_an_arm_inside_an_arm_acts_alone(parts):
    model, tokenizer, neurons = parts
    tested = under_test(parts)
    ids = torch.tensor([tokenizer("the cat").input_ids])
    plain = model(ids).logits
    with tested.under(Treatment("neurons", neurons)):
        tested.switch()("en")
        outer = model(ids).logits
        with tested.under(Treatment("part", neurons.only("ja"))):
            assert tested.treatment.name == "part"
            assert torch.equal(model(ids).logits, plain)
            tested.switch()("ja")
            assert not torch.equal(model(ids).logits, plain)
        assert tested.treatment.name == "neurons"
        assert torch.equal(model(ids).logits, plain)
        tested.switch()("en")
        assert torch.equal(model(ids).logits, outer)
    assert torch.equal(model(ids).logits, plain) and tested.treatment.neurons is None


def test_without_an_arm_nothing_is_steered(parts):
    tested = under_test(parts)
    plain = tested.generate_tokens(["the cat"], [None], 6, key=("a",))
    assert tested.generate_tokens(["the cat"], ["en"], 6, key=("a",)) == plain
    tested.switch()("en")


def test_the_identifier_chooses_from_more_than_the_labels():
    found = candidates(["sw", "fr"])
    assert found[:2] == ("sw", "fr") and len(found) > 10 and len(set(found)) == len(found)
