"""What the MLP as a whole hands on, compared with a hook on what the family calls its MLP."""

import pytest
import torch

from neuronsteer.models import inspect, probe
from tests.models.test_unknown import UNKNOWN, as_unknown, build
from tests.models.watching import changing, watching
from tests.tiny_models import ALL_FAMILIES, DENSE, HIDDEN, tiny_ids, tiny_model

# A factor that differs from 1 shows whether the reading comes before it.
MORE = {"granite": {"residual_multiplier": 0.22}}
MODULES = {"lfm2": "feed_forward", "mpt": "ffn", "opt": "fc2", "xglm": "fc2"}
# Their MLP gets the residual stream as its second argument and adds it.
ADD_RESIDUAL = ("bloom", "mpt")


def check(model, module_name):
    """A reading is the module's output, and adding there is adding to the module's output."""
    anatomy = inspect(model)
    points = anatomy.hook_points("mlp.out")
    assert [point.layer for point in points] == list(range(anatomy.num_layers))
    assert {(point.site, point.side, point.width) for point in points} == {
        ("mlp.out", "output", HIDDEN)
    }
    assert all(anatomy.root.get_submodule(p.name) is p.module for p in points)
    assert all(result.fired for result in probe(model, anatomy, ["mlp.out"]))
    module, seen = anatomy.layers[1].get_submodule(module_name), {}
    constant = torch.linspace(-1, 1, HIDDEN)

    def after(_, args, output):
        whole = output[0] if isinstance(output, tuple) else output
        seen["out"] = (whole - args[1] if anatomy.model_type in ADD_RESIDUAL else whole).clone()

    def add(_, __, output):
        if isinstance(output, tuple):
            return (output[0] + constant, *output[1:])
        return output + constant

    with torch.no_grad():
        with watching([points[1]]) as read:
            handle = module.register_forward_hook(after)
            plain = model(tiny_ids()).logits
            handle.remove()
        assert read[points[1]].numel() == tiny_ids().numel() * HIDDEN
        got = read[points[1]].view_as(seen["out"])
        torch.testing.assert_close(got, seen["out"], atol=2e-5, rtol=1e-4)
        handle = module.register_forward_hook(add)
        want = model(tiny_ids()).logits
        handle.remove()
        with changing(points[1], torch.ones(HIDDEN), constant):
            torch.testing.assert_close(model(tiny_ids()).logits, want, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, want, atol=1e-3)


@pytest.mark.parametrize("model_type", ALL_FAMILIES)
def test_every_family(model_type):
    model = tiny_model(model_type, **MORE.get(model_type, {}))
    check(model, MODULES.get(model_type, "mlp"))


@pytest.mark.parametrize("model_type", [name for name in DENSE if name not in ADD_RESIDUAL])
def test_the_shape_rule_finds_the_same_place(model_type):
    model = tiny_model(model_type, **MORE.get(model_type, {}))
    check(as_unknown(model), MODULES.get(model_type, "mlp"))


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_families_without_a_row(model_type):
    named = {"biogpt": "fc2"}
    check(build(model_type, UNKNOWN[model_type][0]), named.get(model_type, "mlp"))


@pytest.mark.parametrize("model_type", ["qwen2_moe", "qwen3_moe"])
def test_dense_layers_between_sparse_ones(model_type):
    check(tiny_model(model_type, layers=3, mlp_only_layers=[1]), "mlp")
