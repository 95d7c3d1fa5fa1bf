"""`neuronsteer show`: what is in a neuron set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from . import console, options
from .commands import command

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet


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
    neurons: options.NeuronSet,
    *,
    place: options.HubOptions,
    as_json: options.Json = False,
) -> None:
    """Show a neuron set: where it comes from, neurons per label, where in the model, overlap."""
    from .models import load_set

    rows = load_set(neurons, **asdict(place))
    if as_json:
        console.dump(rows.summary())
        return
    out = console.out()
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _facts(rows):
        facts.add_row(f"[dim]{name}[/dim]", escape(value))
    out.print(facts)
    out.print(rows.table())
    out.print(_sharing(rows))


def _facts(rows: NeuronSet) -> Iterator[tuple[str, str]]:
    """Yield what the header says, as `(name, text)`."""
    revision = f" @ {rows.base_revision}" if rows.base_revision else ""
    yield "model", (rows.base_model or f"a {rows.model_type or 'model of unknown type'}") + revision
    parameters = ", ".join(f"{key}={value}" for key, value in rows.method["parameters"].items())
    yield "method", f"{rows.method['name']} {parameters}"
    options = [f"{key}={value}" for key, value in rows.operation.items() if key != "name"]
    yield "operation", " ".join([str(rows.operation["name"]), *options])
    if rows.schedule is not None:
        yield "schedule", str(rows.schedule)
    tokens = [
        f"{label} {entry['tokens']:,}"
        for label, entry in rows.calibration.items()
        if isinstance(entry, dict) and isinstance(entry.get("tokens"), int)
    ]
    if tokens:
        yield "tokens read", ", ".join(tokens)


def _sharing(rows: NeuronSet) -> str:
    parts = [
        f"{count} owned by {owners}" if owners > 1 else f"{count} exclusive"
        for owners, count in sorted(rows.sharing().items())
        if owners
    ]
    text = "Neurons: " + (", ".join(parts) or "none")
    return text + (f"; {rows.orphans} selected but owned by no label" if rows.orphans else "")
