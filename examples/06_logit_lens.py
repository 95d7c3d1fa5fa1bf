"""Ask every layer which language it would go on in, and see where the language neurons are.

python examples/06_logit_lens.py                                       # the demo model, offline
python examples/06_logit_lens.py --model Qwen/Qwen3-0.6B --texts corpus/ --pivot en --out plots/
"""

import argparse

from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import LANGUAGES, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="Hub id or folder (default: the demo model)")
    parser.add_argument("--texts", help="folder with one file per language: fr.txt, ja.jsonl …")
    parser.add_argument("--pivot", default="en", help="language that the model may be thinking in")
    parser.add_argument("--limit", type=int, default=20, help="texts per language")
    parser.add_argument("--out", help="folder for JSON, PNG and SVG")
    options = parser.parse_args()

    model_id = options.model or model_folder()
    model = AutoModelForCausalLM.from_pretrained(model_id)
    tokenizer = AutoTokenizer.from_pretrained(model_id)
    corpora = options.texts or {name: texts(name, options.limit, 2, seed=3) for name in LANGUAGES}

    # 1. The model's own norm and head, applied to the hidden states of every layer. A tuned lens
    #    goes in as lens=function(hidden, layer), or as a list with one function per layer.
    lens = ns.analyze("logit_lens", model, tokenizer, corpora, limit=options.limit)
    print("language of the likeliest next tokens, layer by layer:")
    for label, layers in lens.facts["thinks_in"].items():
        print(f"  {label}: {' '.join(each or '–' for each in layers)}")

    # 2. Own language or pivot? Three stretches of layers, if the model has that shape at all.
    ratio = ns.analyze(
        "language_ratio", model, tokenizer, corpora, limit=options.limit, pivot=options.pivot
    )
    shape = "as in the paper" if ratio.facts["follows_the_paper"] else "not the paper's shape"
    parts = ", ".join(f"{name} {a}–{b}" for name, (a, b) in ratio.facts["split"].items())
    print(f"layers: {parts} ({shape})")
    print("share of the pivot: " + " ".join(f"{value:.2f}" for value in ratio.facts["ratio"]))

    # 3. Where the neurons are that decide it.
    stats = ns.collect(model, tokenizer, corpora, progress=False)
    where = ns.analyze("layers", ns.detect(stats, "lape", rate=0.05))
    for label, facts in where.facts["labels"].items():
        print(f"{label}: {facts['neurons']} neurons, most of them in layer {facts['peak']}")

    # Every result is a table, JSON and a plot.
    if options.out:
        for result in (lens, ratio, where):
            print("wrote", *result.save(options.out))


if __name__ == "__main__":
    main()
