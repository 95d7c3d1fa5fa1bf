"""Listening: all hooks or none, gone however the block ends."""

import dataclasses

import pytest
import torch

from neuronsteer.errors import HookError
from neuronsteer.models import inspect
from neuronsteer.models.readonly_hooks import listen
from tests.tiny_models import tiny_ids, tiny_model

from ..stats.material import hooks


def test_callbacks_get_the_neurons():
    model = tiny_model("phi3")
    anatomy = inspect(model)
    seen = []
    taps = [*anatomy.taps("mlp.neuron"), *anatomy.taps("mlp.act"), *anatomy.taps("resid")]
    with listen([(tap, lambda x, tap=tap: seen.append((tap, x.shape))) for tap in taps]) as ear:
        assert len(ear.silent()) == len(taps)
        with pytest.raises(HookError, match="did not fire"):
            ear.require()
        before = model(tiny_ids(2, 5)).logits
        ear.require()
    assert [(tap, shape) for tap, shape in seen if shape != (2, 5, tap.width)] == []
    assert len(seen) == len(taps)
    assert torch.equal(before, model(tiny_ids(2, 5)).logits)
    assert hooks(model) == 0


def test_nothing_is_left_after_an_exception():
    model = tiny_model("llama")
    tap = inspect(model).taps("mlp.neuron")[0]

    def fail(x):
        raise ValueError("in the callback")

    with pytest.raises(ValueError, match="in the callback"), listen([(tap, fail)]):
        model(tiny_ids())
    assert hooks(model) == 0


def test_a_bad_tap_leaves_no_hook():
    model = tiny_model("llama")
    taps = inspect(model).taps("mlp.neuron")
    bad = dataclasses.replace(taps[1], side="experts")
    with (
        pytest.raises(HookError, match="block of experts"),
        listen([(taps[0], print), (bad, print)]),
    ):
        pass
    assert hooks(model) == 0
