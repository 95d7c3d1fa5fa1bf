"""Culture neurons, with genres in place of cultures: the paper's data are not among ours.

python benchmarks/papers/culture.py         # about 30 minutes on two cores; resumable
"""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import torch
from reproduction import SCORED, Claim, Paper, Rule, Run, lines, main

import neuronsteer as ns
from neuronsteer.evaluation.readers import thinned

#: The languages that have all four genres.
LANGUAGES = ("de", "en", "es", "ru")
DAMAGE = "rise of the loss on the genre whose neurons are off, minus that on the other genres"
PAPER = Paper(
    "culture",
    "Culture neurons, on genres",
    "Namazifard and Galke Poech 2025, Isolating Culture Neurons in Multilingual Large Language "
    "Models",
    {
        "apart": Claim(
            "Most culture neurons are no language's (56.7 % in the paper).",
            "share of the genres' neurons that no language has",
            Rule(0.5, partly=0.25, beyond_random=False),
        ),
        "pure": Claim(
            "Pure culture neurons (C \\ L) carry their culture whatever the language.",
            DAMAGE + ", neurons of languages left out",
            Rule(0.05, partly=0.01, unit="nats per token"),
        ),
        "shared": Claim(
            "Neurons of a culture that are a language's, too (L ∧ C), carry less of the culture.",
            DAMAGE + ", of neurons that are a language's, too, minus the same of pure ones",
            Rule(0, higher=False, beyond_random=False, unit="nats per token"),
        ),
    },
    notes=(
        "Not the paper's experiment, which needs MUREL, 85 million tokens of six cultures: its "
        "texts are not among the data of this project. Labels are four genres (novels, everyday "
        "sentences, encyclopedia, problems of arithmetic) over four languages, and these languages "
        "over the genres. Neurons: `lape`, 1 % of all, for each of the two families.",
    ),
)


def read(data: Path, genre: str, language: str) -> list[str]:
    """Return texts of a genre in a language."""
    if genre == "novels":
        # Sentences of the same files that are shorter are often not of novels.
        every = lines(data / "pretrain" / f"{language}.txt.xz")
        return thinned([text for text in every if len(text) > 150], 240)
    if genre == "everyday":
        file, side = (language, "text") if language != "en" else ("fr", "en")
        rows = map(json.loads, lines(data / "parallel" / f"{file}.jsonl.xz"))
        return [row[side] for row in rows if row["source"] == "tatoeba"]
    name = {"encyclopedia": "xquad_contexts", "arithmetic": "mgsm"}[genre]
    rows = map(json.loads, lines(data / "parallel" / f"multiway_{name}.jsonl.xz"))
    return [row[language][:600] for row in rows if row.get(language)]


GENRES = ("novels", "everyday", "encyclopedia", "arithmetic")


def measure(run: Run) -> None:
    """Find the neurons of both families, divide them, and switch the genres' off."""
    places = [(genre, language) for genre in GENRES for language in LANGUAGES]
    texts = {place: read(run.data, *place) for place in places}

    def families() -> dict[str, list[str]]:
        # As many characters of every genre in every language, so that neither is the other's.
        found: dict[str, list[str]] = {}
        for (genre, language), some in texts.items():
            part = up_to(some[0::2], run.few(9_000, 300))
            found.setdefault(f"genre:{genre}", []).extend(part)
            found.setdefault(f"lang:{language}", []).extend(part)
        return found

    stats = run.statistics("genres", families, ["count@mlp.act"])
    sets = {
        kind: ns.detect(stats.only(*(x for x in stats.labels if x.startswith(kind))), "lape")
        for kind in ("genre:", "lang:")
    }
    genres = sets["genre:"].relabel({f"genre:{genre}": genre for genre in GENRES})
    keys = genres.neuron_keys()
    owned = torch.isin(keys, sets["lang:"].neuron_keys())
    n = len(keys.unique())
    run.found("apart", len(keys[~owned].unique()) / n, n=n, details={"counts": genres.counts})
    count = run.few(16, 4)
    heldout: dict[str, list[str]] = {}
    for (genre, _), some in texts.items():
        few = thinned(some[1::2], count // len(LANGUAGES))
        heldout.setdefault(genre, []).extend(run.cut(text, SCORED) for text in few)
    margins, tasks = dict[str, float](), [{"name": "perplexity", "items": count}]
    for name, mask in (("pure", ~owned), ("shared", owned)):
        part = genres.take(mask, genres.labels)
        if not len(part):
            continue
        report = run.evaluate(name, part, tasks, data={"texts": heldout}, batch_size=16)
        margins[name] = report.value("perplexity", "margin") or 0.0
        if name == "pure":
            run.reported("pure", report, "perplexity", "margin", counts=part.counts)
    if len(margins) == 2:
        difference = margins["shared"] - margins["pure"]
        run.found("shared", difference, n=count * len(GENRES), details=margins)


def up_to(texts: list[str], characters: int) -> list[str]:
    """Return the first texts, until they have so many characters."""
    before = accumulate(map(len, texts), initial=0)
    return [text for text, length in zip(texts, before, strict=False) if length < characters]


if __name__ == "__main__":
    main(PAPER, measure)
