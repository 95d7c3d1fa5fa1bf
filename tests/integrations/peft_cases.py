"""A tiny model with a neuron set, and what the hook path says about it."""

from __future__ import annotations

import torch

from neuronsteer.steering.steerer import attach
from tests.steering.sets import toy_set
from tests.tiny_models import tiny_ids, tiny_model

OPERATIONS = [
    {"name": "zero"},
    {"name": "scale", "factor": 3.0},
    {"name": "set", "value": "mean"},
    {"name": "add", "value": "diffmean", "factor": 2.0},
]
# A bias-free gated family, one with biases, Conv1D, a flattened MLP, fused gate and up.
FAMILIES = ("llama", "qwen2", "phi", "gpt2", "opt", "phi3", "gemma2", "bloom")
IDS = tiny_ids(batch=2, length=7)


def by_name(operation):
    return operation["name"]


def logits(model, ids=IDS, **kwargs):
    with torch.no_grad():
        return model(ids, **kwargs).logits


def by_hooks(model, neurons, target, operation=None, call=logits, **kwargs):
    """Return what `call(model)` gives while the hooks steer to `target`."""
    with attach(model, neurons) as steer:
        steer.to(target, operation=operation, prompt=True)
        return call(model, **kwargs)


def changed(model, neurons, label, **kwargs):
    """Return the steered logits, after checking that they are not the model's own."""
    found = by_hooks(model, neurons, label, **kwargs)
    assert not torch.allclose(found, logits(model), atol=1e-2)
    return found


def case(family="llama", **header):
    """Return `(model, set)`; the set's layers are fewer than the model's."""
    model = tiny_model(family, layers=3)
    neurons = toy_set(model, **header)
    return model, neurons.take(neurons.layer != 1, neurons.labels)


def fresh(family="llama", **kwargs):
    return tiny_model(family, layers=3, **kwargs)
