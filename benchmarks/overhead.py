"""What steering costs: decode time per token, attach time and switch time.

Interleaved runs on one machine (A B C A B C …), medians of per-round ratios, so that a drifting or
shared machine does not decide the outcome. Throughput ratios below are unsteered time divided by
steered time: 1.00 means free, 0.95 means 5 % slower.

    python benchmarks/overhead.py [--rounds 15] [--tokens 48] [--only 64] [--markdown]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from neuronsteer.neuron_set import NeuronSet
from neuronsteer.steering.schedule import Schedule
from neuronsteer.steering.steerer import attach

# hidden 64: only framework overhead is left, which is what GPU decoding at batch 1 looks like.
SHAPES = {64: 16, 512: 8, 2048: 4}
SHARE = 0.01


def llama(hidden: int, layers: int):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=int(hidden * 2.75),
        num_hidden_layers=layers,
        num_attention_heads=max(hidden // 64, 4),
        num_key_value_heads=max(hidden // 64, 4),
        vocab_size=4096,
        max_position_embeddings=512,
        eos_token_id=None,
        bos_token_id=1,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def neurons_for(model) -> NeuronSet:
    config = model.config
    layers, width = config.num_hidden_layers, config.intermediate_size
    per_layer = max(int(SHARE * width), 1)
    generator = torch.Generator().manual_seed(0)
    rows = [
        (label, layer, index)
        for label in range(3)
        for layer in range(layers)
        for index in torch.randperm(width, generator=generator)[:per_layer].tolist()
    ]
    mean = torch.randn(len(rows), generator=generator) * 0.1
    return NeuronSet.from_rows(
        ["en", "fr", "ja"],
        *zip(*rows, strict=True),
        values={"mlp.neuron.mean": mean},
        site="mlp.neuron",
        num_layers=layers,
        width=width,
        operation={"name": "set", "value": "mean"},
    )


def seconds(run: Callable[[], object]) -> float:
    # CPU time of this thread (there is only one): what else the machine does must not count.
    start = time.thread_time()
    run()
    return time.thread_time() - start


def measure(hidden: int, layers: int, rounds: int, tokens: int) -> dict[str, float]:
    model = llama(hidden, layers)
    neurons = neurons_for(model)
    ids = torch.randint(3, 4096, (1, 16), generator=torch.Generator().manual_seed(1))

    def decode() -> None:
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
        )

    def steered(target) -> Callable[[], float]:
        def run() -> float:
            with attach(model, neurons) as steer:
                if target is not None:
                    steer.to(target)
                return seconds(decode)

        return run

    def empty_hooks() -> float:
        # What torch itself takes for calling a hook that does nothing: nobody can be cheaper.
        hooks = [
            layer.mlp.down_proj.register_forward_pre_hook(lambda _module, _args: None)
            for layer in model.model.layers
        ]
        try:
            return seconds(decode)
        finally:
            for hook in hooks:
                hook.remove()

    kinds: dict[str, Callable[[], float]] = {
        "plain": lambda: seconds(decode),
        "empty hooks": empty_hooks,
        "unset": steered(None),
        "steered": steered("fr"),
        "schedule": steered(Schedule("en", (tokens // 3, "fr"), (2 * tokens // 3, "ja"))),
        "per row": steered(["fr"]),
    }
    for run in kinds.values():
        run()
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    order = list(kinds)
    for round_ in range(rounds):
        # The order turns, so that no kind always runs after the same neighbour.
        for kind in order[round_ % len(order) :] + order[: round_ % len(order)]:
            times[kind].append(kinds[kind]())
    found = {"ms per token": 1000 * statistics.median(times["plain"]) / tokens}
    for kind in order[1:]:
        ratios = [a / b for a, b in zip(times["plain"], times[kind], strict=True)]
        found[kind] = statistics.median(ratios)
    found["attach ms"] = 1000 * statistics.median(
        seconds(lambda: attach(model, neurons).detach()) for _ in range(15)
    )
    with attach(model, neurons) as steer:
        steer.to("fr")
        steer.to("ja")
        laps = [
            seconds(lambda: [steer.to(label) for label in ("fr", "ja") * 50]) / 100
            for _ in range(15)
        ]
        found["switch µs"] = 1e6 * statistics.median(laps)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--only", type=int, choices=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = None
    for hidden, layers in SHAPES.items():
        if arguments.only in (None, hidden):
            found = measure(hidden, layers, arguments.rounds, arguments.tokens)
            if columns is None:
                columns = list(found)
                print("| hidden × layers | " + " | ".join(columns) + " |")
                print("|---|" + "---|" * len(columns))
            cells = [f"{found[c]:.3f}" if found[c] < 2 else f"{found[c]:.1f}" for c in columns]
            print(f"| {hidden} × {layers} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
