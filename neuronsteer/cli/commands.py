"""How a command is declared: its help shows examples, its errors are messages with an exit code.

What a user can cause is explained in one message, without a traceback, and exits with 2. Anything
else is a bug, and its traceback is shown.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import inspect
import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, get_type_hints

import typer

from ..errors import NeuronSteerError
from . import console

Command = TypeVar("Command", bound=Callable[..., None])

USER_ERROR = 2
INTERRUPTED = 130
_DEBUG = "NEURONSTEER_DEBUG"

app = typer.Typer(
    name="neuronsteer",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(
    name: str,
    *,
    examples: str,
    resume: str | None = None,
    arguments: Mapping[str, str] | None = None,
    **settings: Any,
) -> Callable[[Command], Command]:
    """Register a command.

    A parameter that is annotated with a dataclass stands for all of its fields: `options.py` holds
    the blocks of options that several commands share.

    Args:
        name: What the user types.
        examples: One shell line per line, shown under the help.
        resume: What an interrupted user should know.
        arguments: Parameter of the package → parameter of the command, where they are called
            differently: errors of the package name the option then.
        **settings: Passed to typer.
    """

    def register(function: Command) -> Command:
        signature, blocks = _flat_signature(function)
        flags = _flags(signature)
        flags |= {theirs: flags[ours] for theirs, ours in (arguments or {}).items()}

        @functools.wraps(function)
        def wrapper(**given: Any) -> None:
            for parameter, block in blocks.items():
                names = [field.name for field in dataclasses.fields(block)]
                given[parameter] = block(**{name: given.pop(name) for name in names})
            with errors_reported(resume, flags):
                function(**given)

        wrapper.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        lines = [line.strip() for line in examples.strip().splitlines()]
        # In rich markup a lone line break would be read as a space.
        epilog = "[bold]Examples[/bold]\n\n" + "\n\n".join(
            line.replace("[", r"\[") for line in lines
        )
        app.command(name, epilog=epilog, **settings)(wrapper)
        return function

    return register


def _flat_signature(function: Callable[..., None]) -> tuple[inspect.Signature, dict[str, Any]]:
    """Return the signature with blocks of options unfolded, and the block of each parameter."""
    found: list[inspect.Parameter] = []
    blocks: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        block = parameter.annotation
        if not dataclasses.is_dataclass(block):
            found.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        blocks[parameter.name] = block
        types = get_type_hints(block, include_extras=True)
        for field in dataclasses.fields(block):
            required = field.default is dataclasses.MISSING
            found.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=inspect.Parameter.empty if required else field.default,
                    annotation=types[field.name],
                )
            )
    return inspect.Signature(found), blocks


def _flags(signature: inspect.Signature) -> dict[str, str]:
    """Return the options of a command as they are typed, by their parameters."""
    found: dict[str, str] = {}
    for name, parameter in signature.parameters.items():
        for each in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(each, typer.models.OptionInfo):
                named = [text for text in each.param_decls or () if text.startswith("--")]
                found[name] = named[0] if named else "--" + name.replace("_", "-")
    return found


def show_tracebacks() -> None:
    """Show tracebacks from now on, in this process and in those it starts."""
    os.environ[_DEBUG] = "1"


@contextmanager
def errors_reported(
    resume: str | None = None, flags: Mapping[str, str] | None = None
) -> Generator[None, None, None]:
    """Turn errors that a user can cause into a message and an exit code.

    Args:
        resume: What to say after an interruption: what was kept, and how to continue.
        flags: Parameter → option. The package speaks of parameters; here they are options.
    """
    try:
        yield
    except KeyboardInterrupt:
        console.error("Interrupted." + (f" {resume}" if resume else ""), heading="")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        message = _message(error)
        if message is None or os.environ.get(_DEBUG, "0") not in ("", "0"):
            raise
        console.error(_with_flags(message, flags or {}))
        raise typer.Exit(USER_ERROR) from None


# Text in quotes is the user's, and passes as it is; so does what follows `--set`.
_PARAMETER = re.compile(
    r"""(?<!\w)(?:'[^']*'|"[^"]*")(?!\w)|(?<!--set )(?<![\w.-])(\w+)=(True\b)?"""
)


def _with_flags(message: str, flags: Mapping[str, str]) -> str:
    """Return a message of the package with `name=value` written as `--name value`."""

    def written(found: re.Match[str]) -> str:
        flag = flags.get(found[1] or "")
        if flag is None:
            return found[0]
        alone = found[2] or re.match(r"[,.;:)]*(\s|$)", message[found.end() :])
        return flag if alone else f"{flag} "

    return _PARAMETER.sub(written, message)


def _message(error: Exception) -> str | None:
    """Return what to tell the user, or None for an error that is not theirs."""
    if isinstance(error, NeuronSteerError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return (
            f"Cannot decode the text as {error.encoding}: byte {error.start} is "
            f"0x{error.object[error.start]:02x} ({error.reason}). Save the file as UTF-8, or "
            "convert it with: iconv -t utf-8."
        )
    if isinstance(error, OSError):
        # A reader that went away (`neuronsteer show … | head`) is not an error to report.
        return None if error.errno == errno.EPIPE else _system_message(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return (
            "The device ran out of memory. Try --dtype bfloat16, a smaller batch or context, or "
            f"--device cpu. ({console.first_line(error)})"
        )
    return None


def _system_message(error: OSError) -> str:
    if error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__
