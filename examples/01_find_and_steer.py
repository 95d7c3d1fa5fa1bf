"""Find what makes a model write a language, and switch language in the middle of a text.

python examples/01_find_and_steer.py                                   # the demo model, offline
python examples/01_find_and_steer.py --model Qwen/Qwen3-0.6B --texts corpus/ --prompt "Today"
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
    parser.add_argument("--prompt", default="The black cat sleeps in the garden.")
    parser.add_argument("--method", default="diffmean", help="or effect, which chooses neurons")
    parser.add_argument("--out", help="save the neuron set to this folder")
    options = parser.parse_args()

    model_id = options.model or model_folder()
    model = AutoModelForCausalLM.from_pretrained(model_id)
    tokenizer = AutoTokenizer.from_pretrained(model_id)

    # 1. Statistics of every neuron over texts of each language.
    corpora = options.texts or {name: texts(name, 100, 3, seed=7) for name in LANGUAGES}
    stats = ns.collect(model, tokenizer, corpora)

    # 2. What moves the model from each language to each other.
    neurons = ns.detect(stats, options.method)
    print(neurons)
    if options.out:
        neurons.save_pretrained(options.out)

    # 3. Steer: the first language, then the others, 24 tokens each.
    first, *others = neurons.labels[:4]
    schedule = ns.Schedule(first, *((24 * (i + 1), label) for i, label in enumerate(others)))
    inputs = tokenizer(options.prompt, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    with ns.attach(model, neurons) as steer:
        steer.to(schedule)
        ids = model.generate(**inputs, max_new_tokens=24 * (1 + len(others)), do_sample=False)
        for start, end, label in steer.spans():
            print(f"{label}: {tokenizer.decode(ids[0, length + start : length + end])}")


if __name__ == "__main__":
    main()
