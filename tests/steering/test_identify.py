"""`ns.identify`: the neurons tell what a text is written in, part by part."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import texts
from neuronsteer.errors import HookError, ParameterError

LANGUAGES = ("de", "en", "es", "fr")


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(model_folder()).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_folder())


@pytest.fixture(scope="module")
def neurons(model, tokenizer):
    written = {label: texts(label, 20, 3, seed=1) for label in LANGUAGES}
    return ns.detect(ns.collect(model, tokenizer, written, progress=False), "diffmean")


def test_texts_that_detection_never_saw_are_told_apart(model, tokenizer, neurons):
    asked = {label: texts(label, 12, 2, seed=7) for label in LANGUAGES}
    for label, written in asked.items():
        found = [each.label for each in ns.identify(model, tokenizer, neurons, written)]
        assert found.count(label) >= 11, (label, found)


def test_parts_of_a_text_are_found(model, tokenizer, neurons):
    english, german = " ".join(texts("en", 1, 3, seed=7)), " ".join(texts("de", 1, 3, seed=7))
    text = f"{english} {german}"
    (found,) = ns.identify(model, tokenizer, neurons, text)
    spans = found.spans
    assert spans[0]["start"] == 0 and spans[-1]["end"] == len(text)
    assert all(a["end"] == b["start"] for a, b in zip(spans, spans[1:], strict=False))
    right = {"en": 0, "de": 0}
    for each in spans:
        for at in range(each["start"], each["end"]):
            expected = "en" if at <= len(english) else "de"
            right[expected] += each["label"] == expected
    assert right["en"] > 0.8 * len(english) and right["de"] > 0.8 * len(german)
    assert set(found.likeness) == set(LANGUAGES)
    assert all(-1 <= value <= 1 for value in found.likeness.values())


def test_nothing_is_told_of_nothing(model, tokenizer, neurons):
    empty, blank, one = ns.identify(model, tokenizer, neurons, ["", "  ", "the"])
    assert empty.label is None and blank.label is None and empty.spans == []
    assert one.label in LANGUAGES


def test_steering_is_neither_noticed_nor_disturbed(model, tokenizer, neurons):
    ids = tokenizer("The old man waits", return_tensors="pt")["input_ids"]
    with ns.attach(model, neurons) as steer:
        plain = ns.identify(model, tokenizer, neurons, "Der alte Mann wartet")
        steer.to("fr", source="en")
        steered = model(ids).logits
        assert ns.identify(model, tokenizer, neurons, "Der alte Mann wartet") == plain
        assert torch.equal(model(ids).logits, steered)


def test_what_cannot_be_read_is_said(model, tokenizer, neurons):
    with pytest.raises(ParameterError, match="found int"):
        ns.identify(model, tokenizer, neurons, [3])
    with pytest.raises(ParameterError, match="max_length=0"):
        ns.identify(model, tokenizer, neurons, "x", max_length=0)
    blind = neurons.replace(values={}, means_of=(), source=None, operation={"name": "zero"})
    with pytest.raises(ParameterError, match="means of several labels"):
        ns.identify(model, tokenizer, blind, "x")
    with ns.attach(model, neurons) as steer:
        pass
    with pytest.raises(HookError, match="detached"):
        steer.likeness(torch.tensor([[5]]))
