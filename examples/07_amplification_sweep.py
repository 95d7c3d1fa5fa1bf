"""Which operation, how strong, on how many neurons? Success against damage, and the best of both.

python examples/07_amplification_sweep.py                              # the demo model, offline
python examples/07_amplification_sweep.py --model Qwen/Qwen3-0.6B --set user/neurons --out sweep
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="Hub id or folder; without it, the embedded demo model")
    parser.add_argument("--set", default="demo", help="Hub id or folder of its neuron set")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--labels", nargs="+", help="only these labels; default: the first four")
    parser.add_argument("--data", help="folder with texts and tasks; without it, a few sentences")
    parser.add_argument("--limit", type=int, default=3, help="items per language")
    parser.add_argument("--out", help="write the report, with its plot, here")
    options = parser.parse_args()

    model_id = options.model or model_folder()
    model = AutoModelForCausalLM.from_pretrained(model_id)
    tokenizer = AutoTokenizer.from_pretrained(model_id)
    neurons = ns.NeuronSet.from_pretrained(options.set)
    labels = options.labels or [label for label in neurons.labels if neurons.counts[label]][:4]

    sweep = {
        "name": "sweep",
        # "own" is what the set says; the others are the papers' ways to amplify.
        "operations": ["own", {"name": "set", "value": "mean"}, {"name": "scale", "factor": 3.0}],
        "strengths": options.strengths,
        "rates": options.rates,
        "tokens": 24,
    }
    report = ns.evaluate(
        model,
        neurons,
        tokenizer=tokenizer,
        tasks=[sweep],
        controls="random:1",
        labels=labels,
        data=options.data,
        limit=options.limit,
        out=options.out,
    )

    for treatment in ("neurons", "random"):
        best = report.value("sweep", treatment=treatment)
        print(f"{treatment}: the best setting has success x fluency = {best:.2f}")
    (plot, _) = report.task("sweep")["treatments"]["neurons"]["blocks"]
    print("On the frontier, where more success costs fluency:")
    for point in sorted(plot["points"], key=lambda point: -point["x"]):
        if point["best"]:
            print(f"  {point['label']}: success {point['x']:.0%}, fluency {point['y']:.0%}")


if __name__ == "__main__":
    main()
