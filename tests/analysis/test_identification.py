"""Languages from neurons: the rules against NumPy, the identifier on the same lines."""

import numpy as np
import pytest
import torch

from neuronsteer.analysis import analyze
from neuronsteer.analysis.identification import OWN, RANDOM, _nearest, _own
from neuronsteer.detectors import detect
from neuronsteer.errors import ParameterError, TextError
from neuronsteer.stats import collect

from ..tiny_models import tiny_model, tiny_tokenizer
from .material import ALPHABETS, LANGUAGES, corpora, random_set


def responses(seed, labels, lines, layers=2, width=12):
    rng = np.random.default_rng(seed)
    shift = np.random.default_rng(99).normal(size=(len(labels), layers, width))
    return {
        label: torch.tensor(shift[i] + rng.normal(size=(lines[i], layers, width)))
        for i, label in enumerate(labels)
    }


@pytest.mark.parametrize("seed", range(4))
def test_both_rules_are_those_of_a_loop(seed):
    labels = ("en", "de", "fr")
    known, asked = responses(seed, labels, (5, 9, 7)), responses(seed + 50, labels, (4, 4, 6))
    neurons = random_set(seed, labels, layers=2, width=12, share=0.3)
    places = {
        name: list(zip(rows.layer.tolist(), rows.index.tolist(), strict=True))
        for name in labels
        for rows in [neurons.rows(name)]
    }

    def z(value, place):
        means = [float(known[name][:, place[0], place[1]].mean()) for name in labels]
        mean = np.mean(means)
        spread = np.mean(
            [((known[n][:, place[0], place[1]].numpy() - mean) ** 2).mean() for n in labels]
        )
        return (float(value[place]) - mean) / np.sqrt(spread)

    found, nearest = _own(known, asked, neurons), _nearest(known, asked, neurons)
    every = sorted({place for each in places.values() for place in each})
    for label in labels:
        for i, line in enumerate(asked[label]):
            scores = []
            for name in labels:
                signs = [np.sign(np.mean([z(x, p) for x in known[name]])) for p in places[name]]
                scores.append(
                    np.mean([s * z(line, p) for s, p in zip(signs, places[name], strict=True)])
                )
            assert found[label][i] == int(np.argmax(scores))
            distances = [
                sum((z(line, p) - np.mean([z(x, p) for x in known[name]])) ** 2 for p in every)
                for name in labels
            ]
            assert nearest[label][i] == int(np.argmin(distances))


@pytest.fixture(scope="module")
def tiny():
    model, words = tiny_model(layers=3), tiny_tokenizer()
    stats = collect(model, words, corpora(16, seed=5), progress=False)
    return model, words, detect(stats, "effect", rate=0.05)


def by_letters(text):
    """Tell the made-up languages apart by their letters; a line without any of them is nobody's."""
    if any(c in "猫庭" for c in text):
        return "jpn"  # another spelling of the same code
    return "fr" if any(c in "éàç" for c in text) else "en" if "th" in text else None


def test_lines_are_told_and_the_identifier_hears_the_same_ones(tiny):
    model, words, neurons = tiny
    texts = corpora(20)
    found = analyze("identification", model, neurons, words, texts, identifier=by_letters, limit=20)
    assert len(found.records()) == 3 * 10
    for row in found.records():
        line = texts[row["label"]][1::2][row["line"]]
        assert row["characters"] == len(line)
        said = by_letters(line)
        assert row["by_letters"] == ("ja" if said == "jpn" else said)
    accuracy = found.facts["accuracy"]
    for name in (OWN, "by_letters", RANDOM):
        right = [row[name] == row["label"] for row in found.records()]
        assert accuracy[name]["value"] == pytest.approx(np.mean(right))
        low, high = accuracy[name]["interval"]
        assert low <= accuracy[name]["value"] <= high
    assert accuracy[OWN]["value"] > 0.9 and found.facts["chance"] == pytest.approx(1 / 3)
    agree = [row[OWN] == row["by_letters"] for row in found.records()]
    assert found.facts["agreement"] == pytest.approx(np.mean(agree))
    confusion = found.facts["confusion"]
    assert sum(confusion["fr"].values()) == 10
    assert confusion["fr"]["fr"] == sum(
        row[OWN] == "fr" for row in found.records() if row["label"] == "fr"
    )
    said = [t.get_text() for legend in found.plot().legends for t in legend.get_texts()]
    assert {"own neurons", "all neurons", "random neurons", "by_letters", "chance"} <= set(said)


def test_lingua_identifies_the_same_lines(tiny):
    pytest.importorskip("lingua")
    model, words, neurons = tiny
    real = {
        "en": ["The river was wide and the old bridge had fallen."] * 4,
        "fr": ["La rivière était large et le vieux pont était tombé."] * 4,
        "ja": ["川は広く、古い橋は落ちていました。"] * 4,
    }
    found = analyze("identification", model, neurons, words, real)
    assert found.facts["identifier"] == "lingua"
    assert found.facts["accuracy"]["lingua"]["value"] == 1.0


def test_labels_without_neurons_or_texts_are_left_out(tiny):
    model, words, neurons = tiny
    options = {"identifier": None, "limit": 8}
    texts = {**corpora(8), "xx": ["the cat"] * 8}
    found = analyze("identification", model, neurons, words, texts, **options)
    assert found.facts["labels"] == list(LANGUAGES) == list(ALPHABETS)
    with pytest.raises(ParameterError, match="at least two labels"):
        analyze("identification", model, neurons, words, {"en": texts["en"]}, **options)
    with pytest.raises(TextError, match="at least 4"):
        few = {label: each[:3] for label, each in corpora(8).items()}
        analyze("identification", model, neurons, words, few, **options)
