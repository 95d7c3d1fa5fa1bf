"""Layers, sharing, overlap and comparison, against plain Python sets and brute force."""

import itertools

import numpy as np
import pytest

from neuronsteer.analysis import _relatives, analyze
from neuronsteer.errors import ParameterError
from neuronsteer.neuron_set import NeuronSet

from .material import owned, random_counts, random_set


def test_layers_are_those_of_a_plain_count():
    neurons = random_set(0, layers=5, widths=(30, 20, 30, 10, 30))
    found = analyze("layers", neurons)
    for row in found.records():
        mine = owned(neurons)[row["label"]]
        here = sum(layer == row["layer"] for layer, _ in mine)
        assert row["neurons"] == here
        assert row["share"] == pytest.approx(here / len(mine))
        assert row["density"] == pytest.approx(here / (30, 20, 30, 10, 30)[row["layer"]])
    for label, facts in found.facts["labels"].items():
        layers = [layer for layer, _ in owned(neurons)[label]]
        assert facts["depth"] == pytest.approx(np.mean(layers) / 4)
        assert facts["outer"] == pytest.approx(np.mean([layer in (0, 4) for layer in layers]))
        assert layers.count(facts["peak"]) == max(layers.count(i) for i in range(5))


def test_a_label_without_neurons_stays_in_the_table():
    neurons = NeuronSet.from_rows(["a", "b"], [0], [1], [2], site="mlp.act", num_layers=2, width=4)
    found = analyze("layers", neurons)
    assert [row["neurons"] for row in found.records()] == [0, 1, 0, 0]
    assert found.facts["labels"]["b"] == {"neurons": 0, "peak": None, "depth": None, "outer": None}
    assert found.plot()


def test_sharing_counts_owners_and_chance_is_what_random_sets_have():
    neurons = random_set(1, ("a", "b", "c"), layers=2, width=400, share=0.1)
    owners: dict[tuple[int, int], int] = {}
    for mine in owned(neurons).values():
        for neuron in mine:
            owners[neuron] = owners.get(neuron, 0) + 1
    found = analyze("sharing", neurons)
    for row in found.records():
        assert row["neurons"] == list(owners.values()).count(row["owners"])
    several = sum(n > 1 for n in owners.values())
    assert found.facts["shared"] == pytest.approx(several / len(owners))
    # Draw for each label as many as it has in each layer, many times.
    rng = np.random.default_rng(0)
    profile = neurons.layer_profile().numpy()
    drawn = np.zeros(4)
    for _ in range(400):
        for layer in range(2):
            count = np.zeros(400, dtype=int)
            for label in range(3):
                count[rng.choice(400, profile[label, layer], replace=False)] += 1
            drawn += np.bincount(count, minlength=4) / 400
    expected = [row["chance"] for row in found.records()]
    assert expected == pytest.approx(drawn[1:], rel=0.15, abs=0.15)


def test_overlap_is_that_of_plain_sets():
    neurons = random_set(2)
    found = analyze("overlap", neurons)
    assert len(found.records()) == 10
    for row in found.records():
        mine, theirs = (owned(neurons)[row[side]] for side in ("left", "right"))
        assert row["both"] == len(mine & theirs) and row["either"] == len(mine | theirs)
        assert row["jaccard"] == pytest.approx(len(mine & theirs) / len(mine | theirs))
    random = [
        analyze("overlap", random_set(s, ("a", "b"), share=0.3)).records()[0] for s in range(60)
    ]
    assert np.mean([r["chance"] for r in random]) == pytest.approx(
        np.mean([r["jaccard"] for r in random]), abs=0.02
    )


def spearman(x, y):
    stats = pytest.importorskip("scipy.stats")
    return stats.spearmanr(x, y).statistic


def test_relatedness_is_tested_by_permuting_languages():
    neurons = random_set(3, share=0.3)
    found = analyze("overlap", neurons)
    labels = neurons.labels
    steps = {"same branch": 2, "same family": 1, "unrelated": 0}
    like = {}
    for row in found.records():
        like[row["left"], row["right"]] = steps[row["relation"]]
        like[row["right"], row["left"]] = steps[row["relation"]]
    jaccard = found.column("jaccard")
    pairs = list(itertools.combinations(range(5), 2))
    here = spearman(jaccard, [like[labels[i], labels[j]] for i, j in pairs])
    test = found.facts["relatedness"]
    assert test["spearman"] == pytest.approx(here) and test["pairs"] == 10 and test["exact"]
    every = [
        spearman(jaccard, [like[labels[order[i]], labels[order[j]]] for i, j in pairs])
        for order in itertools.permutations(range(5))
    ]
    assert test["p"] == pytest.approx(np.mean([each >= here - 1e-9 for each in every]))


def planted(labels, shared, width=200):
    """Return a set in which pairs in `shared` have many neurons in common, others none."""
    rows = [
        (label, 0, 10 * position + i) for position, label in enumerate(labels) for i in range(5)
    ]
    for number, pair in enumerate(shared):
        rows += [(label, 0, 100 + 10 * number + i) for label in pair for i in range(5)]
    position = {label: i for i, label in enumerate(labels)}
    return NeuronSet.from_rows(
        labels,
        [position[label] for label, *_ in rows],
        [layer for _, layer, _ in rows],
        [index for *_, index in rows],
        site="mlp.act",
        num_layers=1,
        width=width,
    )


