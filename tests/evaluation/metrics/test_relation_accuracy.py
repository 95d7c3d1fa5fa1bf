"""Relation accuracy: against counting by hand, and on a model whose facts sit in known neurons."""

from __future__ import annotations

import pytest
import torch

from neuronsteer.errors import ParameterError
from neuronsteer.evaluation.metrics import metric
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.steering.steerer import attach
from tests.tiny_models import tiny_model, tiny_tokenizer

# relation off, relation of the fact, right with it off, right before
ITEMS = [
    ("capital", "capital", 0, 1),
    ("capital", "capital", 0, 1),
    ("capital", "capital", 1, 1),
    ("capital", "capital", 0, 0),
    ("capital", "author", 1, 1),
    ("capital", "author", 1, 0),
    ("author", "author", 0, 1),
    ("author", "author", 0, 0),
    ("author", "capital", 1, 1),
    ("author", "capital", 0, 1),
    ("author", "capital", 1, 1),
    ("author", "capital", 0, 0),
]


def test_counts_as_by_hand():
    score = metric("relation_accuracy").compute(*(list(c) for c in zip(*ITEMS, strict=True)))
    # capital off: own 3/4 -> 1/4, author 1/2 -> 2/2; author off: own 1/2 -> 0, capital 3/4 -> 2/4.
    assert score["intra"] == pytest.approx((1 / 4 + 0) / 2)
    assert score["inter"] == pytest.approx((1 + 1 / 2) / 2)
    assert score["intra_drop"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert score["inter_drop"] == pytest.approx((-1 / 2 + 1 / 4) / 2)
    assert score["specificity"] == pytest.approx((1 / 2 + 1 / 2) / 2 - (-1 / 2 + 1 / 4) / 2)
    assert score.details["matrix"]["capital"]["author"]["drop"] == pytest.approx(-1 / 2)
    assert score.details["by_relation"]["author"] == pytest.approx(1 / 2 - 1 / 4)


def test_refuses_what_is_no_comparison():
    scorer = metric("relation_accuracy")
    with pytest.raises(ParameterError, match="of another relation"):
        scorer.compute(["a"], ["a"], [1], [1])
    with pytest.raises(ParameterError, match="right"):
        scorer.compute(["a", "a"], ["a", "b"], [0.5, 1], [1, 1])


def test_reads_a_model_s_facts_and_what_switching_off_costs():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    # The facts are what the model says now, so every one of them is known.
    words = [x + y + z for x in "abcxyz" for y in "abcxyz" for z in "abcxyz"]
    known = [(word, said) for word in words if (said := _next(model, tokenizer, word))]
    assert len(known) >= 4
    facts = {"a": known[::2][:3], "b": known[1::2][:3]}
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    everything = NeuronSet.from_rows(
        ("a", "b"),
        [k for k in (0, 1) for _ in range(layers * width)],
        [layer for _ in (0, 1) for layer in range(layers) for _ in range(width)],
        [n for _ in (0, 1) for _ in range(layers) for n in range(width)],
        site="mlp.neuron",
        num_layers=layers,
        width=width,
        operation={"name": "zero"},
    )
    scorer = metric("relation_accuracy")
    with attach(model, everything) as steer:
        score = scorer.measure(model, tokenizer, facts, steer)
        matrix = score.details["matrix"]
        assert all(cell["before"] == 1 for row in matrix.values() for cell in row.values())
        # The same neurons for both relations: nothing is specific.
        assert matrix["a"] == matrix["b"]
        untouched = scorer.measure(model, tokenizer, facts, lambda _label: None)
    assert untouched["intra_drop"] == untouched["inter_drop"] == 0


def _next(model, tokenizer, prompt):
    """Return the text of the likeliest next token, if it is tokenised as that token there."""
    ids = tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
    text = tokenizer.decode([token])
    return text if tokenizer(prompt + text)["input_ids"] == [*ids, token] else ""
