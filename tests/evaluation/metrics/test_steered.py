"""Metrics that compare a steered with an unsteered model: LSS, perplexity matrix, side effects."""

import math

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import LabelError, ParameterError
from neuronsteer.evaluation.metrics import metric
from neuronsteer.evaluation.metrics.lss import Fact

from ...steering.sets import toy_set
from ...tiny_models import tiny_model, tiny_tokenizer
from .texts import ENGLISH, FRENCH, JAPANESE

TEXTS = {"en": [ENGLISH, "A short one."], "fr": [FRENCH], "ja": [JAPANESE, "はい。"]}
PLACES = [("France", " Paris", " Lutèce"), ("Japan", " Tokyo", "東京"), ("Spain", " Madrid", " la")]
FACTS = [
    Fact(f"The capital of {country} is", "en", target, base_object, target_object)
    for target in ("fr", "ja")
    for country, base_object, target_object in PLACES
]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def steered():
    model = tiny_model()
    with ns.attach(model, toy_set(model)) as steer:
        yield model, steer


def unsteered(label):
    """A switch that switches nothing."""


# LSS


def test_lss_by_hand():
    score = metric("lss").compute([2.0, -1.0, 0.5, 0.0], [1.0, 0.0, 0.5, 0.0])
    assert score.value == 0.25
    assert score["shift"] == 0.0
    assert score["unmoved"] == 0.5
    assert score["chance"] == 0.5


def test_the_diagonal_is_left_out():
    with_it = metric("lss").compute(
        [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], ["en", "fr", "fr-CA"], ["fr", "fr", "fr"]
    )
    assert with_it.value == 1.0
    assert with_it.n == 1
    assert with_it["excluded"] == 2
    assert with_it.details["matrix"] == {"en": {"fr": {"lss": 1.0, "shift": 1.0, "n": 1}}}


def test_the_chance_line_is_the_binomial():
    from scipy.stats import binom

    for n in (1, 3, 10, 97, 1000):
        score = metric("lss").compute([1.0] * n, [0.0] * n)
        low = binom.ppf(0.025, n, 0.5)
        assert score["chance_low"] == pytest.approx(low / n)
        assert score["chance_high"] == pytest.approx((n - low) / n)


def test_lss_of_an_unsteered_model_is_zero(steered, tokenizer):
    model, _ = steered
    score = metric("lss").measure(model, tokenizer, FACTS, unsteered)
    assert score.value == 0
    assert score["shift"] == 0
    assert score["unmoved"] == 1


def test_lss_counts_facts_of_one_language_or_spelling_out(steered, tokenizer):
    model, steer = steered
    facts = [*FACTS, Fact("x", "fr", "fr", " a", " b"), Fact("x", "en", "fr", " a", " a")]
    score = metric("lss").measure(model, tokenizer, facts, steer)
    assert score.n == len(FACTS)
    assert score["excluded"] == 2


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_lss_of_a_steered_model(steered, tokenizer, padding, batch_size):
    model, steer = steered

    def odds(fact):
        return by_hand(fact.target_object, fact) - by_hand(fact.base_object, fact)

    def by_hand(continuation, fact):
        given = tokenizer(fact.prompt).input_ids
        ids = tokenizer(fact.prompt + continuation).input_ids
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logprobs[i - 1, ids[i]]) for i in range(len(given), len(ids)))

    before = [odds(fact) for fact in FACTS]
    after = [odds(fact) for fact in FACTS if steer.to(fact.target)]
    steer.off()
    score = metric("lss").measure(
        model, tokenizer, FACTS, steer, padding=padding, batch_size=batch_size
    )
    shifts = [b - a for a, b in zip(before, after, strict=True)]
    assert min(map(abs, shifts)) > 0.01, "the set does not move the toy model"
    assert score.value == sum(shift > 0 for shift in shifts) / len(shifts)
    assert score["shift"] == pytest.approx(sum(shifts) / len(shifts), rel=1e-3)
    assert steer.schedule.is_constant and str(steer.schedule) == str(ns.Schedule(None))


def test_the_model_is_unsteered_again_after_a_failure(steered, tokenizer):
    model, steer = steered
    ids = torch.tensor([tokenizer(ENGLISH).input_ids])
    before = model(ids).logits
    with pytest.raises(LabelError):
        metric("lss").measure(model, tokenizer, [*FACTS, Fact("x", "en", "xx", " a", " b")], steer)
    assert torch.equal(model(ids).logits, before)


# Perplexity matrix


def test_the_matrix_by_hand():
    score = metric("perplexity_matrix").compute(
        ["en", "en", "fr", "fr", "fr"],
        ["en", "fr", "en", "fr", "fr"],
        [30.0, 21.0, 20.0, 30.0, 9.0],
        [20.0, 20.0, 20.0, 20.0, 4.0],
        [10, 10, 10, 10, 2],
    )
    cell = score.details["matrix"]["fr"]["fr"]
    assert cell["nll"] == pytest.approx(39 / 12)
    assert cell["base_nll"] == pytest.approx(24 / 12)
    assert cell["delta_nll"] == pytest.approx(15 / 12)
    assert cell["perplexity"] == pytest.approx(math.exp(39 / 12))
    assert cell["delta_perplexity"] == pytest.approx(math.exp(39 / 12) - math.exp(2))
    assert cell["perplexity_ratio"] == pytest.approx(math.exp(15 / 12))
    assert score.value == 1.0
    assert score["chance"] == 0.5
    assert score["margin"] == pytest.approx((1.0 + 15 / 12) / 2 - (0.1 + 0.0) / 2)


