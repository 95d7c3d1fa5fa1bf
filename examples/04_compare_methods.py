"""Every method on the same texts: what it selects, and what a budget of its neurons can do.

python examples/04_compare_methods.py                   # the demo model, four languages, offline
python examples/04_compare_methods.py --texts corpus/ --model Qwen/Qwen3-0.6B --methods lape,effect

Under a budget: how many continuations came out in the target language without stuttering / the nats
per token that text of that language loses. `random` has as many neurons per label and layer as the
largest set, with the values that they have in the label.
"""

import argparse
import itertools

from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.codecs.training import fit
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import LANGUAGES, texts
from neuronsteer.errors import NeuronSteerError
from neuronsteer.evaluation.collect_many import collect_for, widened
from neuronsteer.evaluation.comparison import compare
from neuronsteer.evaluation.frontier import frontier
from neuronsteer.stats.texts import read_sources

ADD = {"name": "add", "value": "diffmean", "factor": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="Hub id or folder (default: the demo model)")
    parser.add_argument("--texts", help="folder with one file per language: fr.txt, ja.jsonl …")
    parser.add_argument("--methods", help="comma-separated (default: all that are registered)")
    parser.add_argument("--limit", type=int, default=60, help="texts per language")
    parser.add_argument("--prompts", type=int, default=4, help="prompts per language")
    options = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(options.model or model_folder())
    tokenizer, reserved = AutoTokenizer.from_pretrained(model.name_or_path), options.prompts + 6
    if options.texts:
        some = {s.label: list(itertools.islice(s.read(), options.limit + reserved))
                for s in read_sources(options.texts)}  # fmt: skip
    else:
        some = {name: texts(name, options.limit + reserved, 3, seed=7) for name in LANGUAGES}
    kept = {name: found[reserved:] for name, found in some.items()}
    prompts = {n: [t[: len(t) // 4] for t in found[: options.prompts]] for n, found in some.items()}
    unseen = {name: found[options.prompts : reserved] for name, found in some.items()}

    # Autoencoders for the method that reads features; then the statistics, in few passes.
    chosen = options.methods.split(",") if options.methods else ns.detectors.DETECTORS.names()
    mixed = list(itertools.chain(*zip(*kept.values(), strict=False)))
    middle = (model.config.num_hidden_layers - 1) // 2
    codec = fit(model, tokenizer, mixed, [middle], features=256) if "sae_lape" in chosen else None
    stats = collect_for(model, tokenizer, kept, ["effect", *chosen], codec=codec, progress=False)
    base = stats["effect"]  # has the means that all are steered with
    published, ranked, skipped = {}, {}, {}
    for name in chosen:
        try:
            published[name] = ns.detect(stats[name], name)
            found = ns.detect(stats[name], widened(name, sum(base.widths), 0.1))
        except NeuronSteerError as error:
            skipped[name] = error
            continue
        is_mlp = found.site in ("mlp.act", "mlp.neuron")
        ranked[name] = found.with_values(base, "means") if is_mlp else found
        if codec and found.site == codec.site:
            ranked[name] = codec.with_directions(found)

    curves = frontier(model, ranked, tokenizer, prompts, unseen, operation=ADD, stats=base,
                      candidates=list(some))  # fmt: skip
    alike = compare(base, published.values())
    console = Console(width=160)
    reference = "lape" if "lape" in published else next(iter(published))
    console.print(curves.table(alike.facts(reference)))
    for name, error in skipped.items():
        console.print(f"{name} is left out: {error}", style="dim", markup=False)


if __name__ == "__main__":
    main()
