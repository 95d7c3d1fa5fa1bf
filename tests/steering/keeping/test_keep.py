"""`keep` with every way to generate: what comes out is in the language's scripts."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)

import neuronsteer as ns
from neuronsteer.errors import HookError, ParameterError
from neuronsteer.steering.keeping.token_scripts import TokenScripts

from ...tiny_models import tiny_model
from ..sets import toy_set
from .vocabularies import byte_level

TOKENS = 24


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture(scope="module")
def model(tokenizer):
    made = tiny_model("llama", vocab_size=len(tokenizer) + 5, pad_token_id=0)
    # What begins code or an address: there, nothing is held back.
    made.generation_config.suppress_tokens = [
        tokenizer.convert_tokens_to_ids(mark) for mark in "@./\\_=()`"
    ]
    return made


def ids_of(tokenizer, *texts):
    return tokenizer(list(texts), add_special_tokens=False, return_tensors="pt")["input_ids"]


def scripts(tokenizer, ids):
    known = TokenScripts.of(tokenizer)
    return {script for token in ids.flatten().tolist() for script in known.scripts(token)}


WAYS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 1.3, "top_k": 0},
    "top-p": {"do_sample": True, "top_p": 0.95, "top_k": 0},
    "beams": {"num_beams": 3},
    "sampled beams": {"num_beams": 3, "do_sample": True},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "without cache": {"do_sample": False, "use_cache": False},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "configured": {"generation_config": GenerationConfig(do_sample=True, top_k=0)},
}


@pytest.mark.parametrize("way", WAYS)
def test_text_stays_in_its_script(model, tokenizer, way):
    ids = ids_of(tokenizer, "the weather Python")
    options = {**WAYS[way], "max_new_tokens": TOKENS, "attention_mask": torch.ones_like(ids)}
    torch.manual_seed(0)
    alone = model.generate(ids, **options)[:, ids.shape[1] :]
    torch.manual_seed(0)
    with ns.keep(model, tokenizer, "en", reach=1e-6) as kept:
        found = model.generate(ids, **options)[:, ids.shape[1] :]
        report = kept.report()
    torch.manual_seed(0)
    after = model.generate(ids, **options)[:, ids.shape[1] :]
    assert scripts(tokenizer, alone) - {"LATIN"}, "without keep it does not"
    assert scripts(tokenizer, found) <= {"LATIN"}
    assert report
    assert torch.equal(alone, after)


def test_assistant(model, tokenizer):
    ids = ids_of(tokenizer, "the weather Python")
    assistant = tiny_model("llama", layers=1, vocab_size=len(tokenizer) + 5, pad_token_id=0)
    with ns.keep(model, tokenizer, "en", reach=1e-6):
        plain = model.generate(ids, do_sample=False, max_new_tokens=TOKENS)
        assisted = model.generate(
            ids, do_sample=False, max_new_tokens=TOKENS, assistant_model=assistant
        )
    assert torch.equal(plain, assisted)
    assert scripts(tokenizer, plain) <= {"LATIN"}


def test_language_per_row(model, tokenizer):
    ids = ids_of(tokenizer, "weather", "天气", "погода")
    mask = torch.ones_like(ids)
    options = {"attention_mask": mask, "do_sample": False, "max_new_tokens": TOKENS}
    alone = model.generate(ids, **options)
    with ns.keep(model, tokenizer, ["en", None, "ru"], reach=1e-6) as kept:
        found = model.generate(ids, **options)
        rows = {each.row for each in kept.report()}
        with pytest.raises(ParameterError, match="3 languages were given"):
            model.generate(ids[:2], do_sample=False, max_new_tokens=2)
    assert scripts(tokenizer, found[0, 1:]) <= {"LATIN"}
    assert torch.equal(found[1], alone[1])
    assert scripts(tokenizer, found[2, 1:]) <= {"CYRILLIC", "LATIN"}
    assert rows == {0, 2}


def test_a_schedule_says_what_is_kept_when(model, tokenizer):
    ids = ids_of(tokenizer, "the weather Python")
    with ns.keep(model, tokenizer, "en,8:-,16:en", reach=1e-6) as kept:
        found = model.generate(ids, do_sample=False, max_new_tokens=24)[0, ids.shape[1] :]
        at = {each.token for each in kept.report()}
    with ns.keep(model, tokenizer, ns.Schedule("en"), reach=1e-6):
        always = model.generate(ids, do_sample=False, max_new_tokens=8)[0, ids.shape[1] :]
    assert torch.equal(found[:8], always)
    assert scripts(tokenizer, found[:8]) | scripts(tokenizer, found[16:]) <= {"LATIN"}
    assert scripts(tokenizer, found[8:16]) - {"LATIN"}, "nothing is kept there"
    assert at and not at & set(range(8, 16))


@pytest.mark.parametrize("language", ["sentence:ko", "en,4:xx-unknown", ns.Schedule("korean")])
def test_schedules_that_cannot_be_kept_are_refused(model, tokenizer, language):
    with pytest.raises(ParameterError, match="waits for text|not the code of a language"):
        ns.keep(model, tokenizer, language)
    with pytest.raises(ParameterError, match="one language for the thoughts"):
        ns.keep(model, tokenizer, "en,24:ko", where="all")


def test_streaming(model, tokenizer):
    ids = ids_of(tokenizer, "the weather")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    with ns.keep(model, tokenizer, "en", reach=1e-6):
        options = {"streamer": streamer, "do_sample": False, "max_new_tokens": TOKENS}
        thread = threading.Thread(target=model.generate, args=(ids,), kwargs=options)
        thread.start()
        text = "".join(streamer)
        thread.join()
        model.generate(ids, streamer=TextStreamer(tokenizer), do_sample=False, max_new_tokens=2)
    assert not any("一" <= character <= "鿿" for character in text)


def test_pipeline(model, tokenizer):
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    options = {"do_sample": False, "max_new_tokens": TOKENS, "return_full_text": False}
    alone = pipe("the weather", **options)[0]["generated_text"]
    with ns.keep(model, tokenizer, "en", reach=1e-6):
        found = pipe("the weather", **options)[0]["generated_text"]
    assert alone != found
    assert scripts(tokenizer, ids_of(tokenizer, found)) <= {"LATIN"}


class Forbidden(LogitsProcessor):
    """Forbids a token, as a user's own processor might."""

    def __init__(self, token):
        self.token, self.calls = token, 0

    def __call__(self, _ids, scores):
        self.calls += 1
        scores[:, self.token] = -torch.inf
        return scores


