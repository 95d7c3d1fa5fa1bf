"""CRANE: kurtosis and rules against NumPy, relevance against finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronsteer.detectors import detect, detector
from neuronsteer.errors import LayoutError, ParameterError, StatsError
from neuronsteer.models import inspect
from neuronsteer.stats import collect

from ..tiny_models import tiny_model, tiny_tokenizer
from .material import measured, rows_of


def reference(documents, rule, threshold, rate, margin):
    """`documents`: `[labels, documents, layers, width]`; one label and unit after the other."""
    scores = []
    for label in documents:
        flat = label.reshape(len(label), -1)
        excess = []
        for values in flat.T:
            gap = values - values.mean()
            variance = (gap**2).mean()
            flat_out = variance <= 1e-10 * (values**2).mean()
            excess.append(np.nan if flat_out else (gap**4).mean() / variance**2 - 3)
        excess = np.array(excess)
        known = excess[~np.isnan(excess)]
        spread = known.std() if len(known) else 0.0
        z = (
            (excess - known.mean()) / spread
            if spread > 1e-12
            else np.where(np.isnan(excess), np.nan, 0.0)
        )
        scores.append(z)
    width, found = documents.shape[3], {}
    for k, z in enumerate(scores):
        order = sorted((n for n in range(len(z)) if not np.isnan(z[n])), key=lambda n: -z[n])
        best = set(order[: max(1, round(rate * len(z)))])
        for n in order:
            others = [s[n] for j, s in enumerate(scores) if j != k and not np.isnan(s[n])]
            taken = {
                "z": z[n] > threshold,
                "top_p": n in best,
                "margin": z[n] > threshold and all(z[n] - other >= margin for other in others),
            }[rule]
            if taken:
                found[k, n // width, n % width] = z[n]
    return found


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(low, high)) for low, high in ((2, 4), (4, 9), (1, 3), (1, 9)))
    documents = rng.standard_t(3, size=shape)
    if draw(st.booleans()):
        documents[..., rng.integers(shape[3])] = rng.normal()  # a unit that never varies
    if draw(st.booleans()):
        documents[:] = documents[:1]  # all labels alike
    return documents.astype(np.float32).astype(np.float64)


@settings(max_examples=150, deadline=None)
@given(
    cases(),
    st.sampled_from(["z", "top_p", "margin"]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([0.1, 0.7]),
)
def test_equals_the_rule(documents, rule, threshold, rate, margin):
    stats = measured(torch.tensor(documents, dtype=torch.float32), "relevance_moments")
    neurons = detect(stats, "crane", rule=rule, threshold=threshold, rate=rate, margin=margin)
    expected = reference(documents, rule, threshold, rate, margin)
    got = {
        tuple(int(c[row]) for c in (neurons.label, neurons.layer, neurons.index)): float(score)
        for row, score in enumerate(neurons.score)
    }
    # Where rounding decides, either answer is right.
    for place in got.keys() ^ expected.keys():
        value = got.get(place, expected.get(place))
        assert rule != "z" or abs(value - threshold) < 1e-6, place
        assert rule == "z" or len(got) == len(expected) or abs(value - threshold) < 1e-6
    for place in got.keys() & expected.keys():
        assert got[place] == pytest.approx(expected[place], abs=1e-4)


def test_ties_go_to_the_lower_unit():
    documents = np.random.default_rng(0).normal(size=(2, 6, 1, 1)).repeat(8, axis=3)
    documents[..., 5] *= [[[1]], [[1]]]
    documents[:, 0, :, 6:] += 50  # two units with one great text each
    stats = measured(torch.tensor(documents, dtype=torch.float32), "relevance_moments")
    neurons = detect(stats, "crane", rule="top_p", rate=1 / 8)
    assert {row[2] for row in rows_of(neurons)} <= {6, 7}


def test_the_header_holds_a_control_of_the_same_size():
    documents = torch.randn(3, 20, 2, 50, generator=torch.Generator().manual_seed(0))
    documents[:, 0, 0, :3] += 30
    neurons = detect(measured(documents, "relevance_moments"), "crane")
    found = neurons.method["results"]["relevance"]
    for name in neurons.labels:
        assert found[name]["selected"] > found[name]["random"] + 3 * found[name]["random_std"]
        assert 0 <= found[name]["random"] <= 1


def mean_logit(model, ids):
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    picked = logits.gather(1, ids[0, 1:, None])[:, 0]
    return float(picked.mean())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt"])
@pytest.mark.parametrize("site", ["mlp.neuron", "mlp.act", "attn.v"])
def test_relevance_is_the_effect_of_a_small_change(family, site):
    """Value times gradient is how fast the logits change when the unit is scaled."""
    model = tiny_model(family, dtype=torch.float64)
    tokenizer, text = tiny_tokenizer(bos=False), "one two three"
    needs = [f"relevance_moments@{site}"]
    stats = collect(model, tokenizer, {"a": [text]}, needs=needs, progress=False)
    ids = tokenizer(text, return_tensors="pt").input_ids
    for layer in range(2):
        point = inspect(model).hook_points(site)[layer]
        columns = torch.arange(point.tensor_width)
        columns = columns if point.columns is None else columns[point.columns]
        for unit in range(0, point.width, 13):

            def scaled(factor, column=int(columns[unit]), point=point):
                def change(_m, args, *rest):
                    value = (rest[0] if rest else args[0]).clone()
                    value[..., column] *= factor
                    return value if rest else (value,)

                hook = point.module.register_forward_hook
                if point.side == "input":
                    hook = point.module.register_forward_pre_hook
                handle = hook(change)
                found = mean_logit(model, ids)
                handle.remove()
                return found

            want = (scaled(1 + 1e-3) - scaled(1 - 1e-3)) / 2e-3
            got = float(stats.get("relevance_moments", site)[0, layer, unit, 0])
            assert got == pytest.approx(want, rel=5e-3, abs=5e-4)


def test_the_released_variant_sums_the_gradient_of_a_row():
    model, tokenizer, texts = tiny_model(), tiny_tokenizer(bos=False), ["one two", "ñandú", "x y"]
    needs = ["row_gradient_moments@mlp.neuron", "row_gradient_moments@mlp.act"]
    stats = collect(model, tokenizer, {"a": texts}, needs=needs, progress=False)
    want = {"mlp.neuron": torch.zeros(2, 80), "mlp.act": torch.zeros(2, 80)}
    for text in texts:
        model.zero_grad()
        ids = tokenizer(text, return_tensors="pt").input_ids
        logits = model(ids).logits[0, :-1]
        logits.gather(1, ids[0, 1:, None]).mean().backward()
        for layer, block in enumerate(model.model.layers):
            want["mlp.neuron"][layer] += block.mlp.up_proj.weight.grad.sum(1) ** 2
            want["mlp.act"][layer] += block.mlp.gate_proj.weight.grad.sum(1) ** 2
    model.zero_grad(set_to_none=True)
    for site, expected in want.items():
        got = stats.get("row_gradient_moments", site)[0, ..., 1].float()
        assert torch.allclose(got, expected, rtol=1e-3, atol=1e-6)


def test_batches_and_memory_do_not_matter():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    texts = {"a": [f"{'one ' * n}two" for n in range(1, 9)]}
    first = collect(model, tokenizer, texts, needs=detector("crane"), progress=False)
    other = collect(model, tokenizer, texts, needs=detector("crane"), progress=False, batch_size=1)
    need = detector("crane").needs[0]
    assert torch.allclose(first.arrays[need], other.arrays[need], rtol=1e-3, atol=1e-9)
    # Whatever the number of texts, four numbers are kept of each unit.
    assert first.arrays[need].shape == (1, 2, 80, 4)


def test_frozen_and_half_precision_models():
    model = tiny_model(dtype=torch.bfloat16).requires_grad_(False)
    texts = {"a": ["one two", "three", "four five", "six seven"], "b": ["ñu", "año", "la ñ", "eñe"]}
    stats = collect(model, tiny_tokenizer(), texts, needs=detector("crane"), progress=False)
    assert stats.get("relevance_moments", "mlp.neuron").abs().sum() > 0
    assert not any(p.requires_grad for p in model.parameters())
    assert len(detect(stats, "crane", threshold=0.0))


def test_mistakes():
    for wrong, message in (
        ({"rule": "gap"}, "rule='gap'"),
        ({"rate": 0}, "rate=0"),
        ({"margin": -1.0}, "margin"),
        ({"threshold": float("nan")}, "threshold"),
        ({"site": "mlp"}, "site='mlp'"),
        ({"variant": "x"}, "variant='x'"),
    ):
        with pytest.raises(ParameterError, match=message):
            detector("crane", **wrong)
    few = measured(torch.rand(2, 3, 1, 5), "relevance_moments")
    with pytest.raises(StatsError, match="at least 4"):
        detect(few, "crane")
    one = measured(torch.rand(1, 6, 1, 5), "relevance_moments")
    with pytest.raises(StatsError, match="margin"):
        detect(one, "crane", rule="margin")
    with pytest.raises(LayoutError, match="experts"):
        collect(tiny_model("mixtral"), tiny_tokenizer(), {"a": ["x"]}, needs=detector("crane"))
