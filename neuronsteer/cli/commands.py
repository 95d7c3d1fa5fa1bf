"""How a command is declared: its help teaches, its errors are messages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from . import failures

Command = TypeVar("Command", bound=Callable[..., None])

app = typer.Typer(
    name="neuronsteer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(
    name: str, *, examples: str, resume: str | None = None, **settings: Any
) -> Callable[[Command], Command]:
    """Register a command.

    Args:
        name: What the user types.
        examples: One shell line per line, shown under the help.
        resume: What an interrupted user should know.
        **settings: Passed to typer.
    """

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with failures.reported(resume):
                function(*args, **kwargs)

        lines = [line.strip() for line in examples.strip().splitlines()]
        # In rich markup a lone line break would be read as a space.
        epilog = "[bold]Examples[/bold]\n\n" + "\n\n".join(
            line.replace("[", r"\[") for line in lines
        )
        app.command(name, epilog=epilog, **settings)(guarded)
        return function

    return register


# Options that several commands share.
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder or Hub id of a causal language model; 'demo' is the embedded one.",
    ),
]
NeuronSet = Annotated[
    str,
    typer.Argument(
        metavar="SET", help="Folder or Hub id of a neuron set; 'demo' is the embedded one."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write the result to stdout as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bar and no notes on stderr.")
]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:1, mps; 'map' spreads the model over all devices (accelerate)."
    ),
]
Dtype = Annotated[
    str, typer.Option(help="auto (as the checkpoint was saved), float32, bfloat16 or float16.")
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the Hub.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint."),
]