def test_planted_families_are_seen_and_unknown_labels_left_out():
    labels = ("fr", "es", "en", "de", "ru", "uk", "zh", "python")
    found = analyze("overlap", planted(labels, [("fr", "es"), ("en", "de"), ("ru", "uk")]))
    assert found.facts["relatedness"]["spearman"] > 0.6
    assert found.facts["relatedness"]["p"] < 0.05
    assert found.facts["relatedness"]["pairs"] == 21  # of 28: python is no language
    assert found.facts["by_relation"]["same branch"]["pairs"] == 3
    assert found.facts["by_relation"]["unrelated"]["jaccard"] == 0
    assert found.facts["by_script"]["same script"]["pairs"] == 7
    against = analyze("overlap", planted(labels, [("fr", "zh"), ("en", "ru"), ("de", "uk")]))
    assert against.facts["relatedness"]["p"] > 0.5


def test_relations_are_coarse_and_symmetric():
    assert _relatives.relation("fr", "es") == _relatives.SAME_BRANCH
    assert _relatives.relation("en", "ru") == _relatives.SAME_FAMILY
    assert _relatives.relation("pt-BR", "fra_Latn") == _relatives.SAME_BRANCH
    assert _relatives.relation("ja", "ko") == _relatives.UNRELATED
    assert _relatives.relation("en", "code-python") is None
    assert _relatives.share_a_script("en", "fr") and not _relatives.share_a_script("en", "ru")
    assert _relatives.share_a_script("zh", "ja") and _relatives.share_a_script("en", "x") is None
    assert [_relatives.writing(c) for c in "aЖ猫はア1"] == [
        "Latin",
        "Cyrillic",
        "Han",
        "Kana",
        "Kana",
        None,
    ]


def test_overlap_needs_two_labels():
    with pytest.raises(ParameterError, match="only a"):
        analyze("overlap", random_set(0, ("a",)))
    with pytest.raises(ParameterError, match="permutations=0"):
        analyze("overlap", random_set(0), permutations=0)


def kinds_of(neurons):
    """Return kind -> neurons, by counting owners in plain Python."""
    sets = owned(neurons)
    found = {"specific": set(), "related": set(), "general": set()}
    for neuron in set().union(*sets.values()):
        owners = sum(neuron in mine for mine in sets.values())
        kind = "specific" if owners == 1 else "general" if owners == len(sets) else "related"
        found[kind].add(neuron)
    return found


def test_comparison_counts_kinds_and_what_moved():
    before, after = (random_set(s, ("en", "fr", "ja"), share=0.4) for s in (0, 1))
    found = analyze("compare", before, after)
    mine, theirs = kinds_of(before), kinds_of(after)
    for row in found.records():
        left, right = (
            set().union(*sets.values()) if row["kind"] == "all" else sets[row["kind"]]
            for sets in (mine, theirs)
        )
        if row["label"] != "all":
            left, right = left & owned(before)[row["label"]], right & owned(after)[row["label"]]
        assert (row["before"], row["after"]) == (len(left), len(right))
        assert row["both"] == len(left & right)
        assert row["jaccard"] == pytest.approx(len(left & right) / len(left | right))
        assert row["kept"] == pytest.approx(len(left & right) / len(left))
    moved = found.facts["moved"]
    for kind, neurons in mine.items():
        for other, those in theirs.items():
            assert moved[kind][other] == len(neurons & those)
        assert sum(moved[kind].values()) == len(neurons)
    for other, those in theirs.items():
        assert moved["new"][other] == len(those - set().union(*mine.values()))


def test_sets_of_other_shapes_are_counted_but_not_overlapped():
    found = analyze("compare", random_set(0), random_set(0, layers=4, width=20))
    assert not found.facts["comparable"] and found.facts["moved"] is None
    assert {row["both"] for row in found.records()} == {None}
    assert len(found.facts["layers"]["before"]) == 6 and len(found.facts["layers"]["after"]) == 4
    assert found.plot()


def test_labels_of_one_side_only_have_no_overlap():
    found = analyze("compare", random_set(0, ("en", "fr")), random_set(1, ("en", "ja")))
    by = {(row["label"], row["kind"]): row for row in found.records()}
    assert by["fr", "all"]["after"] is None and by["fr", "all"]["both"] is None
    assert by["en", "all"]["both"] is not None


def test_statistics_are_compared_through_ternary_with_one_weight():
    before, after = random_counts(0), random_counts(1)
    found = analyze("compare", before, after, rate=0.2)
    same = analyze("compare", before, before, rate=0.2)
    kept = {row["kept"] for row in same.records() if row["before"]}
    assert kept == {1.0}
    from neuronsteer.detectors import detect

    kinds = "specific+related+general"
    lam = detect(before, "ternary", kinds=kinds, rate=0.2).method["results"]["lam"]
    second = detect(after, "ternary", kinds=kinds, rate=0.2, lam=lam)
    row = next(r for r in found.records() if (r["label"], r["kind"]) == ("all", "specific"))
    assert row["after"] == len(kinds_of(second)["specific"])
    with pytest.raises(ParameterError, match="same kind"):
        analyze("compare", before, random_set(0))
