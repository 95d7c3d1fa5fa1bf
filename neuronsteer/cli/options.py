"""Arguments and options that several commands take: each is written once, alone or in a block.

A block is a dataclass. A command that has a parameter of its type takes all of its options.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ParameterError, did_you_mean

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
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="LABEL",
        help="Label to steer to; 'fr - en' also switches en off, see 'arith'.",
    ),
]
OutputFolder = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.")]
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
ModelRevision = Annotated[
    str | None,
    typer.Option("--revision", help="Branch, tag or commit of the model on the Hub."),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of the method or analysis, e.g. site=attn.q or top=5; repeatable.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue where an interrupted run stopped.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier run wrote there.")
]
Subfolder = Annotated[
    str | None, typer.Option(help="Folder inside the repository, if it holds several sets.")
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Access token. Better run `hf auth login` or set HF_TOKEN: other users of this "
        "machine can read command lines.",
        show_default=False,
    ),
]


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded."""

    device: Device = "auto"
    dtype: Annotated[
        str, typer.Option(help="auto (as the checkpoint was saved), float32, bfloat16 or float16.")
    ] = "auto"
    revision: ModelRevision = None
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint."),
    ] = False

    def load(self, model: str) -> tuple[Any, Any]:
        """Return the model called `model` and its tokenizer."""
        from .models import load_model

        return load_model(model, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class HubOptions:
    """Where in a repository a set is."""

    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")] = None
    subfolder: Subfolder = None
    token: Token = None


@dataclasses.dataclass(frozen=True)
class SteeringOptions:
    """What is done to the neurons of a label, as `steer.to` takes it."""

    operation: Annotated[
        str | None, typer.Option(help="zero, scale, set or add; by default what the set says.")
    ] = None
    value: Annotated[
        str | None,
        typer.Option(
            help="What to set or add: mean, median, max, diffmean, p10 …, or a number; for scale, "
            "the factor."
        ),
    ] = None
    site: Annotated[
        str | None,
        typer.Option(help="mlp.neuron, or mlp.act to change the gate activation as the papers do."),
    ] = None
    strength: Annotated[float, typer.Option(help="How much of the operation; 1 is all of it.")] = 1
    away_from: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Also take away this label: its neurons are switched off, or what is added is the "
            "difference to it; repeatable.",
        ),
    ] = None
    away: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE",
            help="What switched-off neurons are set to: a number or mean, median, p10 …; 0 if not "
            "given.",
        ),
    ] = None
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="What is left, where a difference of means is added: a label, 'others', or "
            "'prompt', what the prompt is written in (the default of newer sets; files have no "
            "prompt, so exports need a label); repeatable.",
        ),
    ] = None

    def arguments(self, default: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of `steer.to`; `default` is the set's own operation."""
        from ..operations import chosen_operation

        return {
            "operation": chosen_operation(default, self.operation, self.value, self.site),
            "strength": self.strength,
            "away_from": self.away_from or [],
            "away": None if self.away is None else chosen_operation({}, "set", self.away),
            "source": self.source or None,
        }


def read_list(text: str | None) -> list[str] | None:
    """Return the names in a comma-separated option."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def read_parameters(given: Iterable[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters in `--set NAME=VALUE` options, values read as JSON where they are.

    Args:
        given: The options.
        kinds: The dataclasses that take them, by the name that the user knows.

    Raises:
        ParameterError: If none of them has such a parameter.
    """
    known = {field.name for kind in kinds.values() for field in dataclasses.fields(kind)}
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"Cannot read --set {text!r}; expected NAME=VALUE.")
        if name not in known:
            raise ParameterError(
                f"There is no parameter {name!r} in {', '.join(kinds)}; expected "
                f"{', '.join(sorted(known)) or 'none'}.{did_you_mean(name, known)}"
            )
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def read_sources(given: list[str], option: str, form: str) -> dict[str, str] | Path:
    """Return what an option says that is one folder, or NAME=SOURCE once per name.

    Args:
        given: What was given.
        option: The option, for messages.
        form: How it is written, e.g. `"LABEL=FILE"`.
    """
    if len(given) == 1 and "=" not in given[0]:
        return Path(given[0])
    found: dict[str, str] = {}
    for entry in given:
        name, equals, source = entry.partition("=")
        if not equals or not name or not source:
            kind = form.partition("=")[0].lower()
            raise ParameterError(
                f"Cannot read {option} {entry!r}: give one folder, or {form} once per {kind}."
            )
        if name in found:
            raise ParameterError(f"{option} names {name!r} twice; join the sources.")
        found[name] = source
    return found
