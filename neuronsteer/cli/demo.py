"""`neuronsteer demo`: what steering does to a model's language, in three short scenes, offline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ParameterError
from . import commands, console
from .commands import command

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet
    from ..steering.schedule import Schedule

_PROMPT = "The old man looked out of the window, and"
_TOKENS = 92


@command(
    "demo",
    examples="""
    neuronsteer demo
    neuronsteer demo --ui
    neuronsteer demo --schedule en,20:es,40:de --prompt "Today, we see"
    neuronsteer demo --model Qwen/Qwen3-0.6B --set user/qwen3-language-neurons
    """,
)
def demo(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Another model; then --set is needed, too.")
    ] = "demo",
    neurons: Annotated[
        str, typer.Option("--set", metavar="SET", help="The neuron set of that model.")
    ] = "demo",
    ui: Annotated[
        bool, typer.Option("--ui", help="Open a page in the browser instead (extra: space).")
    ] = False,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to go on from.")] = _PROMPT,
    schedule: Annotated[
        str | None,
        typer.Option(metavar="SCHEDULE", help="Show the second scene only, for example en,12:fr."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="How many tokens at most in the second scene.")
    ] = _TOKENS,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.6,
    seed: Annotated[int, typer.Option(help="For sampling.")] = 1,
    device: commands.Device = "auto",
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Show what neuronsteer does, offline, in three scenes of a few seconds.

    1. One prompt, unsteered and forced into every language of the neuron set. 2. One text that
    changes its language at chosen tokens, while it is generated. 3. The model's own language turned
    off, and as many random neurons for comparison.

    A language identifier says what it hears, ✗ included. Prompt, temperature and switch points were
    picked after trying others; give your own.
    """
    if (model == "demo") != (neurons == "demo"):
        raise ParameterError("--model and --set belong together: a set is made for one model.")
    if ui:
        _serve(model, neurons, device, quiet=quiet)
        return
    from ..demo.language_identifier import language_identifier
    from . import scenes
    from .models import load_model, load_set

    rows = load_set(neurons)
    labels = [label for label, count in rows.counts.items() if count]
    target = _target(schedule, rows, labels, max_new_tokens)
    loaded, tokenizer = load_model(
        model, device=device, dtype="float32" if model == "demo" else "auto"
    )
    stage = scenes.Stage(
        model=loaded,
        tokenizer=tokenizer,
        neurons=rows,
        prompt=prompt,
        temperature=temperature,
        seed=seed,
        whole=model == "demo",
        judge=language_identifier(labels),
        out=None if as_json else console.out(),
    )
    shown: list[dict[str, Any]] = []
    if schedule is None:
        shown.append(scenes.languages(stage))
    shown.append(switched := scenes.switch(stage, target, max_new_tokens))
    if schedule is None and (off := scenes.turned_off(stage)) is not None:
        shown.append(off)
    if as_json:
        facts = {key: switched[key] for key in ("text", "spans")}
        console.dump({"prompt": prompt, "schedule": str(target), **facts, "scenes": shown})
    elif not quiet:
        if stage.judge is None:
            console.note("No verdicts without the extra: pip install 'neuronsteer[langid]'")
        if model == "demo":
            console.note(
                "\nNext: neuronsteer generate demo demo --to es --prompt 'The old teacher' --stream"
            )


def _serve(model: str, neurons: str, device: str, *, quiet: bool) -> None:
    """Serve the page until the user interrupts."""
    from ..space import launch

    def ready(address: str) -> None:
        console.note(f"The page is at {address} – Ctrl+C ends it.", quiet=quiet)

    launch(model, neurons, device=device, open_browser=True, on_ready=ready)


def _target(schedule: str | None, rows: NeuronSet, labels: Sequence[str], tokens: int) -> Schedule:
    """Return what the second scene shows: what was asked, what the set proposes, or a tour."""
    from ..steering.schedule import Schedule

    chosen = schedule or rows.schedule
    if isinstance(chosen, str):
        return Schedule.parse(chosen)
    return Schedule.from_dict(chosen) if chosen else _tour(labels, tokens)


def _tour(labels: Sequence[str], tokens: int) -> Schedule:
    """Return a schedule that switches twice: to a close label, then to one further down."""
    from ..steering.schedule import Schedule

    stops = list(dict.fromkeys([*labels[:2], labels[2 * len(labels) // 3]]))
    every = max(tokens // len(stops), 1)
    return Schedule(stops[0], *((i * every, label) for i, label in enumerate(stops) if i))
