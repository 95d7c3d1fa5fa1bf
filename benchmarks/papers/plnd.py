"""PLND: what stages and kinds of units carry, and whether training a language's own helps it.

python benchmarks/papers/plnd.py            # about 35 minutes on two cores; resumable
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from reproduction import CORE, SCORED, Claim, Paper, Rule, Run, documents, fine_tune, main

import neuronsteer as ns
from neuronsteer.detectors import detector
from neuronsteer.detectors.plnd import SITES

#: What is trained, on how many documents, and how: the paper's 2e-6 is for 7B models.
TRAINED, DOCUMENTS, RATE, PER_LAYER = ("id", "pl", "tr"), 200, 2e-4, 100
LABELS = (*CORE, *TRAINED)
RISE = "rise of the loss on text of the language whose units are off"
PAPER = Paper(
    "plnd",
    "PLND",
    "Zhao et al. 2024, How do Large Language Models Handle Multilingualism?",
    {
        "all": Claim(
            "Without its units of all kinds in all layers, a language is lost.",
            RISE + ", mean over languages",
            Rule(1, partly=0.1, unit="nats per token"),
        ),
        "english": Claim(
            "The units of English are needed by every language.",
            "rise of the loss on text of the others without the units of English",
            Rule(0.5, partly=0.1, unit="nats per token"),
        ),
        **{
            stage: Claim(
                f"Without those of the {stage} layers, English stays and other languages suffer.",
                RISE + ", mean over the other languages, minus that of English",
                Rule(0.1, partly=0, unit="nats per token"),
            )
            for stage in ("understanding", "generation")
        },
        "enhance": Claim(
            f"Training a language's units with {DOCUMENTS} documents improves it.",
            "fall of the loss on its held-out text, mean over id, pl and tr; random: trained alike",
            Rule(0.05, partly=0, unit="nats per token"),
        ),
        "harm": Claim(
            "It harms no other language.",
            "rise of the loss on held-out text of the ten other languages",
            Rule(0.02, partly=0.1, higher=False, beyond_random=False, unit="nats per token"),
        ),
    },
    notes=(
        "Units: `plnd`, a fifth of a layer's in each of 50 documents of 60 tokens (the paper: "
        "1,000), without those of all languages; MLP neurons and attention are off together. "
        "Trained are at most 100 units a layer and kind, in understanding and generation layers.",
    ),
)


def trained(run: Run, sets: Sequence[ns.NeuronSet], label: str, texts: Any) -> dict[str, float]:
    """Return the losses with a label's units trained; afterwards the model is as before."""
    count = run.few(DOCUMENTS, 8)
    learn = documents(run.texts((label,), 50 * count)[label], run.tokenizer, 30, count)
    tuned = ns.enhance(run.model, sets, label, per_layer=PER_LAYER)
    try:
        fine_tune(tuned, run.tokenizer, learn, RATE)
        return run.losses(texts)
    finally:
        tuned.unload()


def measure(run: Run) -> None:
    """Switch stages off, and train the units of three languages."""
    count = run.few(50, 4)

    def read() -> dict[str, list[str]]:
        texts = run.texts(LABELS, 80 * count)
        return {k: documents(some, run.tokenizer, 60, count) for k, some in texts.items()}

    stats = run.statistics("documents", read, [detector("plnd", site=site) for site in SITES])
    heldout = run.heldout(run.few(5), CORE, SCORED) | run.heldout(run.few(24), TRAINED, SCORED)

    def detected(stage: str, labels: Sequence[str] = CORE) -> list[list[ns.NeuronSet]]:
        """Return the sets of all kinds of units, and those of every seed."""
        every = [ns.detect(stats, "plnd", site=site, stage=stage).only(*labels) for site in SITES]
        some = [each for each in every if len(each)]
        return [some, *([e.random_like(seed) for e in some] for seed in range(run.seeds))]

    core, rises = {label: heldout[label] for label in CORE}, dict[str, list[Any]]()
    for stage in ("all", "understanding", "reasoning", "generation"):
        several = [sets for sets in detected(stage) if sets][: 6 if stage in PAPER.claims else 1]
        rises[stage] = [run.perplexity(f"off-{stage}", sets, core)["rise"] for sets in several]
        own = [{off: row[off] for off, row in each.items()} for each in rises[stage]]
        if stage == "all":
            run.compared("all", [[*each.values()] for each in own])
            english = [each.get("en", {}) for each in rises["all"]]
            run.compared("english", [[v for k, v in e.items() if k != "en"] for e in english])
        elif stage in PAPER.claims:
            gaps = [[v - each.get("en", 0) for k, v in each.items() if k != "en"] for each in own]
            run.compared(stage, gaps)
    run.rows["all"]["details"] |= rises
    before = run.once("before", lambda: run.losses(heldout))
    gains, harms = dict[int, list[float]](), dict[str, float]()
    for label in TRAINED:
        several = [sets for sets in detected("understanding+generation", (label,)) if sets]
        for k, sets in enumerate(several):
            after = run.once(f"trained-{label}-{k}", partial(trained, run, sets, label, heldout))
            gains.setdefault(k, []).append(before[label] - after[label])
            if not k:
                harms |= {f"{label} → {o}": after[o] - before[o] for o in LABELS if o != label}
    run.compared("enhance", [*gains.values()])
    run.compared("harm", [[*harms.values()]], changes=harms)


if __name__ == "__main__":
    main(PAPER, measure)
