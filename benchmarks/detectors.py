"""What a detector costs on statistics of the shape of a 7B model: seconds and peak memory.

    python benchmarks/detectors.py                 # every method, each in a process of its own
    python benchmarks/detectors.py --method lape
    python benchmarks/detectors.py --texts 100 --json
    python benchmarks/detectors.py --passes        # what collecting costs, in forward passes

Numbers are random; counts are skewed like real ones. Memory is the process's peak, with and without
the statistics themselves (which a real run holds as well).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import time

import torch

from neuronsteer.detectors import DETECTORS, detect, detector
from neuronsteer.stats import REDUCERS, Need, Stats
from neuronsteer.stats.weight_norms import WEIGHT_MEASURES

LAYERS, WIDTH, HIDDEN, LABELS = 32, 14336, 4096, 10
TOKENS = 10**7
# Histograms take 2.4 GB per label at full size: fewer layers, and the result says so.
HISTOGRAM_LAYERS = 4


def labels_of(method: str) -> tuple[str, ...]:
    """Return label names that the method understands."""
    if method == "culture":
        half = LABELS // 2
        return tuple(f"{family}:{k}" for family in ("lang", "culture") for k in range(half))
    return tuple(f"l{k}" for k in range(LABELS))


def statistics(method: str, texts: int, layers: int) -> Stats:
    """Return random statistics with what the method needs."""
    generator = torch.Generator().manual_seed(0)
    labels, needs = labels_of(method), detector(method).needs
    arrays: dict[Need, torch.Tensor] = {}
    rows: dict[Need, dict[str, torch.Tensor]] = {}
    measured: dict[Need, torch.Tensor] = {}
    sites: dict[str, tuple[int, ...]] = {}
    for need in needs:
        width = HIDDEN if need.site == "resid" else WIDTH
        sites[need.site] = (width,) * layers
        shape = (len(labels), layers, width)
        if need.reducer in WEIGHT_MEASURES:
            measured[need] = torch.rand(shape[1:], generator=generator)
        elif need.reducer == "responses":
            share = [texts // len(labels) + (k < texts % len(labels)) for k in range(len(labels))]
            rows[need] = {
                name: torch.randn(count, layers, width, generator=generator)
                for name, count in zip(labels, share, strict=True)
            }
        elif REDUCERS.get(need.reducer).document_measure:
            reducer = REDUCERS.get(need.reducer)
            empty = reducer.start(shape, torch.device("cpu"), total=True)
            found = torch.rand(empty.shape, generator=generator, dtype=torch.float64)
            # Ranks up to the width; of moments, powers of the same order of magnitude.
            scale = width if not reducer.total_dtype.is_floating_point else 1 + empty.shape[-1]
            arrays[need] = (found * scale).to(reducer.total_dtype)
        elif need.reducer == "count":
            arrays[need] = (torch.rand(shape, generator=generator) ** 6 * TOKENS).long()
        elif need.reducer == "quantile":
            tail = REDUCERS.get("quantile").entry_shape
            arrays[need] = torch.randint(
                0, 100, (*shape, *tail), generator=generator, dtype=torch.int32
            )
        else:
            arrays[need] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Stats(
        labels=labels,
        tokens=dict.fromkeys(labels, TOKENS),
        texts=dict.fromkeys(labels, max(1, texts // len(labels))),
        site_widths=sites,
        arrays=arrays,
        rows=rows,
        weight_measures=measured,
        header={"model_type": "llama"},
    )


def measure(method: str, texts: int) -> dict[str, object]:
    """Run one method in this process."""
    reducers = {need.reducer for need in detector(method).needs}
    layers = LAYERS
    if "quantile" in reducers:
        layers = HISTOGRAM_LAYERS
    elif "responses" in reducers:
        # About 300,000 units, as the bar in the issue says.
        layers = round(300_000 / WIDTH)
    stats = statistics(method, texts, layers)
    held = stats.summary()["bytes"] / 2**30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, processor = time.perf_counter(), time.process_time()
    neurons = detect(stats, method)
    return {
        "method": method,
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - processor, 2),
        "statistics_gb": round(held, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "peak_before_gb": round(before, 2),
        "rows": len(neurons),
        "layers": layers,
        "texts": texts if "responses" in reducers else None,
        "parameters": dataclasses.asdict(detector(method)),
    }


def passes(rounds: int = 5) -> dict[str, dict[str, float]]:
    """Return what collecting costs on the demo model, in plain forward passes of its decoder.

    CPU time of one thread, every arm once per round, so that a busy machine disturbs all alike.
    """
    from neuronsteer.cli.models import load_model
    from neuronsteer.demo.sentences import texts
    from neuronsteer.detectors.plnd import SITES
    from neuronsteer.stats import collect

    torch.set_num_threads(1)
    model, tokenizer = load_model("demo")
    model = model.float()
    found = {}
    for sentences in (2, 12):
        corpus = {"en": texts("en", 32, sentences, 0)}
        rows = [torch.tensor([tokenizer(text)["input_ids"]]) for text in corpus["en"]]

        def plain(rows=rows) -> None:
            with torch.inference_mode():
                for ids in rows:
                    model.get_decoder()(input_ids=ids, use_cache=False)

        methods = {
            "lape": detector("lape"),
            **{f"plnd {site}": detector("plnd", site=site) for site in SITES},
            "plnd mlp.neuron, released": detector("plnd", variant="released"),
            "plnd attn.q, released": detector("plnd", site="attn.q", variant="released"),
            "crane": detector("crane"),
            "crane, released": detector("crane", variant="released"),
        }
        arms = {"forward": plain}
        for name, method in methods.items():
            arms[name] = lambda method=method, corpus=corpus: collect(
                model, tokenizer, corpus, needs=detector(method), progress=False
            )
        spent: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, arm in arms.items():
                began = time.process_time()
                arm()
                spent[name].append(time.process_time() - began)
        ratios = {
            name: sorted(a / b for a, b in zip(times, spent["forward"], strict=True))[rounds // 2]
            for name, times in spent.items()
        }
        length = round(sum(row.shape[1] for row in rows) / len(rows))
        found[f"{length} tokens per document"] = {k: round(v, 2) for k, v in ratios.items()}
    return found


def main() -> None:
    """Measure every method, each in a process of its own, so that peaks do not mix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=DETECTORS.names())
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--passes", action="store_true")
    given = parser.parse_args()
    if given.passes:
        print(json.dumps(passes(), indent=1))
        return
    if given.method:
        print(json.dumps(measure(given.method, given.texts)))
        return
    found = []
    for method in DETECTORS.names():
        command = [sys.executable, __file__, "--method", method, "--texts", str(given.texts)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        if not given.json:
            row = found[-1]
            print(
                f"{method:18} {row['seconds']:7.2f} s  {row['cpu_seconds']:7.2f} s CPU  peak "
                f"{row['peak_gb']:.2f} GB (statistics {row['statistics_gb']:.2f})  "
                f"{row['rows']:>8} rows",
                flush=True,
            )
    if given.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
