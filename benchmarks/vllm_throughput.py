"""What steering costs a vLLM server: 16 concurrent requests, steered and unsteered.

Two engines in one process, one without neuron steering and one with, take turns; every round runs
every arm once, in random order. The ratio is that of unsteered to steered CPU time in the same
round (on a GPU: of wall-clock time), so that a drifting or shared machine does not decide the
outcome. 1.00 means free, 0.95 means 5 % slower.

    make test-vllm        # creates .venv-vllm
    OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/vllm_throughput.py --hidden 768 [--compiled]
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from neuronsteer.neuron_set import NeuronSet

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

REQUESTS, PROMPT, SHARE = 16, 32, 0.01
LABELS = ("en", "fr", "ja")
ARMS: dict[str, list[str | None]] = {
    "no sets configured": [None] * REQUESTS,
    "sets, nothing steered": [None] * REQUESTS,
    "one label": ["fr"] * REQUESTS,
    "three labels mixed": [LABELS[i % 3] for i in range(REQUESTS)],
    "schedules": ["en,10:fr,20:ja"] * REQUESTS,
    "half strength": ["fr*0.5"] * REQUESTS,
    "every other request": ["fr" if i % 2 else None for i in range(REQUESTS)],
}


def checkpoint(folder: Path, hidden: int, layers: int) -> str:
    """Write a model with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=int(hidden * 8 / 3) // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=max(hidden // 64, 1),
        num_key_value_heads=max(hidden // 64, 1),
        vocab_size=512,
        max_position_embeddings=512,
        initializer_range=0.05,
        tie_word_embeddings=False,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


def neurons(folder: Path, model: str) -> str:
    """Write a set of three labels, each with 1 % of every layer's neurons."""
    config = LlamaConfig.from_pretrained(model)
    layers, width = config.num_hidden_layers, config.intermediate_size
    draw = torch.Generator().manual_seed(0)
    rows = [
        (label, layer, index)
        for label in range(len(LABELS))
        for layer in range(layers)
        for index in torch.randperm(width, generator=draw)[: int(SHARE * width)].tolist()
    ]
    NeuronSet.from_rows(
        LABELS,
        *zip(*rows, strict=True),
        values={"mlp.neuron.mean": torch.randn(len(rows), generator=draw)},
        site="mlp.neuron",
        num_layers=layers,
        width=width,
        model_type="llama",
        operation={"name": "set", "value": "mean"},
    ).save_pretrained(folder)
    return str(folder)


def engine(model: str, compiled: bool, dtype: str, additional: dict[str, Any]) -> Any:
    """Start an engine."""
    from vllm import LLM

    options: dict[str, Any] = {"num_gpu_blocks_override": 128, "block_size": 32}
    if torch.cuda.is_available():
        options = {"gpu_memory_utilization": 0.3}
    return LLM(
        model=model, dtype=dtype, max_model_len=256, max_num_seqs=REQUESTS, seed=0,
        enforce_eager=not compiled, enable_prefix_caching=False, skip_tokenizer_init=True,
        additional_config=additional, **options,
    )  # fmt: skip


def measure(
    plain: Any, steered: Any, rounds: int, tokens: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Return the seconds of every arm in every round."""
    from vllm import SamplingParams

    chosen = random.Random(0)
    prompts = [
        {"prompt_token_ids": [chosen.randrange(3, 500) for _ in range(PROMPT)]}
        for _ in range(REQUESTS)
    ]
    times: dict[str, list[float]] = {name: [] for name in ARMS}
    for number in range(rounds + 1):
        order = list(ARMS)
        chosen.shuffle(order)
        for name in order:
            params = [
                SamplingParams(
                    temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False,
                    extra_args={"neuronsteer": plan} if plan else None,
                )
                for plan in ARMS[name]
            ]  # fmt: skip
            llm = plain if name == "no sets configured" else steered
            before = clock()
            llm.generate(prompts, params, use_tqdm=False)
            if number:  # the first round warms up
                times[name].append(clock() - before)
    return times


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compiled", action="store_true", help="Let vLLM compile the model.")
    given = parser.parse_args()
    cuda = torch.cuda.is_available()
    clock = time.perf_counter if cuda else time.process_time
    with tempfile.TemporaryDirectory() as scratch:
        model = checkpoint(Path(scratch) / "model", given.hidden, given.layers)
        sets = {"neuronsteer": {"sets": neurons(Path(scratch) / "set", model), "capacity": 8}}
        plain = engine(model, given.compiled, given.dtype, {})
        steered = engine(model, given.compiled, given.dtype, sets)
        times = measure(plain, steered, given.rounds, given.tokens, clock)
    import vllm

    base = times["no sets configured"]
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    load = os.getloadavg()[0]
    print(
        f"vLLM {vllm.__version__}, torch {torch.__version__}, {where}, load {load:.1f}; hidden "
        f"{given.hidden}, {given.layers} layers, {given.dtype}, "
        f"{'compiled' if given.compiled else 'eager'}; {REQUESTS} requests of {PROMPT}+"
        f"{given.tokens} tokens, {given.rounds} rounds, per {'' if cuda else 'CPU-'}second; "
        f"unsteered {REQUESTS * given.tokens / statistics.median(base):.0f} tokens/s\n"
    )
    print("| 16 requests | throughput, median | quartiles |")
    print("| --- | --- | --- |")
    for name, found in times.items():
        ratios = [b / x for b, x in zip(base, found, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"| {name} | {middle:.3f} | {low:.3f} – {high:.3f} |")


if __name__ == "__main__":
    main()
