"""`neuronsteer convert`: masks published by the papers become neuron sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ParameterError
from . import commands, console
from .commands import command


@command(
    "convert",
    examples="""
    neuronsteer convert llama.pth --labels en,zh,fr --base meta-llama/Llama-2-7b-hf -o neurons
    neuronsteer convert mask.pth --labels en,fr --width 11008 --model-type llama -o neurons
    """,
)
def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .pth file of LAPE or of a fork of it.")
    ],
    labels: Annotated[
        str, typer.Option(help="Names of the languages in the file's order, comma-separated.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="Folder to write.")],
    base: Annotated[
        str | None,
        typer.Option(help="Hub id or folder of the model that the masks were made for."),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Neurons per layer, if the model's config cannot be read."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Layers the file must have; checked if given.")
    ] = None,
    model_type: Annotated[
        str | None, typer.Option(help="Model family, if the model's config cannot be read.")
    ] = None,
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Import masks published with torch.save: per language, per layer, the neurons.

    Only tensors are read; code in the file is refused. Such files carry no language names, so give
    them in the file's order. A file with more or fewer lists than names is refused.
    """
    names = [name.strip() for name in labels.split(",")]
    if not all(names):
        raise ParameterError(f"--labels {labels!r} has an empty name between commas.")
    from ..neuron_set.paper_masks import load_mask

    neurons = load_mask(
        file, names, num_layers=layers, d_ff=width, model_type=model_type, base_model=base
    )
    neurons.save_pretrained(out)
    if as_json:
        console.dump(neurons.summary())
    elif not quiet:
        console.out().print(neurons.table())
    console.note(
        f"Wrote {out}. The masks hold no statistics, so these neurons can be zeroed, scaled or set "
        "to a number.",
        quiet=quiet,
    )
