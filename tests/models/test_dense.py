"""Every dense family: hook points see the neurons, and changing them is changing the weights."""

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from neuronsteer.models import LAYOUTS, inspect, probe
from tests.models.watching import changing, watching
from tests.tiny_models import ALL_FAMILIES, DENSE, GATED, HIDDEN, tiny_ids, tiny_model

WIDTH_FIELD = {
    "gpt2": "n_inner",
    "gptj": "n_inner",
    "opt": "ffn_dim",
    "xglm": "ffn_dim",
    "falcon": "ffn_hidden_size",
}


@pytest.fixture(params=DENSE)
def anatomy(request):
    return inspect(tiny_model(request.param))


@torch.no_grad()
def logits(anatomy):
    ids = tiny_ids()
    return anatomy.root(ids, attention_mask=torch.ones_like(ids)).logits


def test_every_row_of_the_table_has_a_tiny_model():
    assert set(LAYOUTS.names()) == set(ALL_FAMILIES)


def test_neurons_are_activation_times_up_and_the_gate_has_their_sign(anatomy):
    neuron, gate, up = (
        anatomy.hook_points("mlp.neuron"),
        anatomy.hook_points("mlp.act"),
        anatomy.up_hook_points(),
    )
    with watching([*neuron, *gate, *up]) as seen:
        logits(anatomy)
    assert anatomy.gated == (anatomy.model_type in GATED)
    assert len(up) == (anatomy.num_layers if anatomy.gated else 0)
    for layer in range(anatomy.num_layers):
        g = anatomy.activation(seen[gate[layer]], layer)
        a = seen[neuron[layer]]
        want = g * seen[up[layer]] if up else g
        torch.testing.assert_close(a, want, atol=1e-6, rtol=1e-5)
        assert torch.equal(seen[gate[layer]] > 0, g > 0)
        if up:
            # The same from what the model computed, without our activation function. Where u is
            # tiny the product may underflow, so those few are left out.
            u = seen[up[layer]]
            clear = (u.abs() > 1e-3) & (g.abs() > 1e-3)
            assert torch.equal((a * u > 0)[clear], (seen[gate[layer]] > 0)[clear])


def test_zeroing_by_hook_is_zeroing_weight_columns(anatomy):
    point = anatomy.hook_points("mlp.neuron")[1]
    chosen = [0, 3, point.width - 1]
    scale = torch.ones(point.width)
    scale[chosen] = 0
    plain = logits(anatomy)
    with changing(point, scale):
        hooked = logits(anatomy)
    with torch.no_grad():
        weight = point.module.weight
        if isinstance(point.module, Conv1D):
            weight[chosen] = 0
        else:
            weight[:, chosen] = 0
    assert torch.equal(logits(anatomy), hooked)
    assert not torch.allclose(plain, hooked)


def test_width_is_the_configs(anatomy):
    config = anatomy.config
    if anatomy.model_type in ("bloom", "mpt"):
        width = 4 * config.hidden_size
    else:
        width = getattr(config, WIDTH_FIELD.get(anatomy.model_type, "intermediate_size"))
    assert anatomy.widths == (width,) * config.num_hidden_layers
    assert anatomy.width == width
    assert anatomy.hidden_size == HIDDEN
    assert not anatomy.is_moe
    for point in (
        *anatomy.hook_points("mlp.neuron"),
        *anatomy.hook_points("mlp.act"),
        *anatomy.up_hook_points(),
    ):
        assert point.width == width
        assert point.flattened == (anatomy.model_type == "opt")


def test_every_hook_fires_with_the_width_of_the_point(anatomy):
    results = probe(anatomy.root, anatomy)
    assert {result.site for result in results} == set(anatomy.sites())
    assert all(result.fired and result.calls == 1 for result in results), results
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in anatomy.root.modules())


def test_names_are_paths_from_the_root(anatomy):
    for site in anatomy.sites():
        for point in anatomy.hook_points(site):
            assert anatomy.root.get_submodule(point.name) is point.module


def test_resid_is_what_the_next_layer_gets(anatomy):
    first = anatomy.hook_points("resid")[0]
    got = {}
    following = anatomy.layers[1]
    handle = following.register_forward_pre_hook(
        lambda _, args, kwargs: got.update(x=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    with watching([first]) as seen:
        logits(anatomy)
    handle.remove()
    assert torch.equal(seen[first], got["x"])


def test_decoder_runs_the_layers_without_the_head(anatomy):
    point = anatomy.hook_points("mlp.neuron")[-1]
    with watching([point]) as seen, torch.no_grad():
        logits(anatomy)
        whole = seen.pop(point)
        out = anatomy.decoder()(tiny_ids(), attention_mask=torch.ones_like(tiny_ids()))
    assert out.last_hidden_state.shape == (*tiny_ids().shape, HIDDEN)
    torch.testing.assert_close(seen[point], whole)


def test_residual_rule(anatomy):
    """A constant from the down projection, and the same constant after the layer."""
    down, resid = anatomy.hook_points("mlp.neuron")[0], anatomy.hook_points("resid")[0]
    constant = torch.linspace(-1, 1, HIDDEN)
    handle = down.module.register_forward_hook(lambda _, __, out: out + constant)
    inside = logits(anatomy)
    handle.remove()
    factor = anatomy.layout.residual_factor(anatomy.config)
    with changing(resid, torch.ones(HIDDEN), constant * (1.0 if factor is None else factor)):
        after = logits(anatomy)
    equal = torch.allclose(inside, after, atol=1e-4)
    assert equal == (factor is not None)


BIAS_FLAGS = ("mlp_bias", "use_mlp_bias", "use_bias", "bias", "enable_bias", "no_bias")


@pytest.mark.parametrize("model_type", DENSE)
def test_bias_rule(model_type):
    """No config flag may give or take a bias that the rule does not know about."""
    rule = LAYOUTS.get(model_type).bias
    default = tiny_model(model_type).config
    flags = [f for f in BIAS_FLAGS if isinstance(getattr(default, f, None), bool)]
    if rule.when == "config":
        assert rule.field in flags
    for overrides in [{}, *({f: not getattr(default, f)} for f in flags)]:
        anatomy = inspect(tiny_model(model_type, **overrides))
        bias = anatomy.hook_points("mlp.neuron")[0].module.bias
        assert rule.present(anatomy.config) == (bias is not None), overrides


def test_granite_residual_multiplier():
    model = tiny_model("granite", residual_multiplier=0.3)
    assert inspect(model).layout.residual_factor(model.config) == 0.3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    anatomy = inspect(tiny_model("llama", dtype=dtype))
    gate = anatomy.hook_points("mlp.act")
    with watching(gate) as seen:
        logits(anatomy)
    assert all(seen[point].dtype == dtype for point in gate)
    assert anatomy.activation(seen[gate[0]]).dtype == dtype
