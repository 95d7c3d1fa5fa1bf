"""Read-only hooks: all of them or none, gone however the block ends."""

import dataclasses

import pytest
import torch

from neuronsteer.errors import HookError
from neuronsteer.models import inspect
from neuronsteer.models.readonly_hooks import read_activations
from tests.tiny_models import tiny_ids, tiny_model

from ..stats.material import hooks


def test_callbacks_get_the_neurons():
    model = tiny_model("phi3")
    anatomy = inspect(model)
    seen = []
    points = [
        *anatomy.hook_points("mlp.neuron"),
        *anatomy.hook_points("mlp.act"),
        *anatomy.hook_points("resid"),
    ]
    with read_activations(
        [(point, lambda x, point=point: seen.append((point, x.shape))) for point in points]
    ) as calls:
        assert len(calls.missing()) == len(points)
        with pytest.raises(HookError, match="did not fire"):
            calls.require_all()
        before = model(tiny_ids(2, 5)).logits
        calls.require_all()
    assert [(point, shape) for point, shape in seen if shape != (2, 5, point.width)] == []
    assert len(seen) == len(points)
    assert torch.equal(before, model(tiny_ids(2, 5)).logits)
    assert hooks(model) == 0


def test_nothing_is_left_after_an_exception():
    model = tiny_model("llama")
    point = inspect(model).hook_points("mlp.neuron")[0]

    def fail(x):
        raise ValueError("in the callback")

    with pytest.raises(ValueError, match="in the callback"), read_activations([(point, fail)]):
        model(tiny_ids())
    assert hooks(model) == 0


def test_a_bad_hook_point_leaves_no_hook():
    model = tiny_model("llama")
    points = inspect(model).hook_points("mlp.neuron")
    bad = dataclasses.replace(points[1], side="experts")
    with (
        pytest.raises(HookError, match="block of experts"),
        read_activations([(points[0], print), (bad, print)]),
    ):
        pass
    assert hooks(model) == 0
