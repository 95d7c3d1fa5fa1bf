"""What it costs to load and attach the set of a 7B model, and how large its file is.

The set has the shape of the one that LAPE finds in Llama-2-7B: 32 layers of 11008 neurons, 3,523
different neurons, some of them owned by several of seven labels. The model has those layers and
that width too, but a tiny hidden size: attaching never looks at weights.

CPU time of one thread, medians; a shared machine does not count then.

    python benchmarks/load.py [--rounds 30] [--profile]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from neuronsteer.neuron_set import NeuronSet
from neuronsteer.steering.steerer import attach

LABELS = ("en", "zh", "fr", "es", "vi", "id", "ja")
LAYERS, WIDTH, NEURONS, SHARED = 32, 11008, 3523, 477
LIMIT_BYTES, LIMIT_MS = 200_000, 100


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=8,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def neurons() -> NeuronSet:
    """3,523 different neurons in 4,000 rows, with the statistics that steering uses."""
    rng = torch.Generator().manual_seed(0)
    chosen = torch.randperm(LAYERS * WIDTH, generator=rng)[:NEURONS]
    first = torch.randint(0, len(LABELS), (NEURONS,), generator=rng)
    second = (first[:SHARED] + 1) % len(LABELS)
    where, label = torch.cat([chosen, chosen[:SHARED]]), torch.cat([first, second])
    rows = len(where)
    names = ["mlp.neuron.mean", "mlp.neuron.max", "mlp.neuron.other_mean"]
    names += ["mlp.act.mean", "mlp.act.max", "mlp.act.prob", "mlp.act.other_mean"]
    return NeuronSet.from_rows(
        LABELS,
        label=label,
        layer=where // WIDTH,
        index=where % WIDTH,
        score=torch.rand(rows, generator=rng),
        values={name: torch.randn(rows, generator=rng) for name in names},
        site="mlp.act",
        num_layers=LAYERS,
        width=WIDTH,
        model_type="llama",
        base_model="meta-llama/Llama-2-7b-hf",
        method={"name": "lape", "parameters": {"rate": 0.01}},
        calibration={label: {"corpus": "wiki", "tokens": 10**8} for label in LABELS},
        operation={"name": "set", "value": "mean", "site": "mlp.neuron"},
    )


def milliseconds(run: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median and the minimum."""
    laps = []
    for _ in range(rounds):
        start = time.thread_time()
        run()
        laps.append(1000 * (time.thread_time() - start))
    return statistics.median(laps), min(laps)


def measure(rounds: int) -> dict[str, object]:
    made, base = neurons(), model()
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        sizes = {path.name: path.stat().st_size for path in sorted(Path(folder).iterdir())}
        assert NeuronSet.from_pretrained(folder) == made

        def both(probe: bool) -> None:
            attach(base, NeuronSet.from_pretrained(folder), probe=probe).detach()

        runs: dict[str, Callable[[], object]] = {
            "from_pretrained": lambda: NeuronSet.from_pretrained(folder),
            "attach": lambda: attach(base, made).detach(),
            "attach without probe": lambda: attach(base, made, probe=False).detach(),
            "forward of one token": lambda: base(torch.ones(1, 1, dtype=torch.long)),
            "from_pretrained + attach": lambda: both(True),
            "from_pretrained + attach without probe": lambda: both(False),
        }
        with torch.no_grad():
            for run in runs.values():
                run()
            times = {name: milliseconds(run, rounds) for name, run in runs.items()}
    return {"neurons": made.num_neurons, "rows": len(made), "bytes": sizes, "ms": times}


def profile() -> None:
    made, base = neurons(), model()
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        for name, run in (
            ("from_pretrained", lambda: NeuronSet.from_pretrained(folder)),
            ("attach", lambda: attach(base, made).detach()),
        ):
            run()
            profiler = cProfile.Profile(time.thread_time)
            profiler.enable()
            for _ in range(20):
                run()
            profiler.disable()
            print(name)
            pstats.Stats(profiler).sort_stats("tottime").print_stats(18)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.profile:
        return profile()
    found = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return None
    print(f"{found['neurons']} neurons in {found['rows']} rows")
    for name, size in found["bytes"].items():
        print(f"{name:42} {size:8,} B")
    for name, (median, least) in found["ms"].items():
        print(f"{name:42} {median:7.1f} ms (least {least:.1f})")
    small = found["bytes"]["neurons.safetensors"] <= LIMIT_BYTES
    fast = found["ms"]["from_pretrained + attach"][0] <= LIMIT_MS
    print(f"file within {LIMIT_BYTES:,} B: {small}; load and attach within {LIMIT_MS} ms: {fast}")
    return None


if __name__ == "__main__":
    main()
