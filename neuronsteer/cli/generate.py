"""`neuronsteer generate`: steered text, at once or as it comes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ParameterError
from . import console, options
from .commands import command
from .steered_text import GenerationRequest, LabelPrinter, generate_text, length_for

if TYPE_CHECKING:
    from ..steering.schedule import Schedule

_TOKENS = 64


@command(
    "generate",
    examples="""
    neuronsteer generate demo demo --to fr --prompt "The weather"
    neuronsteer generate MODEL SET --schedule en,24:fr,64:ja --prompt "The weather" --stream
    neuronsteer generate demo demo --to "fr - en" --prompt "The weather"
    neuronsteer generate MODEL SET --to de --away-from en --operation add --prompt "Once"
    echo "The weather" | neuronsteer generate MODEL SET --to fr --prompt - --json
    """,
)
def generate(
    model: options.Model,
    neurons: options.NeuronSet,
    *,
    to: options.To = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEDULE",
            help="Labels over generated tokens: en,24:fr,64:ja starts with en and switches at "
            "tokens 24 and 64; '-' means no label.",
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", help="The text to continue; '-' reads stdin.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many tokens at most; default: 64, or more if the schedule is longer.",
        ),
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print tokens as they come.")] = False,
    steering: options.SteeringOptions,
    temperature: Annotated[
        float, typer.Option(min=0, help="0 takes the likeliest token, more samples.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="For sampling.")] = 0,
    loading: options.LoadOptions,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate text while steering with a neuron set.

    Each part of the text is coloured by the label that was active; without colours the label
    stands in front of it.
    """
    if as_json and stream:
        raise ParameterError("--json prints one object at the end, --stream prints tokens: choose.")
    text = _read_prompt(prompt)
    target = _read_schedule(to, schedule)
    from ..steering.schedule import Schedule
    from .models import load_set

    rows = load_set(neurons)
    if target is None and rows.schedule is not None:
        stored = rows.schedule
        target = Schedule.parse(stored) if isinstance(stored, str) else Schedule.from_dict(stored)
    if target is None:
        raise ParameterError(
            f"Say what to steer to: --to LABEL or --schedule. The set has {', '.join(rows.labels)}."
        )
    request = GenerationRequest(
        prompt=text,
        schedule=target,
        **steering.arguments(rows.operation),
        max_new_tokens=length_for(target, max_new_tokens, _TOKENS, quiet=quiet),
        temperature=temperature,
        seed=seed,
    )
    request.check(rows)
    loaded, tokenizer = loading.load(model)
    printer = LabelPrinter(console.out(), tuple(dict.fromkeys(rows.labels + target.labels)))
    legend = printer.legend(target.labels)
    if legend and not (quiet or as_json):
        console.err().print(legend)
    done = generate_text(loaded, tokenizer, rows, request, printer if stream else None)
    if as_json:
        console.dump(
            {
                "text": done.text,
                "prompt": done.prompt,
                "spans": done.spans,
                "schedule": str(target),
                "tokens": done.tokens,
                "report": done.report,
            }
        )
    elif not stream:
        printer.prompt(text)
        for span in done.spans:
            printer.piece(done.text[span["start"] : span["end"]], span["label"])
        printer.end()


def _read_prompt(given: str | None) -> str:
    if given is None:
        raise ParameterError("A prompt is missing: --prompt TEXT, or --prompt - to read stdin.")
    text = sys.stdin.read().rstrip("\n") if given == "-" else given
    if not text:
        raise ParameterError("The prompt is empty; give at least one word.")
    return text


def _read_schedule(to: str | None, schedule: str | None) -> Schedule | None:
    from ..steering.schedule import Schedule

    if to is not None and schedule is not None:
        raise ParameterError(
            "--to and --schedule exclude each other: a schedule may start with a label."
        )
    if to is not None:
        return Schedule(None if to == "-" else to)
    return None if schedule is None else Schedule.parse(schedule)
