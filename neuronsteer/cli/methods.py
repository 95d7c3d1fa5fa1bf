"""`neuronsteer methods`: what the registries hold."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding

from ..errors import UnknownNameError, did_you_mean
from . import commands, console
from .commands import command

# What the user calls it -> the room and the name of its registry there.
_REGISTRIES = {
    "detectors": ("detectors", "DETECTORS"),
    "operations": ("operations", "OPERATIONS"),
    "metrics": ("evaluation.metrics", "METRICS"),
    "experiments": ("evaluation.experiments", "EXPERIMENTS"),
    "exports": ("exports", "EXPORTS"),
    "reducers": ("stats", "REDUCERS"),
    "layouts": ("models", "LAYOUTS"),
}
# Rows of a table rather than classes: their names say it all.
_NAMES_ONLY = ("layouts", "reducers")


@command(
    "methods",
    examples="""
    neuronsteer methods
    neuronsteer methods detectors
    neuronsteer methods --json
    """,
)
def methods(
    kind: Annotated[
        str | None, typer.Argument(help=f"Only one kind: {', '.join(_REGISTRIES)}.")
    ] = None,
    as_json: commands.Json = False,
) -> None:
    """List detectors, operations, metrics, experiments, exports and model families, and plugins."""
    if kind is not None and kind not in _REGISTRIES:
        raise UnknownNameError(
            f"Unknown kind {kind!r}; expected {', '.join(_REGISTRIES)}."
            f"{did_you_mean(kind, _REGISTRIES)}"
        )
    found = {name: _plugins(name) for name in ([kind] if kind else _REGISTRIES)}
    if as_json:
        console.dump(found)
        return
    out = console.out()
    for heading, plugins in found.items():
        out.print(f"[bold]{heading}[/bold]")
        if heading in _NAMES_ONLY:
            rest = "; other dense families are found by shape" if heading == "layouts" else ""
            out.print(Padding(", ".join(plugins) + rest, (0, 0, 0, 2)))
            continue
        for name, facts in plugins.items():
            out.print(f"  [cyan]{escape(name)}[/cyan]  {escape(facts['summary'])}", soft_wrap=True)
            details = [", ".join(f"{key}={value}" for key, value in facts["parameters"].items())]
            for line in [*details, facts.get("paper", "")]:
                if line:
                    out.print(Padding(escape(line), (0, 0, 0, 6)), style="dim")


def _plugins(kind: str) -> dict[str, dict[str, Any]]:
    room, registry = _REGISTRIES[kind]
    # By name, because a room is loaded only when it is asked for.
    module = importlib.import_module(f"..{room}", __package__)
    return {name: _describe(plugin) for name, plugin in getattr(module, registry).items()}


def _describe(plugin: Any) -> dict[str, Any]:
    summary = next(iter((plugin.__doc__ or "").strip().splitlines()), "").replace("`", "")
    described: dict[str, Any] = {"summary": summary}
    if dataclasses.is_dataclass(plugin) and isinstance(plugin, type):
        described["parameters"] = {
            field.name: None if field.default is dataclasses.MISSING else _plain(field.default)
            for field in dataclasses.fields(plugin)
            if field.init
        }
    else:
        described["parameters"] = {}
    paper = getattr(plugin, "paper", "")
    return {**described, "paper": paper} if paper else described


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
