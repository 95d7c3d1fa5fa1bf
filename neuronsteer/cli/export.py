"""`neuronsteer export` and `neuronsteer bake`: steering as files that other tools load."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ParameterError
from . import console, options
from .commands import command
from .models import DEMO, load_set, model_path, quiet_transformers

if TYPE_CHECKING:
    from ..exports import Exported


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What export and bake have in common beside the steering."""

    part: Annotated[
        str,
        typer.Option(
            help="all, or only the scale or the constant part, to put the two into different files."
        ),
    ] = "all"
    revision: options.ModelRevision = None
    overwrite: options.Overwrite = False
    as_json: options.Json = False
    quiet: options.Quiet = False


@command(
    "export",
    examples="""
    neuronsteer export SET --format ia3 --to fr --operation zero -o fr-off
    neuronsteer export SET --format lora --to fr --operation set --value mean --model MODEL -o fr
    neuronsteer export SET --format lora-nobias --to en --operation zero -o en-off-for-vllm
    neuronsteer export SET --format gguf --to fr --operation add --skip-first -o fr-vector
    """,
)
def export(
    neurons: options.NeuronSet,
    *,
    out: options.OutputFolder,
    format: Annotated[
        str,
        typer.Option(
            help="ia3 (zero, scale), lora (every operation), lora-nobias (zero, scale; for vLLM), "
            "gguf (control vector for llama.cpp: add), baked (a checkpoint, as 'bake')."
        ),
    ] = "ia3",
    to: options.To = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Folder or Hub id of the model; default: the set's base model."
        ),
    ] = None,
    steering: options.SteeringOptions,
    skip_first: Annotated[
        bool,
        typer.Option(
            "--skip-first",
            help="gguf: leave out neurons of the first layer, which llama.cpp cannot change.",
        ),
    ] = False,
    writing: ExportOptions,
) -> None:
    """Write what steering to a label does as an adapter or control vector.

    The result needs no neuronsteer: PEFT, vLLM or llama.cpp load it. What a format cannot express
    exactly is refused; the message says which format can. The model's weights are read only where
    needed, never loaded.
    """
    if skip_first and format != "gguf":
        raise ParameterError("--skip-first is for --format gguf; other formats write every layer.")
    from ..exports import EXPORTS
    from ..exports import export as write

    EXPORTS.get(format)
    rows = load_set(neurons)
    if model is None and neurons == DEMO:
        model = DEMO
    quiet_transformers()
    more: dict[str, Any] = {"skip_first": True} if skip_first else {}
    with console.working(f"export to {out}", quiet=writing.quiet):
        done = write(
            None if model is None else model_path(model),
            rows,
            out,
            to,
            format=format,
            part=writing.part,
            revision=writing.revision,
            overwrite=writing.overwrite,
            **steering.arguments(rows.operation),
            **more,
        )
    _report(done, writing)


@command(
    "bake",
    examples="""
    neuronsteer bake MODEL SET --to fr -o model-fr
    neuronsteer bake MODEL SET --to fr --operation set --value mean --away-from en -o model-fr
    neuronsteer bake MODEL SET --to en --operation zero -o model-without-en
    """,
)
def bake(
    model: options.Model,
    neurons: options.NeuronSet,
    *,
    out: options.OutputFolder,
    to: options.To = None,
    steering: options.SteeringOptions,
    writing: ExportOptions,
) -> None:
    """Write a copy of a checkpoint with the steering in its weights.

    Shards are rewritten one tensor at a time; the model is never loaded. zero and scale go into
    every family; set and add where the checkpoint can hold a bias, otherwise they are refused.
    """
    from ..exports import bake as write

    rows = load_set(neurons)
    quiet_transformers()
    with console.working(f"bake to {out}", quiet=writing.quiet):
        done = write(
            model_path(model),
            rows,
            out,
            to,
            part=writing.part,
            revision=writing.revision,
            overwrite=writing.overwrite,
            **steering.arguments(rows.operation),
        )
    _report(done, writing)


def _report(done: Exported, writing: ExportOptions) -> None:
    """Say what was written."""
    if writing.as_json:
        console.dump(
            {
                "path": str(done.path),
                "format": done.format,
                "does": done.text,
                "files": done.files,
                "notes": list(done.notes),
            }
        )
        return
    total = sum(done.files.values())
    size = f"{total / 1e6:.1f} MB" if total >= 10**6 else f"{total / 1e3:.1f} kB"
    for note in (f"Wrote {done.path} ({done.format}, {size}): {done.text}.", *done.notes):
        console.note(note, quiet=writing.quiet)
