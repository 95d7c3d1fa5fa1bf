"""Does a neuron set do what it says? Compare it with no steering and with random neurons.

python examples/03_evaluate.py                                        # the demo model, offline
python examples/03_evaluate.py --model Qwen/Qwen3-0.6B --set user/neurons --data heldout/ --seeds 10
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="Hub id or folder; without it, the embedded demo model")
    parser.add_argument("--set", default="demo", help="Hub id or folder of its neuron set")
    parser.add_argument("--tasks", default="forcing,switch,lss", help="or all that there are")
    parser.add_argument("--data", help="folder with texts and tasks; without it, a few sentences")
    parser.add_argument("--limit", type=int, default=4, help="items per language")
    parser.add_argument("--seeds", type=int, default=3, help="random sets to compare with")
    parser.add_argument("--out", help="write report.html, report.md and report.json here")
    options = parser.parse_args()

    model_id = options.model or model_folder()
    model = AutoModelForCausalLM.from_pretrained(model_id)
    tokenizer = AutoTokenizer.from_pretrained(model_id)
    neurons = ns.NeuronSet.from_pretrained(options.set)

    # 1. Every experiment is run for the set and for its controls.
    report = ns.evaluate(
        model,
        neurons,
        tokenizer=tokenizer,
        tasks=options.tasks,
        controls=["none", f"random:{options.seeds}"],
        data=options.data,
        limit=options.limit,
        out=options.out,
        resume=bool(options.out),
    )

    # 2. A number means something only next to what random neurons reach.
    for name in report.names:
        ours, random = report.value(name), report.value(name, treatment="random")
        print(f"{report.task(name)['title']}: {ours:.1%}, random neurons {random:.1%}")
    for label in neurons.labels:
        if neurons.counts[label]:
            print(f"  forced into {label}: {report.value('forcing', label=label):.0%}")

    # 3. With the results in the set, push_to_hub() writes them into its card, as model-index.
    evaluated = neurons.replace(evaluation=report.to_evaluation())
    print(f"{len(evaluated.evaluation['results'])} results for the card")


if __name__ == "__main__":
    main()
