"""`neuronsteer show`: what is in a neuron set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from . import commands, console
from .commands import command
from .hub import Revision, Subfolder, Token

if TYPE_CHECKING:
    from ..neuronset import NeuronSet

_BARS = " ▁▂▃▄▅▆▇█"
# Wider than this a profile would not fit into 80 columns beside the label.
_COLUMNS = 60


@command(
    "show",
    examples="""
    neuronsteer show demo
    neuronsteer show user/model-language-neurons
    neuronsteer show user/several-sets --subfolder lape --revision v2
    neuronsteer show neurons --json | jq .counts
    """,
)
def show(
    neurons: commands.NeuronSet,
    revision: Revision = None,
    subfolder: Subfolder = None,
    token: Token = None,
    as_json: commands.Json = False,
) -> None:
    """Show a neuron set: where it comes from, neurons per label, where in the model, overlap."""
    from .models import load_set

    rows = load_set(neurons, revision=revision, subfolder=subfolder, token=token)
    if as_json:
        console.dump(rows.summary())
        return
    out = console.out()
    out.print(rows.table())
    colours = console.colours(rows.labels)
    profile = rows.layer_profile().tolist()
    table = Table(title=f"Layers 0 to {rows.num_layers - 1}, left to right", box=None)
    table.add_column("label", no_wrap=True)
    table.add_column("neurons per layer", no_wrap=True)
    table.add_column("most", no_wrap=True, justify="right")
    for label, counts in zip(rows.labels, profile, strict=True):
        peak = max(range(len(counts)), key=counts.__getitem__) if any(counts) else None
        most = "" if peak is None else f"layer {peak}: {counts[peak]}"
        table.add_row(escape(label), f"[{colours[label]}]{_bars(counts)}[/]", most)
    out.print(table)
    out.print(_sharing(rows))


def _bars(counts: list[int]) -> str:
    """Return one block per layer, the tallest for the fullest; neighbours are joined to fit."""
    group = -(-len(counts) // _COLUMNS)
    sums = [sum(counts[i : i + group]) for i in range(0, len(counts), group)]
    top = max(sums, default=0) or 1
    # Any neuron at all shows as the lowest block, so that empty layers can be told apart.
    return "".join(_BARS[-(-8 * value // top)] for value in sums)


def _sharing(rows: NeuronSet) -> str:
    parts = [
        f"{count} owned by {owners}" if owners > 1 else f"{count} exclusive"
        for owners, count in sorted(rows.sharing().items())
        if owners
    ]
    text = "Neurons: " + (", ".join(parts) or "none")
    return text + (f"; {rows.orphans} selected but owned by no label" if rows.orphans else "")
