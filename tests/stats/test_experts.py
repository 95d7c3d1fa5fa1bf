"""Mixtures of experts: per expert, over the tokens that were routed to it."""

import pytest
import torch

import neuronsteer.stats as st
from neuronsteer.errors import LayoutError
from neuronsteer.models import inspect
from neuronsteer.models.expert_blocks import read_experts
from tests.tiny_models import MOE, tiny_model, tiny_tokenizer

from .material import corpus, hooks


def run(model, data, **options):
    return st.collect(model, tiny_tokenizer(), data, progress=False, **options)


def by_hand(model, rows):
    """Return per (layer, expert) the gate readings, activations, g of the counted tokens."""
    anatomy = inspect(model)
    seen: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
    points = anatomy.hook_points("mlp.act")
    for ids, counts in rows:
        keep = torch.tensor(counts)

        def listener(layer, block, keep=keep):
            def see(expert, fused, a, tokens):
                kept = keep[tokens]
                g = block.act(block.gate(fused))
                seen.setdefault((layer, expert), []).append((g[kept], a[kept]))

            return see

        calls = {point.experts.module: listener(point.layer, point.experts) for point in points}
        with torch.no_grad(), read_experts(calls):
            model.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False)
    return {
        key: tuple(torch.cat([part[i] for part in parts]) for i in (0, 1))
        for key, parts in seen.items()
    }


@pytest.mark.parametrize("family", MOE)
def test_counts_per_expert(family):
    model, tok, data = tiny_model(family), tiny_tokenizer(), corpus("a", "b", count=8)
    before = getattr(model.config, "_experts_implementation", None)
    stats = run(model, data)
    assert getattr(model.config, "_experts_implementation", None) == before
    assert hooks(model) == 0
    block = inspect(model).hook_points("mlp.act")[0].experts
    width = block.expert_width
    for k, label in enumerate(stats.labels):
        rows = [
            (ids, [t != tok.bos_token_id for t in ids]) for ids in tok(data[label])["input_ids"]
        ]
        want = by_hand(model, rows)
        for (layer, expert), (g, a) in want.items():
            part = slice(expert * width, (expert + 1) * width)
            assert stats.routed["mlp.act"][k, layer, expert] == len(g)
            assert torch.equal(stats.get("count", "mlp.act")[k, layer, part], (g > 0).sum(0))
            if len(g):
                share = (g > 0).double().mean(0)
                assert torch.allclose(stats.probabilities()[k, layer, part], share)
                assert torch.allclose(
                    stats.mean("mlp.neuron")[k, layer, part], a.mean(0), atol=1e-4, rtol=1e-4
                )
                assert torch.allclose(stats.max("mlp.act")[k, layer, part], g.amax(0), atol=1e-4)
        # Every token goes to two experts.
        assert (stats.routed["mlp.act"][k].sum(1) == 2 * stats.tokens[label]).all()
    if block.shared is not None:
        shared = stats.probabilities()[:, :, block.num_experts * width :]
        assert shared.shape[-1] == block.shared.width
        assert 0.2 < shared.mean() < 0.8


def test_round_trip_and_merge(tmp_path):
    model = tiny_model("qwen2_moe")
    left, right = run(model, corpus("a", count=5)), run(model, corpus("b", count=5))
    both = left.merge(right)
    assert both.routed["mlp.act"].shape == (2, 2, 4)
    again = st.Stats.load(both.save(tmp_path))
    assert torch.equal(again.probabilities().nan_to_num(-1), both.probabilities().nan_to_num(-1))
    assert again.only("b").routed["mlp.act"].shape == (1, 2, 4)


def test_an_expert_without_tokens_has_no_probability():
    model = tiny_model("mixtral", num_local_experts=8)
    stats = run(model, {"x": ["ab"]})
    idle = stats.routed["mlp.act"][0, 0] == 0
    assert idle.any()
    share = stats.probabilities()[0, 0].view(8, -1)
    assert share[idle].isnan().all()
    assert not share[~idle].isnan().any()
    assert (stats.mean("mlp.neuron")[0, 0].view(8, -1)[idle] == 0).all()
    assert (stats.max("mlp.neuron")[0, 0].view(8, -1)[idle] == 0).all()


def test_counts_do_not_depend_on_batch_size_in_bfloat16():
    model = tiny_model("mixtral", dtype=torch.bfloat16)
    data = corpus("a", count=20)
    first = run(model, data)
    for size in (1, 7):
        other = run(model, data, batch_size=size)
        off = (first.get("count", "mlp.act") - other.get("count", "mlp.act")).abs().sum()
        # A router that is undecided may send a token elsewhere in another batch.
        assert off <= 0.001 * first.get("count", "mlp.act").sum()


@pytest.mark.parametrize("reducer", ["responses", "texts", "last"])
def test_per_text_responses_are_refused(reducer):
    with pytest.raises(LayoutError, match="responses"):
        run(tiny_model("mixtral"), corpus("a", count=2), needs=[f"{reducer}@mlp.neuron"])
