"""Every model that `make real` lays out loads like any other, and its neurons are found."""

from __future__ import annotations

import pytest
import torch

from neuronsteer.models import inspect

from .conftest import Loaded

pytestmark = pytest.mark.real


def test_its_neurons_are_found(each: Loaded):
    anatomy = inspect(each.model)
    layers, width = each.recipe.neurons
    assert (anatomy.num_layers, anatomy.widths) == (layers, (width,) * layers)
    assert anatomy.gated
    assert {"mlp.act", "mlp.neuron", "resid"} <= set(anatomy.sites())


def test_it_predicts_english_better_than_the_same_words_in_disorder(each: Loaded):
    ids = each.tokenizer("The train was late, so we waited on the platform.", return_tensors="pt")
    right = ids["input_ids"][0]
    start = 1 if right[0] == each.tokenizer.bos_token_id else 0
    wrong = torch.cat([right[:start], right[start:].flip(0)])
    with torch.no_grad():
        losses = each.model(torch.stack([right, wrong])).logits[:, :-1].log_softmax(-1)
    found = [
        -row.gather(-1, s[1:, None]).mean() for row, s in zip(losses, (right, wrong), strict=True)
    ]
    assert found[0] + 1 < found[1]
