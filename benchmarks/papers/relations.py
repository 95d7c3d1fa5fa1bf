"""Relations: neurons that tell one relation's prompts from others', and what is lost without them.

python benchmarks/papers/relations.py       # about 15 minutes on two cores; resumable
"""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

from reproduction import Claim, Paper, Rule, Run, main

import neuronsteer as ns
from neuronsteer.evaluation.metrics.relation_accuracy import right
from neuronsteer.evaluation.readers import thinned

#: Subjects per relation, half to find neurons with and half to ask about.
SUBJECTS, SHOTS = 48, 3
KNOWN = 0.5
#: Neurons of a relation as a share of all: 6,000 of Llama-2-7B's 352,256.
SHARE = 6_000 / 352_256
PAPER = Paper(
    "relations",
    "Relation-specific neurons",
    "Liu et al. 2025, On Relation-Specific Neurons in Large Language Models",
    {
        "specific": Claim(
            "Without its neurons, a relation is forgotten, more than others are.",
            "what accuracy loses within the relation that is off, minus that in the others",
            Rule(0.2, partly=0.05),
        ),
        "cumulative": Claim(
            "The more neurons are off, the more is lost.",
            "what accuracy within loses without all neurons, minus that without an eighth of them",
            Rule(0.1, partly=0.02, beyond_random=False),
        ),
        "versatile": Claim(
            "Relations share neurons.",
            "share of the neurons that several of the twelve relations have",
            Rule(0.2),
        ),
        "interference": Claim(
            "Without one relation's neurons, some other relations are recalled better.",
            "share of the other relations whose accuracy rises",
            Rule(0.1),
        ),
        "middle": Claim(
            "The neurons are mostly in the middle layers.",
            "share in the middle half of the layers; random: neurons drawn from all layers",
            Rule(0.6),
        ),
    },
    notes=(
        "Neurons: `relations`, the paper's share of all (1.7 %), found on plain prompts. Three "
        "facts precede a question, because a small model must be told what form the answer has. "
        f"Only relations of which it then knows at least {KNOWN:.0%} are asked about.",
    ),
)


def read(run: Run) -> tuple[dict[str, list[str]], dict[str, list[dict[str, str]]]]:
    """Return, per relation, prompts to find neurons with, and facts of other subjects."""
    prompts, facts = dict[str, list[str]](), dict[str, list[dict[str, str]]]()
    for file in sorted((run.data / "relations").glob("*.json")):
        # Letters with accents are escaped twice in these files.
        found: Any = json.loads(file.read_text(encoding="utf-8").replace("\\\\u", "\\u"))
        forms = sorted({*found["prompt_templates"], *found["prompt_templates_zs"]})
        samples = [(e["subject"], e["object"]) for e in found["samples"]]
        samples = thinned(samples, run.few(SUBJECTS, 2 * SHOTS))
        known, asked = samples[0::2], samples[1::2]
        prompts[file.stem] = [form.format(subject) for subject, _ in known for form in forms]
        shots = {f: "".join(f"{f.format(s)} {o}.\n" for s, o in known[:SHOTS]) for f in forms}
        facts[file.stem] = [
            {"prompt": before + form.format(subject), "answer": f" {answer}"}
            for form, before in shots.items()
            for subject, answer in asked
        ]
    return prompts, facts


def measure(run: Run) -> None:
    """Find the neurons, keep the relations that are known, and switch them off one by one."""
    prompts, facts = read(run)

    def accuracy() -> dict[str, float]:
        pairs = {name: [(e["prompt"], e["answer"]) for e in some] for name, some in facts.items()}
        return {name: fmean(right(run.model, run.tokenizer, each)) for name, each in pairs.items()}

    before = run.once("known", accuracy)
    known = [name for name, share in before.items() if share >= KNOWN or run.quick][: run.few(12)]
    stats = run.statistics("relations", lambda: prompts, ["responses@mlp.neuron"])
    most = round(SHARE * sum(stats.site_widths["mlp.neuron"]) / 2)
    neurons = ns.detect(stats, "relations", per_label=most)
    sharing = [
        ns.analyze("sharing", each).facts["shared"]
        for each in (neurons, *(neurons.random_like(seed) for seed in range(run.seeds)))
    ]
    run.found("versatile", sharing[0], n=neurons.num_neurons, random=sharing[1:])
    run.figure("layers", "Neurons of relations by layer", ns.analyze("layers", neurons))
    quarter = max(1, neurons.num_layers // 4)
    run.located("middle", neurons, range(quarter, neurons.num_layers - quarter))
    if len(known) < 2:
        for claim in ("specific", "cumulative", "interference"):
            run.unmeasured(claim, f"the model knows {len(known)} of twelve relations", known=before)
        return
    tasks = [{"name": "relations", "items": run.few(36, 4)}]
    options = {"data": {"relations": {name: facts[name] for name in known}}, "batch_size": 16}
    report = run.evaluate("off", neurons.only(*known), tasks, **options)
    matrix = report.task("relations")["treatments"]["neurons"]["blocks"][0]
    run.reported("specific", report, "relations", "specificity", known=before, matrix=matrix)
    run.reported("interference", report, "relations", "helped")
    few = ns.detect(stats, "relations", per_label=max(1, most // 8))
    part = run.evaluate("eighth", few.only(*known), tasks, **options, controls=())
    drops = [each.value("relations", "intra_drop") or 0.0 for each in (report, part)]
    run.found("cumulative", drops[0] - drops[1], n=len(known), details={"drops": drops})


if __name__ == "__main__":
    main(PAPER, measure)
