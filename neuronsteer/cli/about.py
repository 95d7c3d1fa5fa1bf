"""Commands about this installation and a model: methods, doctor, version."""

from __future__ import annotations

import dataclasses
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as metadata_version
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from ..errors import LayoutError, UnknownNameError, did_you_mean
from . import console, options
from .commands import command

_KINDS = ("detectors", "operations", "metrics", "experiments", "exports", "reducers", "layouts")
# Rows of a table, not classes: there is no docstring to show.
_NAMES_ONLY = ("layouts", "reducers")


def version() -> str:
    """Return the version of this package."""
    try:
        return metadata_version("neuronsteer")
    except PackageNotFoundError:
        return "0+unknown"


@command(
    "methods",
    examples="""
    neuronsteer methods
    neuronsteer methods detectors
    neuronsteer methods --json
    """,
)
def methods(
    kind: Annotated[str | None, typer.Argument(help=f"Only one kind: {', '.join(_KINDS)}.")] = None,
    as_json: options.Json = False,
) -> None:
    """List detectors, operations, metrics, experiments, exports and model families, and plugins."""
    if kind is not None and kind not in _KINDS:
        raise UnknownNameError(
            f"Unknown kind {kind!r}; expected {', '.join(_KINDS)}.{did_you_mean(kind, _KINDS)}"
        )
    found = {
        name: {plugin: _describe(what) for plugin, what in registry.items()}
        for name, registry in _registries().items()
        if kind in (None, name)
    }
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


def _registries() -> dict[str, Any]:
    """Return the registries, by what the user calls them; loading them takes a second."""
    from ..detectors import DETECTORS
    from ..evaluation.experiments import EXPERIMENTS
    from ..evaluation.metrics import METRICS
    from ..exports import EXPORTS
    from ..models import LAYOUTS
    from ..operations import OPERATIONS
    from ..stats import REDUCERS

    registries = (DETECTORS, OPERATIONS, METRICS, EXPERIMENTS, EXPORTS, REDUCERS, LAYOUTS)
    return dict(zip(_KINDS, registries, strict=True))


def _describe(plugin: Any) -> dict[str, Any]:
    summary = next(iter((plugin.__doc__ or "").strip().splitlines()), "").replace("`", "")
    described: dict[str, Any] = {"summary": summary}
    if dataclasses.is_dataclass(plugin) and isinstance(plugin, type):
        described["parameters"] = {
            field.name: None if field.default is dataclasses.MISSING else _json_value(field.default)
            for field in dataclasses.fields(plugin)
            if field.init
        }
    else:
        described["parameters"] = {}
    paper = getattr(plugin, "paper", "")
    return {**described, "paper": paper} if paper else described


def _json_value(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


@command(
    "doctor",
    examples="""
    neuronsteer doctor demo
    neuronsteer doctor Qwen/Qwen3-0.6B --json
    """,
)
def doctor(
    model: options.Model,
    loading: options.LoadOptions,
    as_json: options.Json = False,
) -> None:
    """Tell which neurons of a model can be reached, and whether hooks on them fire.

    Runs one token through the model. Exits with 2 if the model cannot be steered, and says why.
    """
    from ..models import diagnose

    loaded, _ = loading.load(model)
    report = diagnose(loaded)
    if as_json:
        console.dump(report)
    else:
        _print_report(model, report)
    if not report["steerable"]:
        raise LayoutError(f"{model} cannot be steered: " + "; ".join(report["problems"]))


def _print_report(name: str, report: dict[str, Any]) -> None:
    out = console.out()
    source = {"table": "from the table of families", "shape rule": "found by shape"}
    out.print(
        f"[bold]{escape(name)}[/bold]  {escape(str(report['model_type']))}, "
        f"layout {source.get(report['source'], report['source'])}"
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, justify in (("site", "left"), ("layers", "right"), ("width", "right")):
        table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
    table.add_column("hooks fire")
    table.add_column("example", overflow="fold", style="dim")
    for site, facts in report["sites"].items():
        fired = facts["fired"] is True or facts["fired"] == facts["layers"]
        mark = "[green]yes[/green]" if fired else f"[red]no ({escape(str(facts['fired']))})[/red]"
        path = str(facts.get("path", facts.get("example", "")))
        table.add_row(site, str(facts["layers"]), str(facts["width"]), mark, escape(path))
    out.print(table)
    if report.get("bias"):
        text = ", ".join(f"{key}: {value}" for key, value in report["bias"].items())
        out.print(f"bias for baking: {escape(text)}")
    for problem in report["problems"]:
        out.print(f"[yellow]problem:[/yellow] {escape(problem)}")


@command("version", examples="neuronsteer version")
def print_version() -> None:
    """Print the version."""
    typer.echo(version())
