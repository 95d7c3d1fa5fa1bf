"""`neuronsteer bake`: a checkpoint that always speaks one label."""

from __future__ import annotations

from typing import Annotated

import typer

from . import commands, steering
from .commands import command


@command(
    "bake",
    examples="""
    neuronsteer bake MODEL SET --to fr -o model-fr
    neuronsteer bake MODEL SET --to fr --operation set --value mean --away-from en -o model-fr
    neuronsteer bake MODEL SET --to en --operation zero -o model-without-en
    """,
)
def bake(
    model: commands.Model,
    neurons: commands.NeuronSet,
    out: steering.Out,
    to: Annotated[
        str | None, typer.Option("--to", metavar="LABEL", help="What to steer to, for good.")
    ] = None,
    operation: steering.Operate = None,
    value: steering.Value = None,
    site: steering.Site = None,
    strength: steering.Strength = 1,
    away_from: steering.AwayFrom = None,
    part: steering.Part = "all",
    revision: commands.Revision = None,
    force: steering.Force = False,
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Write a copy of a checkpoint with the steering in its weights.

    Shards are rewritten one tensor at a time; the model is never loaded. zero and scale go into
    every family; set and add where the checkpoint can hold a bias, otherwise they are refused.
    """
    from ..exports import bake as write
    from .models import load_set

    rows = load_set(neurons)
    steering.quiet_transformers()
    done = write(
        steering.model_path(model),
        rows,
        out,
        to,
        steering.chosen_operation(operation, value, site, rows.operation),
        strength,
        away_from,
        part=part,
        revision=revision,
        overwrite=force,
    )
    steering.report(done, as_json=as_json, quiet=quiet)