def test_the_margin_has_an_interval_where_all_texts_were_read_alike():
    rises = {("a", "a"): [1.0, 3.0], ("a", "b"): [0, 0], ("b", "a"): [0, 0], ("b", "b"): [2.0, 2.0]}
    rows = [(off, on, 1.0 + rise, 1.0) for (off, on), some in rises.items() for rise in some]
    columns = [list(each) for each in zip(*rows, strict=True)]
    score = metric("perplexity_matrix").compute(*columns, [1] * 8)
    # Both texts of `a` may be the first, or the second.
    assert score["margin"] == 2.0
    assert score.intervals["margin"] == (1.5, 2.5)
    uneven = metric("perplexity_matrix").compute(*columns, [1, 2, 1, 1, 1, 1, 1, 1])
    assert "margin" not in uneven.intervals


def test_a_tie_does_not_dominate():
    columns = (["a", "a", "b", "b"], ["a", "b", "a", "b"], [2.0, 2.0, 1.0, 3.0], [1.0] * 4, [1] * 4)
    assert metric("perplexity_matrix").compute(*columns).value == 0.5


def test_the_matrix_of_a_model(steered, tokenizer):
    model, steer = steered
    found = metric("perplexity_matrix").measure(model, tokenizer, TEXTS, steer)

    def nats(label):
        total = tokens = 0
        for text in TEXTS[label]:
            ids = torch.tensor([tokenizer(text).input_ids])
            with torch.no_grad():
                loss = model(ids, labels=ids).loss.item()
            total, tokens = total + loss * (ids.shape[1] - 1), tokens + ids.shape[1] - 1
        return total / tokens

    base = {label: nats(label) for label in TEXTS}
    for off in TEXTS:
        steer.to(off, operation="zero")
        for on in TEXTS:
            cell = found.details["matrix"][off][on]
            assert cell["base_nll"] == pytest.approx(base[on], rel=1e-4)
            assert cell["nll"] == pytest.approx(nats(on), rel=1e-4)
            assert cell["delta_nll"] != 0
    steer.off()
    assert nats("en") == base["en"]


def test_the_matrix_does_not_depend_on_batches_or_padding(steered, tokenizer):
    model, steer = steered
    found = [
        metric("perplexity_matrix").measure(
            model, tokenizer, TEXTS, steer, batch_size=batch_size, padding=padding
        )
        for batch_size, padding in ((1, "right"), (8, "right"), (8, "left"))
    ]
    for other in found[1:]:
        for off, row in found[0].details["matrix"].items():
            for on, cell in row.items():
                same = other.details["matrix"][off][on]
                assert same["delta_nll"] == pytest.approx(cell["delta_nll"], abs=1e-4)
                assert same["tokens"] == cell["tokens"]


def test_the_matrix_of_an_unsteered_model_is_zero(steered, tokenizer):
    model, _ = steered
    found = metric("perplexity_matrix").measure(model, tokenizer, TEXTS, unsteered)
    assert found.value == 0
    assert found["margin"] == 0


def test_texts_without_tokens_are_refused():
    with pytest.raises(ParameterError, match="at least one scored token"):
        metric("perplexity_matrix").compute(["a"], ["a"], [1.0], [1.0], [0])


# Side effects


def test_side_effects_against_scipy():
    import numpy as np
    from scipy.special import softmax
    from scipy.stats import entropy

    generator = np.random.default_rng(0)
    after, before = generator.normal(size=(2, 6, 20))
    score = metric("side_effects", k=3).compute(after.tolist(), before.tolist())
    kl = entropy(softmax(before, -1), softmax(after, -1), axis=-1)
    assert score.value == pytest.approx(kl.mean())
    top = [
        len(set(np.argsort(a)[-3:]) & set(np.argsort(b)[-3:])) / 3
        for a, b in zip(after, before, strict=True)
    ]
    assert score["top_k_overlap"] == pytest.approx(np.mean(top))
    assert score["top_1_agreement"] == pytest.approx(np.mean(after.argmax(-1) == before.argmax(-1)))
    assert not score.higher_is_better


def test_an_unsteered_model_has_no_side_effects(steered, tokenizer):
    model, _ = steered
    score = metric("side_effects").measure(model, tokenizer, TEXTS, unsteered)
    assert score.value == 0
    assert score["top_k_overlap"] == score["top_1_agreement"] == 1


def test_side_effects_of_a_model(steered, tokenizer):
    model, steer = steered
    runs = [
        metric("side_effects").measure(
            model, tokenizer, TEXTS, steer, labels=["fr"], batch_size=batch_size, padding=padding
        )
        for batch_size, padding in ((1, "right"), (4, "right"), (4, "left"))
    ]
    for score in runs:
        assert score.value == pytest.approx(runs[0].value, rel=1e-3)
        assert score["tokens"] == runs[0]["tokens"]
    assert runs[0].value > 0.01
    # French text under French steering is the purpose: in the matrix, not in the headline.
    matrix = runs[0].details["matrix"]["fr"]
    assert set(matrix) == set(TEXTS)
    rest = [matrix["en"], matrix["ja"]]
    assert runs[0].value == pytest.approx(
        sum(c["kl"] * c["tokens"] for c in rest) / sum(c["tokens"] for c in rest)
    )
    ids = torch.tensor([tokenizer(FRENCH).input_ids])
    with torch.no_grad():
        before = model(ids).logits[0, :-1].double().log_softmax(-1)
        steer.to("fr")
        after = model(ids).logits[0, :-1].double().log_softmax(-1)
    total = torch.nn.functional.kl_div(after, before, reduction="batchmean", log_target=True)
    assert matrix["fr"]["kl"] == pytest.approx(total.item(), rel=1e-3)


def test_impossible_tokens_do_not_poison_the_divergence():
    score = metric("side_effects", k=1).compute([[0.0, -math.inf]], [[0.0, -math.inf]])
    assert score.value == 0
