"""Commands about this installation and a model: doctor, version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as metadata_version
from typing import Any

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
    from ..models import diagnose
    from .models import load_model

    loaded, _ = load_model(
        model, device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
    )
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
        told = report["bias"]
        text = ", ".join(f"{key}: {value}" for key, value in told.items())
        out.print(f"bias for baking: {escape(text)}")
    for problem in report["problems"]:
        out.print(f"[yellow]problem:[/yellow] {escape(problem)}")


@command("version", examples="neuronsteer version")
def print_version() -> None:
    """Print the version."""
    typer.echo(version())
