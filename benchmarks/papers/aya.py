"""Aya: the language that every layer would say next, and whether related languages share neurons.

python benchmarks/papers/aya.py             # about 30 minutes a model on two cores; resumable
"""

from __future__ import annotations

from reproduction import CORE, Claim, Paper, Rule, Run, main

import neuronsteer as ns

PAPER = Paper(
    "aya",
    "Pivot languages and shared neurons",
    "Trinley et al. 2025, What Language(s) Does Aya-23 Think In?",
    {
        "pivot": Claim(
            "A model trained mostly on English decodes to English in the middle layers; one "
            "trained on many languages decodes to several.",
            "share of the other languages of which some layer in the middle half says more English "
            "than the language itself (logit lens); holds: a pivot, does not: none",
            Rule(0.5, partly=0.25, beyond_random=False),
        ),
        "own": Claim(
            "The last layers decode to the language of the text.",
            "share of languages whose last layer says most in the language itself",
            Rule(0.9, partly=0.7, beyond_random=False),
        ),
        "related": Claim(
            "Related languages share more neurons than unrelated ones.",
            "Spearman's rank correlation of the Jaccard index of two languages' `lape` neurons (5 "
            "% of all) with how closely they are related; n: pairs",
            Rule(0.3, partly=0.1),
        ),
        "mixed": Claim(
            "In code-mixed text, more of the neurons are the mixed-in language's.",
            "needs code-mixed text, which no script makes yet",
            Rule(0, beyond_random=False),
        ),
    },
    models=("gemma", "qwen"),
    notes=(
        "A token belongs to the languages in whose texts it is frequent; tokens that are in no "
        "text belong to none.",
    ),
)


def measure(run: Run) -> None:
    """Read every layer, and compare the neurons of every two languages."""
    limit = run.few(32, 8)
    share, facts = run.lens(run.heldout(limit, CORE), limit)
    layers = facts["num_layers"]
    others = [label for label in CORE if label != "en"]
    middle = range(layers // 4, layers - layers // 4)
    leaning = {
        label: [share[label, k, "en"] > share[label, k, label] for k in range(layers)]
        for label in others
    }
    run.found(
        "pivot",
        sum(any(each[k] for k in middle) for each in leaning.values()) / len(others),
        n=len(others),
        details={"more English by layer": leaning, "thinks_in": facts["thinks_in"]},
    )
    last = {label: each[-1] for label, each in facts["thinks_in"].items()}
    own = [last[label] == label for label in CORE]
    run.found("own", sum(own) / len(own), n=len(own), details={"last": last})
    neurons = ns.detect(run.counts(), "lape", rate=0.05)
    overlap = ns.analyze("overlap", neurons)
    run.figure("overlap", "Overlap of LAPE neurons (Jaccard)", overlap)
    random = [
        test["spearman"]
        for seed in range(run.seeds)
        if (test := ns.analyze("overlap", neurons.random_like(seed)).facts["relatedness"])
    ]
    test = overlap.facts["relatedness"]
    run.found(
        "related",
        test["spearman"] if test and random else None,
        n=test["pairs"] if test else 0,
        random=random,
        details={"test": test, "by_relation": overlap.facts["by_relation"]},
    )


if __name__ == "__main__":
    main(PAPER, measure)
