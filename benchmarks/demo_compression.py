"""Held-out bits per byte of the demo model, beside compressors primed with the same training text.

    python benchmarks/demo_compression.py --pretrain PRETRAIN --heldout HELDOUT [--model demo]

`xz -9` and, if the package `pyppmd` is installed, PPMd (order 8) compress training text followed by
held-out text; what the held-out text adds is their figure. The model's figure counts every token of
the same text, in windows of 512 tokens of which the second half is scored. Lines are joined as in
the model's training, by a space, or by nothing in Chinese and Japanese.
"""

from __future__ import annotations

import argparse
import lzma
import math
from pathlib import Path

import torch

from neuronsteer.cli.models import load_model

WINDOW = 512


def read(folder: Path, language: str) -> bytes:
    with lzma.open(folder / f"{language}.txt.xz") as file:
        return file.read().replace(b"\n", b"" if language in ("zh", "ja") else b" ")


def by_xz(prefix: bytes, text: bytes) -> float:
    def size(data: bytes) -> int:
        filters = [
            {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 25}
        ]
        return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))

    return 8 * (size(prefix + text) - size(prefix)) / len(text)


def by_ppmd(prefix: bytes, text: bytes) -> float | None:
    try:
        import pyppmd
    except ModuleNotFoundError:
        return None

    def size(data: bytes) -> int:
        encoder = pyppmd.Ppmd7Encoder(8, 1 << 29)
        return len(encoder.encode(data)) + len(encoder.flush())

    return 8 * (size(prefix + text) - size(prefix)) / len(text)


@torch.inference_mode()
def by_model(model, tokenizer, text: str) -> float:
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
    half = WINDOW // 2
    nats = 0.0
    for start in range(0, len(ids), half):
        context = ids[max(start - half, 0) : start]
        scored = ids[start : start + half]
        first = torch.tensor([tokenizer.bos_token_id])
        row = torch.cat([first, context, scored])[None]
        logits = model(row).logits[0, len(context) : -1].float()
        nats += torch.nn.functional.cross_entropy(logits, scored, reduction="sum").item()
    return nats / math.log(2) / len(text.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrain", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--languages", default="en,de,fr,es,zh,ja,ru,ar")
    parser.add_argument("--bytes", type=int, default=60_000, help="held-out bytes per language")
    arguments = parser.parse_args()
    model, tokenizer = load_model(arguments.model)
    print("| language | model | PPMd | xz -9 |\n|---|---|---|---|")
    for language in arguments.languages.split(","):
        cut = read(arguments.heldout, language)[: arguments.bytes]
        text = cut.decode(errors="ignore").encode()  # the cut may be inside a character
        prefix = read(arguments.pretrain, language)
        cells = [
            by_model(model, tokenizer, text.decode()),
            by_ppmd(prefix, text),
            by_xz(prefix, text),
        ]
        shown = ["" if cell is None else f"{cell:.3f}" for cell in cells]
        print(f"| {language} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
