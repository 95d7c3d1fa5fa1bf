"""Mixtures of experts: one flat index space per layer, every neuron computable by hand."""

import pytest
import torch
from torch.nn.functional import linear

from neuronsteer.models import diagnose, inspect, probe
from tests.models.watching import changing, watching
from tests.tiny_models import HIDDEN, MOE, tiny_ids, tiny_model


@pytest.fixture(params=MOE)
def anatomy(request):
    return inspect(tiny_model(request.param))


def routed_by_hand(block, hidden, top_k_index, top_k_weights, scale, shift):
    """The experts loop of exp3b, written with what `Experts` offers."""
    module, out = block.module, torch.zeros_like(hidden)
    for e in top_k_index.unique().tolist():
        token, slot = (top_k_index == e).nonzero(as_tuple=True)
        x, first, down = hidden[token], module.gate_up_proj[e], module.down_proj[e]
        fused = x @ first if module.is_transposed else linear(x, first)
        if module.has_bias:
            fused = fused + module.gate_up_proj_bias[e]
        neurons = block.act(block.gate(fused)) * block.up(fused)
        torch.testing.assert_close(neurons, module._apply_gate(fused), atol=1e-6, rtol=1e-5)
        assert torch.equal(block.gate(fused) > 0, block.act(block.gate(fused)) > 0)
        neurons = neurons * scale[e] + shift[e]
        y = neurons @ down if module.is_transposed else linear(neurons, down)
        if module.has_bias:
            y = y + module.down_proj_bias[e]
        out.index_add_(0, token, y * top_k_weights[token, slot, None])
    return out


def block_inputs(anatomy, layer=1):
    point = anatomy.hook_points("mlp.neuron")[layer]
    seen = {}

    def before(_, args, kwargs):
        seen.update(args=args if len(args) == 3 else (*args, *kwargs.values()))

    handle = point.module.register_forward_pre_hook(before, with_kwargs=True)
    with torch.no_grad():
        anatomy.root(tiny_ids())
    handle.remove()
    return point, seen["args"]


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
@torch.no_grad()
def test_the_loop_by_hand_equals_the_module(anatomy, implementation):
    anatomy.root.set_experts_implementation(implementation)
    point, args = block_inputs(anatomy)
    block = point.experts
    table = (block.num_experts, block.expert_width)
    got = routed_by_hand(block, *args, torch.ones(table), torch.zeros(table))
    torch.testing.assert_close(got, point.module(*args), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_zeroing_flat_indices_is_zeroing_columns_of_that_expert(anatomy):
    point, args = block_inputs(anatomy)
    block = point.experts
    flat = [block.flat(1, 5), block.flat(2, 0), block.flat(3, block.expert_width - 1)]
    scale = torch.ones(point.width)
    scale[flat] = 0
    routed, shared = block.split(scale)
    assert routed.shape == (block.num_experts, block.expert_width)
    assert (shared is None) == (block.shared is None)
    got = routed_by_hand(block, *args, routed, torch.zeros_like(routed))
    columns = routed[:, :, None] if block.module.is_transposed else routed[:, None, :]
    block.module.down_proj.mul_(columns)
    torch.testing.assert_close(got, block.module(*args), atol=1e-5, rtol=1e-4)


def test_widths(anatomy):
    config = anatomy.config
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    shared = getattr(config, "shared_expert_intermediate_size", 0)
    assert anatomy.is_moe
    assert anatomy.gated
    assert anatomy.widths == (4 * width + shared,) * 2
    for points in (
        anatomy.hook_points("mlp.neuron"),
        anatomy.hook_points("mlp.act"),
        anatomy.up_hook_points(),
    ):
        assert len(points) == 2
        for point in points:
            assert (point.side, point.width, point.tensor_width) == (
                "experts",
                4 * width + shared,
                width,
            )
            assert point.flattened
            assert anatomy.root.get_submodule(point.name) is point.module


def test_flat_index_round_trip(anatomy):
    block = anatomy.hook_points("mlp.neuron")[0].experts
    assert block.width == anatomy.width
    pairs = [block.locate(flat) for flat in range(block.width)]
    assert [block.flat(*pair) for pair in pairs] == list(range(block.width))
    assert pairs == sorted(pairs)
    assert pairs[block.expert_width] == (1, 0)


def test_probe_and_diagnose(anatomy):
    assert all(result.fired for result in probe(anatomy.root, anatomy))
    report = diagnose(anatomy.root)
    assert report["steerable"]
    assert report["problems"] == []
    assert report["experts"]["num_experts"] == 4
    assert report["sites"]["mlp.neuron"]["side"] == "experts"


def test_shared_expert_is_an_ordinary_mlp_without_batch_dimension():
    anatomy = inspect(tiny_model("qwen2_moe"))
    neuron, gate, up = (
        points[1].experts.shared
        for points in (
            anatomy.hook_points("mlp.neuron"),
            anatomy.hook_points("mlp.act"),
            anatomy.up_hook_points(),
        )
    )
    assert neuron.flattened
    assert neuron.width == 40
    ids = tiny_ids()
    with watching([neuron, gate, up]) as seen, torch.no_grad():
        plain = anatomy.root(ids).logits
    assert seen[neuron].shape == (ids.numel(), 40)
    g = anatomy.activation(seen[gate], 1)
    torch.testing.assert_close(g * seen[up], seen[neuron], atol=1e-6, rtol=1e-5)
    scale = torch.ones(40)
    scale[[0, 39]] = 0
    with changing(neuron, scale), torch.no_grad():
        hooked = anatomy.root(ids).logits
    with torch.no_grad():
        neuron.module.weight[:, [0, 39]] = 0
        assert torch.equal(anatomy.root(ids).logits, hooked)
    assert not torch.equal(plain, hooked)


def test_activation_of_routed_experts(anatomy):
    block = anatomy.hook_points("mlp.act")[0].experts
    fused = torch.randn(5, 2 * block.expert_width) * 4
    g = anatomy.activation(block.gate(fused))
    torch.testing.assert_close(g * block.up(fused), block.module._apply_gate(fused))


@pytest.mark.parametrize("model_type", ["qwen2_moe", "qwen3_moe"])
def test_dense_layers_between_sparse_ones(model_type):
    anatomy = inspect(tiny_model(model_type, layers=3, mlp_only_layers=[1]))
    sides = [point.side for point in anatomy.hook_points("mlp.neuron")]
    assert sides == ["experts", "input", "experts"]
    assert anatomy.widths[1] == 80
    assert anatomy.width == max(anatomy.widths)
    assert [point.side for point in anatomy.up_hook_points()] == ["experts", "output", "experts"]
    gate, up, neuron = (
        anatomy.hook_points("mlp.act")[1],
        anatomy.up_hook_points()[1],
        anatomy.hook_points("mlp.neuron")[1],
    )
    with watching([gate, up, neuron]) as seen, torch.no_grad():
        anatomy.root(tiny_ids())
    got = anatomy.activation(seen[gate], 1) * seen[up]
    torch.testing.assert_close(got, seen[neuron], atol=1e-6, rtol=1e-5)


def test_resid(anatomy):
    assert [point.width for point in anatomy.hook_points("resid")] == [HIDDEN, HIDDEN]
