"""Programming languages: their neurons, and what a code model loses without them.

python benchmarks/papers/code_languages.py  # about 25 minutes on two cores; resumable
"""

from __future__ import annotations

import json
from itertools import pairwise
from statistics import fmean

import numpy as np
from reproduction import TOKENS, Claim, Paper, Rule, Run, lines, main, rank_correlation

import neuronsteer as ns
from neuronsteer.evaluation.bootstrap import interval
from neuronsteer.evaluation.readers import thinned

CODE = ("cpp", "go", "java", "kotlin", "php", "python", "ruby", "rust")
PAPER = Paper(
    "code_languages",
    "Programming languages",
    "Kargaran et al. 2025, How Programming Concepts and Neurons Are Shared in Code Language Models",
    {
        "low": Claim(
            "Neurons of programming languages are mostly in the bottom layers.",
            "share in the first half of the layers; random: neurons drawn from all layers",
            Rule(0.6),
        ),
        "exclusive": Claim(
            "Those that only one language has are higher up.",
            "mean depth of exclusive neurons minus that of all; 0 is the first layer, 1 the last",
            Rule(0.1, partly=0.02, beyond_random=False),
        ),
        "aligned": Claim(
            "Languages that are close to others have hardly any neurons of their own.",
            "rank correlation of the share of neurons that are exclusive with how alike the "
            "nearest other language is (correlation of probabilities of being active)",
            Rule(-0.5, partly=-0.2, higher=False, beyond_random=False),
        ),
        "inside": Claim(
            "In the middle layers the model says more English than the programming language.",
            "share of languages of which some layer in the middle half does (logit lens)",
            Rule(0.5, partly=0.25, beyond_random=False),
        ),
        "margin": Claim(
            "Without a language's neurons, the model loses it and hardly any other.",
            "rise of the loss on code of the language whose neurons are off, minus that on others",
            Rule(0.5, partly=0.1, unit="nats per token"),
        ),
        "english": Claim(
            "English hardly suffers from it.",
            "rise of the loss on English text, mean over the programming languages",
            Rule(0.05, partly=0.2, higher=False, beyond_random=False, unit="nats per token"),
        ),
    },
    models=("qwen",),
    notes=(
        "Neurons: `code_languages`, 400 a language, English prose being one of nine. The paper "
        "switches nothing off.",
    ),
)


def pieces(run: Run, label: str, heldout: str, size: int) -> list[str]:
    """Return files of a language, cut at ends of lines into pieces of about so many characters."""
    found: list[str] = []
    for row in map(json.loads, lines(run.data / "code" / f"{label}{heldout}.jsonl.xz")):
        ends, text = [0], str(row["text"])
        while (at := text.find("\n", ends[-1] + size)) >= 0:
            ends.append(at + 1)
        found += [text[a:b] for a, b in pairwise([*ends, len(text)]) if b - a > size // 2]
    return found


def measure(run: Run) -> None:
    """Find the neurons, look where they are, and switch them off."""

    def texts() -> dict[str, list[str]]:
        return {label: pieces(run, label, "", 1_500) for label in CODE} | run.texts(("en",))

    most = run.few(TOKENS, 400)
    stats = run.statistics("code", texts, ["count@mlp.act", "sum@mlp.act"], max_tokens=most)
    neurons = ns.detect(stats, "code_languages")
    run.located("low", neurons, range(neurons.num_layers // 2))
    run.figure("layers", "Neurons of programming languages", ns.analyze("layers", neurons))
    keys = neurons.neuron_keys()
    _, owner, owners = keys.unique(return_inverse=True, return_counts=True)
    depth = neurons.layer.double() / (neurons.num_layers - 1)
    alone = depth[owners[owner] == 1]
    higher = float(alone.mean() - depth.mean()) if len(alone) else None
    run.found("exclusive", higher, n=len(alone), details={"sharing": neurons.sharing()})
    alike = np.corrcoef(stats.probabilities().flatten(1).numpy())[: len(CODE), : len(CODE)]
    nearest = dict(zip(CODE, np.where(np.eye(len(CODE)), -1, alike).max(1).tolist(), strict=True))
    single, counts = neurons.exclusive_counts(), neurons.counts
    own = {label: single[label] / counts[label] for label in CODE if counts[label]}
    both = {"exclusive": own, "nearest": nearest, "counts": counts}
    run.found("aligned", rank_correlation(own, nearest), n=len(own), details=both)
    limit, count = run.few(24, 4), run.few(6, 2)
    heldout = {label: thinned(pieces(run, label, ".heldout", 400), limit) for label in CODE}
    heldout |= run.heldout(limit, ("en",))
    share, facts = run.lens(heldout, limit)
    depths = range(neurons.num_layers // 4, neurons.num_layers * 3 // 4)
    leans = [any(share[k, i, "en"] > share[k, i, k] for i in depths) for k in CODE]
    run.found("inside", fmean(leans), n=len(leans), details=facts)
    read = {k: [run.cut(e, 48) for e in thinned(some, count)] for k, some in heldout.items()}
    tasks = [{"name": "perplexity", "items": count}]
    report = run.evaluate("off", neurons, tasks, data={"texts": read}, batch_size=16)
    rise = report.task("perplexity")["treatments"]["neurons"]["blocks"][0]
    worst = report.value("perplexity", "diagonal_dominance")
    run.reported("margin", report, "perplexity", "margin", matrix=rise, diagonal=worst)
    at, pairs = rise["columns"].index("en"), zip(rise["rows"], rise["values"], strict=True)
    costs = [row[at] for off, row in pairs if off != "en"]
    run.found("english", fmean(costs), n=len(costs), interval=interval(costs))


if __name__ == "__main__":
    main(PAPER, measure)