@pytest.mark.parametrize("positional", [False, True])
def test_processors_of_the_user_stay(model, tokenizer, positional):
    ids = ids_of(tokenizer, "the weather")
    config = GenerationConfig(do_sample=False, max_new_tokens=TOKENS)
    with ns.keep(model, tokenizer, "en", reach=1e-6):
        first = int(model.generate(ids, config)[0, ids.shape[1]])
        own = Forbidden(first)
        found = (
            model.generate(ids, config, [own])
            if positional
            else model.generate(ids, generation_config=config, logits_processor=[own])
        )
    assert own.calls == TOKENS
    assert first not in found[0, ids.shape[1] :]
    assert scripts(tokenizer, found) <= {"LATIN"}


def test_two_keepers_and_detaching_in_any_order(model, tokenizer):
    ids = ids_of(tokenizer, "the weather")
    options = {"do_sample": False, "max_new_tokens": TOKENS}
    alone = model.generate(ids, **options)
    outer = ns.keep(model, tokenizer, "en", reach=1e-6)
    inner = ns.keep(model, tokenizer, None)
    copied = copy.deepcopy(model)
    kept = model.generate(ids, **options)
    outer.detach()
    outer.detach()
    assert torch.equal(model.generate(ids, **options), alone)
    inner.detach()
    assert "generate" not in vars(model)
    assert not torch.equal(kept, alone)
    assert torch.equal(copied.generate(ids, **options), alone), "copies are plain models"


@pytest.mark.parametrize("name", ["generate_batch", "init_continuous_batching"])
def test_continuous_batching_is_refused_rather_than_left_alone(model, tokenizer, name):
    with ns.keep(model, tokenizer, "en"), pytest.raises(HookError, match="Continuous batching"):
        getattr(model, name)([[5, 6]])
    assert name not in vars(model)


def test_beside_a_steerer(model, tokenizer):
    ids = ids_of(tokenizer, "the weather")
    options = {"do_sample": False, "max_new_tokens": TOKENS}
    alone = model.generate(ids, **options)
    neurons = toy_set(model)
    steer = ns.attach(model, neurons)
    kept = ns.keep(model, tokenizer, "en", reach=1e-6)
    steer.to(neurons.labels[0])
    found = model.generate(ids, **options)
    steer.detach()
    unsteered = model.generate(ids, **options)
    kept.detach()
    assert scripts(tokenizer, found) <= {"LATIN"}
    assert scripts(tokenizer, unsteered) <= {"LATIN"}
    assert not torch.equal(found, unsteered)
    assert torch.equal(model.generate(ids, **options), alone)
    assert not {"generate", "__getstate__"} & set(vars(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "deutsch"}, "'deutsch' is not the code"),
        ({"language": "de", "where": "everywhere"}, "where='everywhere'"),
        ({"language": ["de", "en"], "where": "all"}, "one language for the thoughts"),
        ({"language": "de", "reach": 0}, "reach=0"),
    ],
)
def test_errors_come_at_once(model, tokenizer, options, message):
    with pytest.raises(ParameterError, match=message):
        ns.keep(model, tokenizer, **options)
    assert "generate" not in vars(model)


def test_thoughts(model, tokenizer):
    ids = ids_of(tokenizer, "the weather<think>")
    options = {"do_sample": False, "max_new_tokens": TOKENS}
    alone = model.generate(ids, **options)
    with ns.keep(model, tokenizer, "en", reach=1e-6):
        assert torch.equal(model.generate(ids, **options), alone)
    with ns.keep(model, tokenizer, "en", thinking="ru", reach=1e-6):
        found = model.generate(ids, **options)[:, ids.shape[1] :]
        assert scripts(tokenizer, found) <= {"LATIN", "CYRILLIC"}
    with ns.keep(model, tokenizer, "en", where="all", reach=1e-6):
        found = model.generate(ids, **options)[:, ids.shape[1] :]
        assert scripts(tokenizer, found) <= {"LATIN"}
