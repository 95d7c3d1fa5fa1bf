"""Commands that tell what there is: doctor, methods, version."""

from __future__ import annotations

import dataclasses
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as metadata_version
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import LayoutError
from . import commands, console
from .commands import command


def version() -> str:
    """Return the version of this package."""
    try:
        return metadata_version("neuronsteer")
    except PackageNotFoundError:
        return "0+unknown"


@command(
    "doctor",
    examples="""
    neuronsteer doctor demo
    neuronsteer doctor Qwen/Qwen3-0.6B --json
    """,
)
def doctor(
    model: commands.Model,
    device: commands.Device = "auto",
    dtype: commands.Dtype = "auto",
    revision: commands.Revision = None,
    trust_remote_code: commands.TrustRemoteCode = False,
    as_json: commands.Json = False,
) -> None:
    """Tell which neurons of a model can be reached, and whether hooks on them fire.

    Runs one token through the model. Exits with 2 if the model cannot be steered, and says why.
    """
    from ..architectures import doctor as examine
    from .models import load_model

    loaded, _ = load_model(
        model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
    )
    report = examine(loaded)
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
        told = report["bias"]
        text = ", ".join(f"{key}: {value}" for key, value in told.items())
        out.print(f"bias for baking: {escape(text)}")
    for problem in report["problems"]:
        out.print(f"[yellow]problem:[/yellow] {escape(problem)}")


@command(
    "methods",
    examples="""
    neuronsteer methods
    neuronsteer methods --json
    """,
)
def methods(
    kind: Annotated[
        str | None, typer.Argument(help="Only one kind: detectors, operations or layouts.")
    ] = None,
    as_json: commands.Json = False,
) -> None:
    """List the detectors, operations and model families that exist, plugins included."""
    from ..architectures import LAYOUTS
    from ..detectors import DETECTORS
    from ..operations import OPERATIONS

    found = {
        "detectors": {name: _describe(plugin) for name, plugin in DETECTORS.items()},
        "operations": {name: _describe(plugin) for name, plugin in OPERATIONS.items()},
        "layouts": {name: {} for name in LAYOUTS.names()},
    }
    if kind is not None:
        if kind not in found:
            from ..errors import UnknownNameError, did_you_mean

            raise UnknownNameError(
                f"Unknown kind {kind!r}; expected {', '.join(found)}.{did_you_mean(kind, found)}"
            )
        found = {kind: found[kind]}
    if as_json:
        console.dump(found)
        return
    out = console.out()
    for heading, plugins in found.items():
        out.print(f"[bold]{heading}[/bold]")
        if heading == "layouts":
            out.print("  " + ", ".join(plugins) + "; other dense families are found by shape")
            continue
        for name, facts in plugins.items():
            parameters = ", ".join(f"{key}={value}" for key, value in facts["parameters"].items())
            out.print(f"  [cyan]{escape(name)}[/cyan]  {escape(facts['summary'])}")
            if parameters:
                out.print(f"      {escape(parameters)}", style="dim")
            if facts.get("paper"):
                out.print(f"      {escape(facts['paper'])}", style="dim")


def _describe(plugin: Any) -> dict[str, Any]:
    fields = dataclasses.fields(plugin) if dataclasses.is_dataclass(plugin) else ()
    summary = next(iter((plugin.__doc__ or "").strip().splitlines()), "")
    parameters = {
        field.name: (None if field.default is dataclasses.MISSING else field.default)
        for field in fields
        if field.init
    }
    paper = getattr(plugin, "paper", "")
    described: dict[str, Any] = {"summary": summary.replace("`", ""), "parameters": parameters}
    if paper:
        described["paper"] = paper
    return described


@command("version", examples="neuronsteer version")
def print_version() -> None:
    """Print the version."""
    typer.echo(version())
