"""Does an export give what the hooks give? Writes docs/export_equality.md.

For every model family a tiny random model is saved, steered with hooks, and exported in every way
that does not refuse. One fresh process, in which neuronsteer cannot be imported, then loads all of
it with vanilla transformers and PEFT and returns logits and greedy tokens. Reported is the largest
difference of any logit; every export must also give the same greedy tokens.

    python benchmarks/export_equality.py [--families llama gpt2] [--out docs/export_equality.md]
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from pathlib import Path

import peft
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from neuronsteer.errors import ParameterError  # noqa: E402
from neuronsteer.exports import bake  # noqa: E402
from tests.exports.export_checks import NEW, OPERATIONS, ExportChecks, Outcome  # noqa: E402, TID251
from tests.steering.sets import toy_set  # noqa: E402, TID251
from tests.tiny_models import ALL_FAMILIES, GATED, MOE, tiny_model  # noqa: E402, TID251

# Variants whose checkpoints take another road than the family's default config.
VARIANTS = {
    "mistral (no sliding window)": ("mistral", {"sliding_window": None}),
    "starcoder2 (use_bias=False)": ("starcoder2", {"use_bias": False}),
    "opt (enable_bias=False)": ("opt", {"enable_bias": False}),
    "llama (mlp_bias=True)": ("llama", {"mlp_bias": True}),
    "granite (residual_multiplier=0.22)": ("granite", {"residual_multiplier": 0.22}),
}
COLUMNS = [
    ("IA3", "ia3", ("zero", "scale")),
    ("LoRA without bias", "lora-nobias", ("zero", "scale")),
    ("LoRA with bias", "lora", ("zero", "scale", "set", "add", "set at mlp.act")),
    ("baked checkpoint", "baked", ("zero", "scale", "set", "add", "set at mlp.act")),
    ("control vector", "gguf", ("add", "set")),
]
LIMIT = 1e-4


def prepare(checks: ExportChecks, name: str, family: str, config: dict) -> float:
    """Export everything that does not refuse; returns the size of the largest logit."""
    model = tiny_model(family, layers=3, **config)
    base = checks.base(model, slug(name))
    for _, to, operations in COLUMNS[:-1]:
        for operation in operations:
            if "act" in operation and family not in GATED and family not in MOE:
                continue
            try:
                checks.add(base, to, case(name, to, operation), operation=OPERATIONS[operation])
            except ParameterError:
                continue
    neurons = base.neurons
    later = neurons.take(neurons.layer > 0, neurons.labels)
    base.neurons = later
    try:
        checks.add(base, "gguf", case(name, "gguf", "add"), operation="add")
    except ParameterError:
        return float(base.plain.abs().max())
    half = bake(base.folder, later, checks.root / "half" / slug(name), "fr", "set", part="scale")
    checks.add(
        base,
        "gguf",
        case(name, "gguf", "set"),
        operation="set",
        export_options={"part": "constant"},
        job={"base": str(half.path)},
    )
    return float(base.plain.abs().max())


def half_precision(checks: ExportChecks) -> None:
    """Export bfloat16 models, whose rounding each route meets elsewhere."""
    for family in ("llama", "gpt2"):
        folder = checks.root / "half-precision" / family
        tiny_model(family, layers=3, dtype=torch.bfloat16).save_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        base = checks.base(model, f"bf16-{family}", toy_set(model))
        for to, operation in (
            ("ia3", "zero"),
            ("lora", "zero"),
            ("baked", "zero"),
            ("lora", "set"),
            ("baked", "set"),
        ):
            checks.add(base, to, case(f"bf16-{family}", to, operation), operation=operation)


def case(name: str, to: str, operation: str) -> str:
    return f"{slug(name)}--{to}--{slug(operation)}"


def slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "_=." else "-" for c in text)


def cell(outcome: Outcome | str | None) -> str:
    if outcome is None:
        return "–"
    if isinstance(outcome, str):
        return f"**fails**: {outcome[:60]}"
    mark = "" if outcome.same_tokens and outcome.delta <= LIMIT else " **differs**"
    return ("0" if outcome.delta == 0 else f"{outcome.delta:.0e}") + mark


def table(rows: dict[str, float], columns: list, outcomes: dict[str, Outcome | str]) -> str:
    heads = [f"{title}: {op}" for title, _, operations in columns for op in operations]
    lines = ["| model_type | " + " | ".join(heads) + " | largest logit |"]
    lines.append("| --- |" + " --- |" * (len(heads) + 1))
    for name, largest in rows.items():
        cells = [
            cell(outcomes.get(case(name, to, operation)))
            for _, to, operations in columns
            for operation in operations
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {largest:.0f} |")
    return "\n".join(lines) + "\n"


def bf16_table(outcomes: dict[str, Outcome | str]) -> list[str]:
    lines = [
        "| model | export | operation | largest difference | what steering changed | tokens |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, outcome in outcomes.items():
        if not name.startswith("bf16-") or isinstance(outcome, str):
            continue
        model, to, operation = name.removeprefix("bf16-").split("--")
        same = "same" if outcome.same_tokens else "differ"
        delta = f"{outcome.delta:.1e} | {outcome.effect:.1f}"
        lines.append(f"| {model} | {to} | {operation} | {delta} | {same} |")
    return lines


def document(rows: dict[str, float], outcomes: dict[str, Outcome | str]) -> str:
    exact = {k: v for k, v in outcomes.items() if not k.startswith("bf16-")}
    good = [v for v in exact.values() if isinstance(v, Outcome)]
    same = sum(outcome.same_tokens for outcome in good)
    worst = max(outcome.delta for outcome in good)
    weakest = min(outcome.effect for outcome in good)
    head = f"""# Exports equal the hooks

