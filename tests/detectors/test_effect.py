"""Effect against a slow, obvious reference; and whether it steers where chance does not."""

import dataclasses

import numpy as np
import pytest
import torch

import neuronsteer as ns
from neuronsteer.cli.models import load_model
from neuronsteer.demo.language_identifier import language_identifier
from neuronsteer.demo.sentences import LANGUAGES, texts
from neuronsteer.detectors import detect
from neuronsteer.detectors.effect import Effect
from neuronsteer.errors import LabelError, ParameterError, StatsError
from neuronsteer.stats import DEFAULT_NEEDS, Need, Stats, collect

from .material import rows_of, valued

NORM = Need("norm", "mlp.neuron")
ENGLISH = "The old man opened the door and"


def means_of(stats, site="mlp.neuron"):
    """Means `[label][layer][neuron]` as the steering tables will hold them: in float32."""
    sums = stats.get("sum", site).numpy()
    tokens = np.array([stats.tokens[name] for name in stats.labels])
    return (sums / tokens[:, None, None]).astype(np.float32).astype(np.float64)


def reference(stats, rate=0.01, per_label=None, source="others", normalise="none", norms=True):
    """Return `{(label, layer, neuron): (score, source mean)}`, one neuron after the other."""
    mean = means_of(stats)
    labels, widths = list(stats.labels), stats.site_widths["mlp.neuron"]
    square = stats.get("sumsq", "mlp.neuron").numpy()
    budget = per_label or max(1, round(rate * sum(widths)))
    chosen = {}
    for k, name in enumerate(labels):
        sources = [j for j, other in enumerate(labels) if j != k]
        if source not in ("others", name):
            sources = [labels.index(source)]
        scores = {}
        for layer, width in enumerate(widths):
            for i in range(width):
                value = mean[:, layer, i]
                away = np.mean([value[j] for j in sources])
                score = abs(value[k] - away)
                if normalise == "std":
                    tokens = np.array([stats.tokens[label] for label in labels])
                    spread = [
                        square[j, layer, i] / tokens[j] - value[j] ** 2 for j in range(len(labels))
                    ]
                    pooled = (spread[k] + np.mean([spread[j] for j in sources])) / 2
                    score = score / np.sqrt(pooled) if pooled > 1e-9 else 0.0
                if norms:
                    score *= float(stats.norms()[layer, i])
                if score > 1e-7:
                    scores[layer, i] = (score, away)
        best = sorted(scores, key=lambda n: -round(scores[n][0], 6))[:budget]
        chosen.update({(k, *n): scores[n] for n in best})
    return chosen


@pytest.mark.parametrize("seed", range(150))
def test_equals_the_reference_on_random_cases(seed):
    rng = np.random.default_rng(seed)
    labels = int(rng.integers(2, 6))
    widths = [int(w) for w in rng.integers(1, 9, size=rng.integers(1, 4))]
    stats = valued(rng, labels, widths=widths, tokens=8, ties=seed % 3 == 0)
    options = {
        "rate": float(rng.choice([0.01, 0.2, 1.0])),
        "source": str(rng.choice(["others", "l0", f"l{labels - 1}"])),
        # Ties that are equal on paper only are for the plain difference.
        "normalise": "std" if seed % 3 and rng.random() < 0.5 else "none",
        "norms": bool(rng.random() < 0.7),
    }
    if rng.random() < 0.5:
        options["per_label"] = int(rng.integers(1, 5))
    expected = reference(stats, **options)
    neurons = detect(stats, "effect", **options)
    assert rows_of(neurons) == set(expected)
    rows = zip(neurons.label.tolist(), neurons.layer.tolist(), neurons.index.tolist(), strict=True)
    left = {
        name: () if options["source"] in ("others", name) else (options["source"],)
        for name in stats.labels
    }
    other = torch.cat(
        [
            neurons.rows(name).leaving(*left[name]).value("other_mean", "mlp.neuron")
            for name in stats.labels
        ]
    )
    mean = neurons.value("mean", "mlp.neuron")
    for n, row in enumerate(rows):
        score, away = expected[row]
        assert float(neurons.score[n]) == pytest.approx(score, rel=1e-3)
        # The means of neurons are kept in 16 bits.
        assert float(other[n]) == pytest.approx(away, abs=1e-3, rel=1e-3)
        assert float(mean[n]) == pytest.approx(means_of(stats)[row], abs=1e-3, rel=1e-3)


def test_any_source_is_the_one_that_differs_most():
    stats = valued(np.random.default_rng(4), 4, 3, 20)
    neurons = detect(stats, "effect", source="any", rate=1.0)
    found = Effect(source="any").scores(stats)
    for k, label in enumerate(stats.labels):
        others = [Effect(source=name).scores(stats)[k] for name in stats.labels if name != label]
        assert torch.equal(found[k], torch.stack(others).amax(0))
    # All four means are in the set, so what is left is still chosen when steering.
    assert neurons.source == "prompt" and neurons.means_of == stats.labels


