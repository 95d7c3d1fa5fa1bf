"""Cutting layers into parts: exact, with the counts and ratios it is made from."""

import itertools

import numpy as np
import pytest

from neuronsteer.analysis import Result, analyze
from neuronsteer.analysis._segments import cut
from neuronsteer.analysis.divisions import PARTS
from neuronsteer.detectors import detect
from neuronsteer.errors import ParameterError
from neuronsteer.stats import Need, Stats

from ..tiny_models import tiny_model, tiny_tokenizer
from .material import corpora, random_counts
from .test_sets import kinds_of


def deviation(table, ends):
    starts = [0, *ends[:-1]]
    return sum(
        ((table[a:b] - table[a:b].mean(0)) ** 2).sum() for a, b in zip(starts, ends, strict=True)
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_cut_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    depth, parts = int(rng.integers(4, 10)), int(rng.integers(1, 5))
    table = rng.normal(size=(depth, int(rng.integers(1, 4))))
    every = [[*middle, depth] for middle in itertools.combinations(range(1, depth), parts - 1)]
    best = min(deviation(table, ends) for ends in every)
    found = cut(table.tolist(), parts)
    ends = [last + 1 for _, last in found.spans]
    assert deviation(table, ends) == pytest.approx(best)
    assert [first for first, _ in found.spans] == [0, *ends[:-1]] and ends[-1] == depth
    assert found.explained == pytest.approx(1 - best / deviation(table, [depth]))


def test_steps_are_found_and_shuffling_says_how_easy_that_is():
    found = cut([[0.1]] * 5 + [[0.9]] * 20 + [[0.2]] * 7, 3)
    assert found.spans == [(0, 4), (5, 24), (25, 31)]
    assert found.explained == pytest.approx(1.0) and found.by_chance < 0.6
    flat = cut([[0.5]] * 6, 3)
    assert flat.explained is None and len(flat.spans) == 3
    noise = cut(np.random.default_rng(0).normal(size=(32, 1)).tolist(), 3)
    assert noise.explained == pytest.approx(noise.by_chance, abs=0.2)
    with pytest.raises(ParameterError, match="2 layers cannot"):
        cut([[1], [2]], 3)


def test_divisions_count_the_kinds_of_the_ternary_detector():
    stats = random_counts(3, layers=8)
    found = analyze("divisions", stats, rate=0.2)
    neurons = detect(stats, "ternary", rate=0.2, kinds="specific+related+general")
    for kind, mine in kinds_of(neurons).items():
        per_layer = [sum(layer == i for layer, _ in mine) for i in range(8)]
        assert found.column(kind) == per_layer
        assert found.facts["kinds"][kind] == len(mine)
    assert found.column("language") == [
        a + b for a, b in zip(found.column("specific"), found.column("related"), strict=True)
    ]
    assert found.column("layer") == list(range(8))
    spans = found.facts["split"]
    for row in found.records():
        first, last = spans[row["part"]]
        assert first <= row["layer"] <= last


def paper_like(layers=32, width=200, labels=4, tokens=1000):
    """Return counts in which language neurons lie at both ends, general ones in between."""
    rng = np.random.default_rng(0)
    share = rng.uniform(0.02, 0.2, size=(labels, layers, width))
    amounts = [40] * 6 + [2] * 16 + [60] * 8 + [15] * 2
    general = [2] * 6 + [50] * 16 + [5] * 8 + [40] * 2
    for layer in range(layers):
        for neuron in range(amounts[layer]):
            share[:, layer, neuron] = 0.001
            owners = rng.choice(labels, 1 + neuron % 2, replace=False)
            share[owners, layer, neuron] = 0.95
        share[:, layer, width - general[layer] :] = 0.9
    import torch

    names = tuple("abcd"[:labels])
    return Stats(
        labels=names,
        tokens=dict.fromkeys(names, tokens),
        texts=dict.fromkeys(names, 9),
        site_widths={"mlp.act": (width,) * layers},
        arrays={Need("count", "mlp.act"): torch.tensor(rng.binomial(tokens, share))},
        header={"model_type": "llama"},
    )


def test_the_four_parts_of_the_paper_are_found_where_they_are(tmp_path):
    # Language neurons are 838 of 6,400, and own the top tenth of the probabilities.
    found = analyze("divisions", paper_like(), rate=838 / 6400, bar=0.8)
    assert found.facts["split"] == {
        "understanding": [0, 5],
        "reasoning": [6, 21],
        "transformation": [22, 29],
        "vocabulary": [30, 31],
    }
    assert found.facts["follows_the_paper"] is True
    assert found.facts["explained"] > 0.9 > found.facts["by_chance"]
    said = [text.get_text() for text in found.plot().axes[0].texts]
    assert said == list(PARTS)
    with pytest.raises(ParameterError, match="3 layers cannot"):
        analyze("divisions", random_counts(layers=3))


# --- language ratio -------------------------------------------------------------------------------


def test_ratio_is_taken_from_the_shares_of_the_lens():
    model, words, texts = tiny_model(layers=4), tiny_tokenizer(), corpora(8)
    lens = analyze("logit_lens", model, words, texts, limit=8)
    found = analyze("language_ratio", model, words, texts, limit=8)
    share = {(r["label"], r["layer"], r["language"]): r["share"] for r in lens.records()}
    assert {row["label"] for row in found.records()} == {"fr", "ja"}
    for row in found.records():
        own, pivot, unknown = (
            share[row["label"], row["layer"], name] for name in (row["label"], "en", "other")
        )
        known = 1 - unknown
        assert row["own"] == pytest.approx(own / known, abs=1e-6)
        assert row["pivot"] == pytest.approx(pivot / known, abs=1e-6)
        assert row["others"] == pytest.approx(1 - (own + pivot) / known, abs=1e-6)
        assert row["ratio"] == pytest.approx(pivot / (pivot + own))
    ratio = [
        np.mean([row["ratio"] for row in found.records() if row["layer"] == layer])
        for layer in range(4)
    ]
    assert found.facts["ratio"] == pytest.approx(ratio)
    spans = list(found.facts["split"].values())
    assert spans[0][0] == 0 and spans[-1][1] == 3
    assert [a for a, _ in spans[1:]] == [b + 1 for _, b in spans[:-1]]


def test_the_shape_of_the_paper_is_recognised(monkeypatch):
    from neuronsteer.analysis import language_ratio

    def shares(own, pivot):
        return {"fr": own, "en": pivot, "other": 1 - own - pivot}

    curve = [(0.5, 0.1)] * 4 + [(0.1, 0.6)] * 12 + [(0.7, 0.1)] * 4

    def records(self, *_):
        rows = [
            {"label": label, "layer": i, "language": name, "share": share, "share_of_first": share}
            for label in ("en", "fr")
            for i, pair in enumerate(curve)
            for name, share in shares(*pair).items()
        ]
        return rows, {"labels": ["en", "fr"], "num_layers": 20, "positions": {}}

    monkeypatch.setattr(language_ratio.LanguageRatio, "records", records)
    found = analyze("language_ratio", "model", "tokenizer", "texts")
    assert found.facts["split"] == {
        "understanding": [0, 3], "reasoning": [4, 15], "generation": [16, 19],
    }  # fmt: skip
    assert found.facts["follows_the_paper"] is True
    assert found.facts["means"]["reasoning"] == pytest.approx(6 / 7)
    assert "as in the paper" in found.plot()._supxlabel.get_text().replace("\n", " ")
    curve.reverse()
    curve[:] = [(b, a) for a, b in curve]
    assert analyze("language_ratio", "m", "t", "x").facts["follows_the_paper"] is False


def test_the_pivot_must_be_among_the_texts():
    model, words = tiny_model(layers=4), tiny_tokenizer()
    with pytest.raises(ParameterError, match="pivot 'de'.*en, fr, ja"):
        analyze("language_ratio", model, words, corpora(4), pivot="de")
    with pytest.raises(ParameterError, match="another label"):
        analyze("language_ratio", model, words, {"en": corpora(4)["en"]})
    with pytest.raises(ParameterError, match="script"):
        analyze("language_ratio", model, words, corpora(4), by="script")
    with pytest.raises(ParameterError, match="2 layers cannot"):
        analyze("language_ratio", tiny_model(layers=2), words, corpora(4))
    assert isinstance(analyze("language_ratio", model, words, corpora(4)), Result)