Generated by `benchmarks/export_equality.py` on {datetime.date.today()} with transformers
{transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}. Do not edit.

Every cell is the largest difference of any logit between steering with hooks and the export, which
a fresh process loaded with vanilla transformers and PEFT; `import neuronsteer` failed there, and
the process knew nothing of what the result should be. Models are tiny, random, float32, three
layers, and six neurons per layer are steered.

**{len(good)} exports of {len(rows)} models: {same} give the same {NEW} greedy tokens for both
prompts; largest difference {worst:.1e}.** Failed to load: {len(exact) - len(good)}. The operations
themselves change some logit by at least {weakest:.2f}.

A dash is a refusal, with a message that names the reason and the alternative: a family without MLP
bias cannot bake `set` and `add` (mistral and qwen2 can, written as llama, unless they have a
sliding window); experts cannot be wrapped by PEFT; a control vector is not equivalent where a norm
follows the MLP. `set at mlp.act` is the same as `set` in families without a gate, and `add at
mlp.act` cannot be exported at all in gated ones. The control vector for `set` is its constant part,
together with a checkpoint baked with `part="scale"`; llama.cpp has no control vector for layer 0,
so those two columns steer layers 1 and 2 only. Control vectors were applied by a stand-in written
from llama.cpp's source (add `direction.k` to the output of block k); llama.cpp itself was not run.

## Checkpoints and control vectors

"""
    middle = "\n## PEFT adapters\n\n"
    tail = """
## bfloat16

Here each route rounds in another place, so logits differ by what bfloat16 rounds anyway, and where
two logits are nearly equal, tokens may too. `zero` in a baked checkpoint or IA3 is exact. The LoRA
form computes the unwanted term and subtracts it, so it loses most with outlier neurons.

"""
    checkpoints = table(rows, COLUMNS[3:], outcomes)
    adapters = table({k: v for k, v in rows.items() if k not in MOE}, COLUMNS[:3], outcomes)
    return head + checkpoints + middle + adapters + tail + "\n".join(bf16_table(outcomes)) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="*", default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "export_equality.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    models = {name: (name, {}) for name in arguments.families or ALL_FAMILIES}
    if arguments.families is None:
        models |= VARIANTS
    with tempfile.TemporaryDirectory() as scratch:
        checks = ExportChecks(Path(scratch))
        rows = {name: prepare(checks, name, *model) for name, model in models.items()}
        half_precision(checks)
        outcomes = checks.run()
        if checks.report["neuronsteer"] or checks.report["modules"]:
            raise SystemExit("neuronsteer could be imported in the fresh process: not a test")
    text = document(rows, outcomes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, encoding="utf-8")
    print(text)
    bad = [
        name
        for name, outcome in outcomes.items()
        if isinstance(outcome, str)
        or (not name.startswith("bf16-") and not (outcome.same_tokens and outcome.delta <= LIMIT))
    ]
    for name in bad:
        print("NOT EQUAL:", name, outcomes[name], file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
