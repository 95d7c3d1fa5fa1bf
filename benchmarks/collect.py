"""What collecting costs: time of `neuronsteer.collect` ÷ time of the plain decoder forward.

Both see the same packed blocks of tokens, without LM head and cache. Passes are interleaved and
medians are compared. Run on an idle machine, or with `--clock cpu` and one thread on a shared one:

    python benchmarks/collect.py                  # the two sizes of the README
    python benchmarks/collect.py --quick          # seconds: does it still work?
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

import neuronsteer as ns
from neuronsteer.stats import DEFAULT_NEEDS

VOCAB = 4096
NEEDS = {
    "counts only": ("count@mlp.act",),
    "default": DEFAULT_NEEDS,
}
SIZES = {  # name -> hidden size, layers, MLP width, heads
    "hidden 64, 8 layers": (64, 8, 176, 4),
    "hidden 512, 8 layers": (512, 8, 1408, 8),
    "hidden 2048, 4 layers": (2048, 4, 5632, 16),
}


def build(hidden: int, layers: int, width: int, heads: int, dtype: torch.dtype) -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=width,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
    )
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0")


def texts(tokens: int) -> list[str]:
    draw = random.Random(0)
    words = [f"w{draw.randrange(VOCAB)}" for _ in range(tokens)]
    return [" ".join(words[i : i + 50]) for i in range(0, tokens, 50)]


def interleaved(
    runs: dict[str, Callable[[], None]], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            run()
            taken[name].append(clock() - start)
    return taken


def measure(
    model: PreTrainedModel, block: int, rows: int, batches: int, repeats: int, clock: str
) -> dict[str, list[float]]:
    device = model.device
    cuda = device.type == "cuda"
    corpus = texts(block * rows * batches)
    tok = tokenizer()
    ids = torch.tensor(tok(" ".join(corpus))["input_ids"]).view(batches, rows, block)
    decoder = model.get_decoder()

    def plain() -> None:
        with torch.inference_mode():
            for batch in ids:
                decoder(input_ids=batch.to(device), use_cache=False)
        if cuda:
            torch.cuda.synchronize()

    def collecting(needs: tuple) -> Callable[[], None]:
        def run() -> None:
            ns.collect(
                model,
                tok,
                {"x": corpus},
                needs=needs,
                block_size=block,
                batch_size=rows,
                progress=False,
            )

        return run

    runs = {"plain": plain, **{name: collecting(needs) for name, needs in NEEDS.items()}}
    return interleaved(runs, repeats, time.thread_time if clock == "cpu" else time.perf_counter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="*", default=list(SIZES)[1:], choices=list(SIZES))
    parser.add_argument("--block", type=int, default=512, help="tokens per row")
    parser.add_argument("--rows", type=int, default=4, help="rows per batch")
    parser.add_argument("--batches", type=int, default=4, help="batches per pass")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--quick", action="store_true", help="smallest size, two repeats")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.quick:
        arguments.sizes, arguments.repeats, arguments.batches = list(SIZES)[:1], 2, 2
    print(
        f"torch {torch.__version__}, {arguments.device}, {arguments.dtype}, {arguments.threads} "
        f"thread(s), blocks of {arguments.block}, {arguments.rows} rows, {arguments.clock} time\n"
    )
    print("| model | what | ms per 1000 tokens | ÷ plain forward | spread of the ratio |")
    print("| --- | --- | --- | --- | --- |")
    for name in arguments.sizes:
        model = build(*SIZES[name], getattr(torch, arguments.dtype)).to(arguments.device)
        taken = measure(
            model,
            arguments.block,
            arguments.rows,
            arguments.batches,
            arguments.repeats,
            arguments.clock,
        )
        tokens = arguments.block * arguments.rows * arguments.batches / 1000
        for what, times in taken.items():
            ratios = sorted(t / p for t, p in zip(times, taken["plain"], strict=True))
            middle = statistics.median(ratios)
            print(
                f"| {name} | {what} | {statistics.median(times) / tokens * 1e3:.1f} | "
                f"{middle:.3f} | {ratios[0]:.3f} – {ratios[-1]:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
