"""Where q, k and v are, identified by effect and not by name."""

import pytest
import torch

from neuronsteer.models import inspect, probe
from tests.models.watching import changing
from tests.tiny_models import ALL_FAMILIES, HEADS, HIDDEN, tiny_ids, tiny_model

VARIANTS = [
    *((name, {}) for name in ALL_FAMILIES),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("falcon", {"multi_query": False}),
    ("falcon", {"multi_query": False, "alibi": True}),
    ("llama", {"head_dim": 16}),
    ("phi3", {"num_key_value_heads": 4}),
]
IDS = [name + "".join(f"-{k}" for k in extra) for name, extra in VARIANTS]


@pytest.fixture(params=VARIANTS, ids=IDS)
def anatomy(request):
    name, extra = request.param
    return inspect(tiny_model(name, attn_implementation="eager", **extra))


@torch.no_grad()
def run(anatomy):
    """Return (input of the last layer's output projection, logits)."""
    seen = {}
    handle = anatomy.hook_points("attn.o")[-1].module.register_forward_pre_hook(
        lambda _, args: seen.update(x=args[0].clone())
    )
    ids = tiny_ids()
    logits = anatomy.root(ids, attention_mask=torch.ones_like(ids)).logits
    handle.remove()
    return seen["x"], logits


def zeroed(anatomy, site, neurons=None):
    point = anatomy.hook_points(site)[-1]
    scale = torch.ones(point.width)
    scale[slice(None) if neurons is None else neurons] = 0
    with changing(point, scale):
        return run(anatomy)


def test_zero_v_leaves_nothing_and_zero_q_is_zero_k(anatomy):
    _, plain = run(anatomy)
    v, without_v = zeroed(anatomy, "attn.v")
    q, without_q = zeroed(anatomy, "attn.q")
    k, _ = zeroed(anatomy, "attn.k")
    assert v.abs().max() == 0
    torch.testing.assert_close(q, k, atol=1e-5, rtol=1e-4)
    assert q.abs().max() > 0
    assert (without_v - plain).abs().max() > 1e-3
    assert (without_q - plain).abs().max() > 1e-4


def test_v_neurons_are_in_head_order(anatomy):
    """One v neuron feeds its column in each query head of its group, and no other."""
    point = anatomy.hook_points("attn.v")[-1]
    plain, _ = run(anatomy)
    size = plain.shape[-1] // HEADS
    group = HEADS // (point.width // size)
    for neuron in {0, 1, size, point.width - 1} & set(range(point.width)):
        head, column = divmod(neuron, size)
        without, _ = zeroed(anatomy, "attn.v", [neuron])
        changed = (without != plain).flatten(0, -2).any(0).nonzero().flatten().tolist()
        assert changed == [(head * group + i) * size + column for i in range(group)]
        assert without[..., changed].abs().max() == 0


def test_o_is_the_output_projection(anatomy):
    point = anatomy.hook_points("attn.o")[-1]
    assert point.width == HIDDEN
    _, plain = run(anatomy)
    _, without = zeroed(anatomy, "attn.o")
    assert not torch.allclose(plain, without)


def test_hooks_fire(anatomy):
    results = probe(anatomy.root, anatomy, ["attn.q", "attn.k", "attn.v", "attn.o"])
    assert results
    assert all(result.fired for result in results)


def test_layers_without_attention_have_no_attention_points():
    anatomy = inspect(tiny_model("lfm2", layers=3))
    assert [point.layer for point in anatomy.hook_points("attn.q")] == [1, 2]
    assert [point.layer for point in anatomy.hook_points("mlp.neuron")] == [0, 1, 2]
