"""`neuronsteer generate`: steered text, at once or as it comes."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ParameterError
from . import console, options
from .commands import command
from .steered_text import (
    PULLED_BACK,
    REFUSED,
    GeneratedText,
    GenerationRequest,
    LabelPrinter,
    generate_text,
    length_for,
)

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet
    from ..steering.schedule import Schedule

_TOKENS = 64


@command(
    "generate",
    examples="""
    neuronsteer generate demo demo --to fr --prompt "The weather"
    neuronsteer generate MODEL SET --schedule en,24:fr,64:ja --prompt "The weather" --stream
    neuronsteer generate demo demo --to "fr - en" --prompt "The weather"
    neuronsteer generate MODEL SET --to de --away-from en --operation add --prompt "Once"
    neuronsteer generate MODEL --keep ko --prompt "날씨"
    neuronsteer generate gemma gemma --keep fr --prompt "Le temps"
    echo "The weather" | neuronsteer generate MODEL SET --to fr --prompt - --json
    """,
)
def generate(
    model: options.Model,
    neurons: Annotated[
        str | None,
        typer.Argument(
            metavar="SET",
            help="Folder or Hub id of a neuron set; 'demo' is the embedded one. Not needed with "
            "--keep.",
        ),
    ] = None,
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
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE",
            help="Hold back words in scripts that this language is not written in (a code: ko). "
            "With a SET and without --to, also steer back where the text leaves it.",
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
    stands in front of it. With --keep, tokens at which another one was held back, or the text was
    steered back, are underlined; without colours ⟦×⟧ and ⟦↩⟧ stand in front of them.
    """
    if as_json and stream:
        raise ParameterError("--json prints one object at the end, --stream prints tokens: choose.")
    text = _read_prompt(prompt)
    target = _read_schedule(to, schedule)
    from .models import load_set

    if neurons is None and (keep is None or target is not None):
        raise ParameterError(
            "A neuron set is missing: neuronsteer generate MODEL SET --to LABEL. Without one, text "
            "can only be kept in a language: --keep LANGUAGE."
        )
    rows = None if neurons is None else load_set(neurons)
    target = target or _stored_schedule(rows, keep)
    request = GenerationRequest(
        prompt=text,
        schedule=target,
        keep=keep,
        **steering.arguments(rows.operation if rows else {}),
        max_new_tokens=length_for(target, max_new_tokens, _TOKENS, quiet=quiet),
        temperature=temperature,
        seed=seed,
    )
    request.check(rows)
    loaded, tokenizer = loading.load(model)
    labels = () if rows is None else rows.labels
    printer = LabelPrinter(console.out(), tuple(dict.fromkeys(labels + target.labels)))
    legend = printer.legend(target.labels)
    if legend and not (quiet or as_json):
        console.err().print(legend)
    done = generate_text(loaded, tokenizer, rows, request, printer if stream else None)
    if as_json:
        from ..steering.keeping.language_sensor import PullBack
        from ..steering.keeping.vocabulary_gate import Refusal

        console.dump(
            {
                "text": done.text,
                "prompt": done.prompt,
                "spans": done.spans,
                "schedule": str(target),
                "tokens": done.tokens,
                "report": done.report,
                "refused": [dataclasses.asdict(x) for x in done.kept if isinstance(x, Refusal)],
                "pulled_back": [
                    dataclasses.asdict(x) for x in done.kept if isinstance(x, PullBack)
                ],
            }
        )
    elif not stream:
        printer.prompt(text)
        for piece, label, mark in done.parts():
            printer.piece(piece, label, mark)
        printer.end()
    _say_kept(done, None if as_json else printer, quiet)


def _say_kept(done: GeneratedText, printer: LabelPrinter | None, quiet: bool) -> None:
    """Say what was done to keep the language, and how the text above shows it."""
    from ..steering.keeping.language_sensor import PullBack
    from ..steering.keeping.vocabulary_gate import Refusal

    refused = [each for each in done.kept if isinstance(each, Refusal)]
    pulled = [each for each in done.kept if isinstance(each, PullBack)]
    if refused:
        some = ", ".join(
            f"{_quoted(each.text)} ({each.probability:.0%}) → {_quoted(each.instead)}"
            for each in refused[:5]
        )
        more = "" if len(refused) <= 5 else ", …"
        look = f" ({printer.look(REFUSED)})" if printer else ""
        console.note(f"Held back at {len(refused)} tokens{look}: {some}{more}", quiet=quiet)
    if pulled:
        some = ", ".join(f"{each.token} ({each.left})" for each in pulled[:8])
        more = "" if len(pulled) <= 8 else ", …"
        look = f" ({printer.look(PULLED_BACK)})" if printer else ""
        console.note(
            f"Steered back to {pulled[0].language}{look} at token {some}{more}", quiet=quiet
        )


def _quoted(token: str) -> str:
    # Some tokens are a part of a letter, and have no text of their own.
    return repr(token.strip()) if token else "part of a letter"


def _stored_schedule(rows: NeuronSet | None, keep: str | None) -> Schedule:
    """Return what the set itself says to follow; nothing, if text is only to be kept."""
    from ..steering.schedule import Schedule

    stored = None if rows is None or keep is not None else rows.schedule
    if stored is not None:
        return Schedule.parse(stored) if isinstance(stored, str) else Schedule.from_dict(stored)
    if rows is not None and keep is None:
        raise ParameterError(
            f"Say what to steer to: --to LABEL or --schedule. The set has {', '.join(rows.labels)}."
        )
    return Schedule(None)


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