def test_what_is_added_is_the_difference_that_was_scored():
    stats = valued(np.random.default_rng(0), 4, 3, 20)
    for source in ("others", "l2"):
        neurons = detect(stats, "effect", source=source, per_label=9, factor=1.5)
        assert neurons.operation == {"name": "add", "value": "diffmean", "factor": 1.5}
        left = () if source == "others" else ("l2",)
        for name in stats.labels:
            rows = neurons.rows(name)
            leaving = rows.leaving(*left) if name != "l2" else rows
            difference = leaving.value("diffmean", "mlp.neuron")
            norm = stats.norms()[rows.layer, rows.index]
            assert torch.allclose(difference.abs() * norm, rows.score, rtol=0.02, atol=1e-3)
        # The gate's own difference has the same source.
        mean = means_of(stats, "mlp.act")
        row = neurons.rows("l0")
        away = mean[2] if source == "l2" else mean[1:].mean(0)
        expected = torch.tensor((mean[0] - away)[row.layer, row.index], dtype=torch.float32)
        found = row.leaving(*left).value("diffmean", "mlp.act")
        assert torch.allclose(found, expected, atol=2e-3)


def test_every_label_gets_the_same_budget_and_nothing_that_does_not_differ():
    stats = valued(np.random.default_rng(1), 3, 2, 50)
    neurons = detect(stats, "effect", rate=0.03)
    assert neurons.counts == {"l0": 3, "l1": 3, "l2": 3}
    assert neurons.site == "mlp.neuron" and neurons.method["results"] == {"budget": 3}
    assert bool((neurons.score > 0).all())
    same = dataclasses.replace(
        stats, arrays={need: array[:1].expand_as(array) for need, array in stats.arrays.items()}
    )
    assert len(detect(same, "effect")) == 0
    assert detect(stats, "effect", rate=1e-9).counts == {"l0": 1, "l1": 1, "l2": 1}


def test_norms_and_spread_matter():
    stats = valued(np.random.default_rng(2), 2, 2, 30)
    plain = detect(stats, "effect", per_label=8)
    assert rows_of(plain) != rows_of(detect(stats, "effect", per_label=8, norms=False))
    # A neuron that varies much from token to token says less by the same difference.
    first = (plain.layer[0], plain.index[0])
    stats.arrays[Need("sumsq", "mlp.neuron")][:, first[0], first[1]] *= 1e4
    steady = rows_of(detect(stats, "effect", per_label=8, normalise="std"))
    assert (0, *map(int, first)) in rows_of(plain) - steady
    without = dataclasses.replace(stats, weight_measures={})
    assert len(detect(without, "effect", per_label=8, norms=False)) == 16
    with pytest.raises(StatsError, match="'norm' at 'mlp.neuron'"):
        detect(without, "effect")


def test_mistakes():
    stats = valued(np.random.default_rng(3), 2)
    counts = Stats.from_counts({"a": [[1, 2]], "b": [[2, 1]]}, {"a": 3, "b": 3})
    with pytest.raises(StatsError, match="'sum' at 'mlp.neuron'"):
        detect(counts, "effect")
    with pytest.raises(StatsError, match="only l1"):
        detect(stats.only("l1"), "effect")
    with pytest.raises(LabelError, match="l7"):
        detect(stats, "effect", source="l7")
    for wrong in (
        {"rate": 0.0},
        {"rate": 2.0},
        {"per_label": 0},
        {"normalise": "both"},
        {"factor": float("inf")},
        {"share": 1.5},
        {"layers": "2-1"},
        {"layers": "last"},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            detect(stats, "effect", **wrong)


def test_layers_limit_where_neurons_are_taken_from_but_not_how_many():
    stats = valued(np.random.default_rng(3), 3, 4, 20)
    everywhere = reference(stats, rate=1.0)
    neurons = detect(stats, "effect", rate=0.1, layers="0,2-3")
    assert set(neurons.layer.tolist()) <= {0, 2, 3}
    assert neurons.counts == dict.fromkeys(stats.labels, 8)
    for k, name in enumerate(stats.labels):
        allowed = {place: cell for place, cell in everywhere.items() if place[0] == k}
        allowed = {place: cell for place, cell in allowed.items() if place[1] != 1}
        best = sorted(allowed, key=lambda place: -allowed[place][0])[:8]
        row = neurons.rows(name)
        assert set(zip(row.layer.tolist(), row.index.tolist(), strict=True)) == {
            place[1:] for place in best
        }
    with pytest.raises(ParameterError, match="has 4 layers"):
        detect(stats, "effect", layers="3-4")


def test_a_share_makes_pulling_the_default_operation():
    stats = valued(np.random.default_rng(4), 3, 2, 20)
    neurons = detect(stats, "effect", rate=0.1, share=0.4, factor=0.6)
    assert neurons.operation == {"name": "pull", "share": 0.4, "factor": 0.6}


@pytest.mark.slow
def test_steers_a_model_where_as_many_random_neurons_do_not():
    identify = language_identifier(LANGUAGES)
    if identify is None:
        pytest.skip("lingua, of the extra langid, is not installed")
    model, tokenizer = load_model("demo")
    corpora = {name: texts(name, 60, 3, seed=7) for name in LANGUAGES}
    stats = collect(model, tokenizer, corpora, needs=[*DEFAULT_NEEDS, NORM], progress=False)
    neurons = detect(stats, "effect", rate=0.05, source="en", factor=1.5)
    targets = [name for name in LANGUAGES if name != "en"]
    inputs = tokenizer([ENGLISH] * 8, return_tensors="pt")

    def success(chosen):
        hits = []
        with ns.attach(model, chosen) as steer:
            for target in targets:
                steer.to(target)
                torch.manual_seed(0)
                ids = model.generate(**inputs, max_new_tokens=24, do_sample=True, temperature=0.8)
                said = tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :])
                hits += [identify(text) == target for text in said]
        return sum(hits) / len(hits)

    found, control = success(neurons), success(neurons.random_like(0, stats))
    assert found >= 0.8 and control <= 0.2, (found, control)
