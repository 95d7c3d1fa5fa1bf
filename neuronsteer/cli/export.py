"""`neuronsteer export`: steering as files that other tools load."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import ParameterError
from . import commands, steering
from .commands import command


@command(
    "export",
    examples="""
    neuronsteer export SET --to ia3 --label fr --operation zero -o fr-off
    neuronsteer export SET --to lora --label fr --operation set --value mean --model MODEL -o fr
    neuronsteer export SET --to lora-nobias --label en --operation zero -o en-off-for-vllm
    neuronsteer export SET --to gguf --label fr --operation add --skip-first -o fr-vector
    """,
)
def export(
    neurons: commands.NeuronSet,
    out: steering.Out,
    to: Annotated[
        str,
        typer.Option(
            help="ia3 (zero, scale), lora (every operation), lora-nobias (zero, scale; for vLLM), "
            "gguf (control vector for llama.cpp: add), baked (a checkpoint, as 'bake')."
        ),
    ] = "ia3",
    label: Annotated[str | None, typer.Option(metavar="LABEL", help="What to steer to.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Folder or Hub id of the model; default: the set's base model."
        ),
    ] = None,
    operation: steering.Operate = None,
    value: steering.Value = None,
    site: steering.Site = None,
    strength: steering.Strength = 1,
    away_from: steering.AwayFrom = None,
    part: steering.Part = "all",
    skip_first: Annotated[
        bool,
        typer.Option(
            "--skip-first",
            help="gguf: leave out neurons of the first layer, which llama.cpp has no place for.",
        ),
    ] = False,
    revision: commands.Revision = None,
    force: steering.Force = False,
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Write what steering to a label does as an adapter or control vector.

    The result needs no neuronsteer: PEFT, vLLM or llama.cpp load it. What a format cannot hold
    exactly is refused, with what can. The model's weights are read only where needed, never loaded.
    """
    if skip_first and to != "gguf":
        raise ParameterError("--skip-first is for --to gguf; other formats hold every layer.")
    from ..exports import EXPORTS
    from ..exports import export as write
    from .models import DEMO, load_set

    EXPORTS.get(to)
    rows = load_set(neurons)
    if model is None and neurons == DEMO:
        model = DEMO
    options: dict[str, Any] = {"skip_first": True} if skip_first else {}
    steering.quiet_transformers()
    done = write(
        rows,
        out,
        to,
        label,
        steering.chosen_operation(operation, value, site, rows.operation),
        strength,
        away_from,
        part=part,
        model=None if model is None else steering.model_path(model),
        revision=revision,
        overwrite=force,
        **options,
    )
    steering.report(done, as_json=as_json, quiet=quiet)
