"""`neuronsteer push-metrics`: the metrics as Spaces, for whoever uses the `evaluate` library."""

from __future__ import annotations

from typing import Annotated

import typer

from . import commands, console
from .commands import command
from .hub import Token


@command(
    "push-metrics",
    examples="""
    neuronsteer push-metrics user
    neuronsteer push-metrics user --metric lss --metric language_forcing --private
    python -c 'import evaluate; evaluate.load("user/lss")'
    """,
    resume="Every Space is as it was before, or has all of its files; push again to be sure.",
)
def push_metrics(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="User or organisation.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Only this metric; repeatable."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Put before the names of the Spaces, e.g. 'language-'.")
    ] = "",
    private: Annotated[bool, typer.Option("--private", help="Make new Spaces private.")] = False,
    token: Token = None,
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Publish the metrics as Spaces on the Hugging Face Hub, one per metric.

    evaluate.load("OWNER/NAME") then finds them. A Space that holds something else is refused.
    """
    from ..evaluation.metrics.metric_spaces import push

    done = push(owner, metrics or [], private=private or None, prefix=prefix, token=token)
    if as_json:
        console.dump(done)
        return
    for url in done.values():
        typer.echo(url)
    first = next(iter(done))
    console.note(f'Load one with: evaluate.load("{owner}/{prefix}{first}")', quiet=quiet)
