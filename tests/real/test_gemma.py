"""Finding neurons in a pretrained model of many languages, and steering with them.

What is asserted was found with a wide margin on a few built-in sentences; how good steering is,
measures benchmarks/real_models.py.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import pytest
import torch

import neuronsteer as ns
from neuronsteer.demo.language_identifier import language_identifier
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.stats import Stats

from .conftest import FOR_DETECTION, Loaded, load

pytestmark = pytest.mark.real

PROMPTS = (
    "The captain did not answer at once, but",
    "The new law will change how people",
    "In the last ten years, scientists have",
)
#: Layers × neurons: 5 % of those in the first ten layers push best in this model.
STEERING = {"rate": 0.05, "layers": "0-9", "source": "en", "factor": 1.0}
STRENGTH = 0.75


@pytest.fixture(scope="module")
def steering_set(gemma_stats: Stats) -> NeuronSet:
    return ns.detect(gemma_stats, method="effect", **STEERING)


def generated(gemma: Loaded, tokens: int) -> torch.Tensor:
    prompts = gemma.tokenizer(list(PROMPTS), return_tensors="pt", padding=True)
    out = gemma.model.generate(
        **prompts,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        # The model has read web pages with pictures, and likes to put one between two sentences.
        suppress_tokens=gemma.tokenizer.convert_tokens_to_ids(["<start_of_image>"]),
    )
    return out[:, prompts["input_ids"].shape[1] :]


def loss(gemma: Loaded, texts: Sequence[str]) -> float:
    total, count = 0.0, 0
    for text in texts:
        ids = gemma.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            found = gemma.model(ids).logits[:, :-1].log_softmax(-1)
        total -= found.gather(-1, ids[:, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    return total / count


def chinese_share(texts: Sequence[str]) -> float:
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return sum("CJK" in unicodedata.name(each, "") for each in letters) / max(len(letters), 1)


def test_an_attached_set_that_is_off_changes_no_bit(gemma: Loaded, steering_set: NeuronSet):
    prompts = gemma.tokenizer(list(PROMPTS), return_tensors="pt", padding=True)
    with torch.no_grad():
        before = gemma.model(**prompts).logits
        with ns.attach(gemma.model, steering_set) as steer:
            assert torch.equal(gemma.model(**prompts).logits, before)
            steer.to("zh")
            assert not torch.equal(gemma.model(**prompts).logits, before)
            steer.off()
            assert torch.equal(gemma.model(**prompts).logits, before)
        assert torch.equal(gemma.model(**prompts).logits, before)


def test_language_neurons_lie_in_the_first_layer_and_the_last(gemma_stats: Stats):
    neurons = ns.detect(gemma_stats, method="lape", rate=0.01)
    per_layer = torch.bincount(neurons.layer, minlength=18)
    assert all(neurons.counts[label] >= 5 for label in neurons.labels)
    assert per_layer[0] > 2 * per_layer[1:7].max()
    assert per_layer[0] + per_layer[12:].sum() > 0.7 * len(neurons)  # 7 layers of 18


def test_without_its_neurons_a_language_suffers_and_english_does_not(
    gemma: Loaded, gemma_stats: Stats, sentences: dict[str, list[str]]
):
    neurons = ns.detect(gemma_stats, method="lape", rate=0.01)
    held_out = {label: texts[FOR_DETECTION:] for label, texts in sentences.items()}
    plain = {label: loss(gemma, held_out[label]) for label in ("en", "fr", "ru")}
    with ns.attach(gemma.model, neurons) as steer:
        for label in ("fr", "ru"):
            steer.to(label, operation="zero")
            own = loss(gemma, held_out[label]) - plain[label]
            english = loss(gemma, held_out["en"]) - plain["en"]
            assert own > 0.7, label
            assert abs(english) < 0.3, label


def test_a_schedule_switches_at_its_token(gemma: Loaded, steering_set: NeuronSet):
    plain = generated(gemma, 30)
    with ns.attach(gemma.model, steering_set) as steer:
        steer.to(ns.Schedule(None, (10, "zh")), strength=STRENGTH)
        switched = generated(gemma, 30)
        assert [span[2] for span in steer.spans()] == [None, "zh"]
    assert torch.equal(switched[:, :10], plain[:, :10])
    before, after = (gemma.tokenizer.batch_decode(part) for part in (plain, switched[:, 14:]))
    assert chinese_share(before) < 0.05
    assert chinese_share(after) > 0.6, after


def test_bfloat16_gemma_is_steered_with_finite_numbers(steering_set: NeuronSet):
    gemma = load("gemma", torch.bfloat16)
    prompts = gemma.tokenizer(list(PROMPTS), return_tensors="pt", padding=True)
    with ns.attach(gemma.model, steering_set) as steer:
        steer.to("zh", strength=STRENGTH)
        out = gemma.model.generate(
            **prompts,
            max_new_tokens=16,
            min_new_tokens=16,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        assert any(layer["positions"] for layer in steer.report()["layers"])
    logits = torch.stack(out.logits)
    assert logits.isfinite().all() and logits.std() > 0
    written = out.sequences[:, prompts["input_ids"].shape[1] :]
    assert chinese_share(gemma.tokenizer.batch_decode(written, skip_special_tokens=True)) > 0.5


def test_a_set_tells_what_prompts_are_written_in(
    gemma: Loaded, gemma_stats: Stats, sentences: dict[str, list[str]]
):
    neurons = ns.detect(gemma_stats, method="effect", rate=0.05, layers="0-9", factor=1.0)
    assert neurons.source == "prompt"
    for language in ("ru", "de"):
        # Beginnings of sentences that the set was not made from.
        starts = [text[: len(text) // 2] for text in sentences[language][FOR_DETECTION:]]
        encoded = gemma.tokenizer(starts, return_tensors="pt", padding=True)
        with torch.no_grad(), ns.attach(gemma.model, neurons) as steer:
            steer.to("zh")
            read = gemma.model(**encoded).logits
            steer.to("zh", source=language)
            assert torch.equal(gemma.model(**encoded).logits, read)
            steer.to("zh", source="en")
            assert not torch.equal(gemma.model(**encoded).logits, read)


def test_the_ready_made_set_steers_from_any_language_and_in_the_middle(gemma: Loaded):
    identify = language_identifier(("en", "fr", "de", "ru", "es"))
    assert identify is not None

    def languages(rows: torch.Tensor) -> list[str | None]:
        return [identify(text) for text in gemma.tokenizer.batch_decode(rows)]

    with ns.attach(gemma.model, NeuronSet.from_pretrained("gemma")) as steer:
        steer.to(["fr", "de", "ru"])
        assert languages(generated(gemma, 24)) == ["fr", "de", "ru"]
        steer.to("es,16:ru")
        switched = generated(gemma, 48)
    assert languages(switched[:, :16]) == ["es"] * 3
    # Seven in eight are right from the eighth token on.
    assert languages(switched[:, 24:]).count("ru") >= 2
