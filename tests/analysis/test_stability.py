"""Random halves and pairs, against detecting on the halves by hand."""

import random
import statistics

import pytest

from neuronsteer.analysis import analyze
from neuronsteer.detectors import detect
from neuronsteer.errors import ParameterError
from neuronsteer.stats import collect

from ..tiny_models import tiny_model, tiny_tokenizer
from .material import corpora, owned, random_counts, random_set


def check(rows, left, right):
    for row in rows:
        mine, theirs = (owned(each)[row["label"]] for each in (left, right))
        assert (row["left"], row["right"]) == (len(mine), len(theirs))
        assert row["both"] == len(mine & theirs)
        expected = len(mine & theirs) / len(mine | theirs) if mine | theirs else None
        assert row["jaccard"] == (expected if expected is None else pytest.approx(expected))


def test_halves_are_detected_on_the_sum_of_their_parts():
    parts = [random_counts(seed) for seed in range(5)]
    found = analyze("stability", parts, rate=0.2, seeds=4)
    assert found.facts["design"] == "halves"
    rng = random.Random(0)
    for seed in range(4):
        order = rng.sample(range(5), 5)
        left, right = (
            detect(parts[side[0]].merge(*(parts[i] for i in side[1:])), "lape", rate=0.2)
            for side in (order[:2], order[2:])
        )
        check([row for row in found.records() if row["split"] == str(seed)], left, right)
    for label, facts in found.facts["labels"].items():
        values = [row["jaccard"] for row in found.records() if row["label"] == label]
        assert facts["jaccard"] == pytest.approx(statistics.fmean(values))
        assert facts["sd"] == pytest.approx(statistics.stdev(values))


def test_named_corpora_are_compared_in_pairs():
    parts = {"wiki": random_counts(0), "books": random_counts(1), "again": random_counts(0)}
    found = analyze("stability", parts, method="ternary", options={"lam": 0.0}, rate=0.2)
    assert found.facts["design"] == "pairs"
    sets = {name: detect(each, "ternary", lam=0.0, rate=0.2) for name, each in parts.items()}
    for pair in (("wiki", "books"), ("wiki", "again"), ("books", "again")):
        rows = [row for row in found.records() if row["split"] == " & ".join(pair)]
        check(rows, *(sets[name] for name in pair))
    same = [row["jaccard"] for row in found.records() if row["split"] == "wiki & again"]
    assert set(same) <= {1.0, None}


def test_sets_found_elsewhere_can_be_compared():
    left, right = random_set(0), random_set(1)
    found = analyze("stability", [left, right])
    check(found.records(), left, right)
    assert found.facts["labels"]["en"]["sd"] is None


def test_split_half_reads_every_text_once_and_equals_stability_on_the_pieces():
    model, words, texts = tiny_model(), tiny_tokenizer(), corpora(12)
    found = analyze("split_half", model, words, texts, rate=0.1, seeds=3, pieces=4, limit=11)
    pieces = [
        collect(
            model,
            words,
            {label: each[:11][i::4] for label, each in texts.items()},
            needs=["count@mlp.act"],
            progress=False,
        )
        for i in range(4)
    ]
    assert found.records() == analyze("stability", pieces, rate=0.1, seeds=3).records()
    assert sum(piece.texts["en"] for piece in pieces) == 11


def test_mistakes_are_named():
    parts = [random_counts(seed) for seed in range(4)]
    with pytest.raises(ParameterError, match="got 1 part"):
        analyze("stability", parts[:1])
    with pytest.raises(ParameterError, match="at least 4 parts; got 3"):
        analyze("stability", parts[:3], design="halves")
    with pytest.raises(ParameterError, match="do not add up"):
        analyze("stability", [random_set(i) for i in range(4)], design="halves")
    with pytest.raises(ParameterError, match="design='thirds'"):
        analyze("stability", parts, design="thirds")
    with pytest.raises(ParameterError, match="no parameter 'rte'"):
        analyze("stability", parts, options={"rte": 1})
    with pytest.raises(ParameterError, match="3 texts for 8 parts"):
        analyze("split_half", tiny_model(), tiny_tokenizer(), corpora(3))
