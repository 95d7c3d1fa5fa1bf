"""Prints continuations of a few prompts by a checkpoint: a look at the training as it goes on."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
from train import newest
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

PROMPTS = {
    "en": "The old man looked at",
    "de": "Der alte Mann sah",
    "fr": "Le vieil homme regarda",
    "es": "El viejo miró",
    "zh": "县级以上人民政府应当",
    "ja": "その時、私は",
    "ru": "Старик посмотрел на",
    "ar": "كان الرجل",
}


def main() -> None:
    """Runs the command line."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder, checkpoint or exported folder")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = newest(args.run) or args.run
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    set_seed(args.seed)
    for language, prompt in PROMPTS.items():
        out = model.generate(
            **tokenizer(prompt, return_tensors="pt"),
            max_new_tokens=args.tokens,
            do_sample=True,
            temperature=args.temperature,
            top_p=0.95,
            pad_token_id=tokenizer.pad_token_id,
            use_cache=True,
        )
        text = tokenizer.decode(out[0], skip_special_tokens=True)
        logging.getLogger("samples").info("%s  %s", language, text)


if __name__ == "__main__":
    main()
