"""`neuronsteer demo`: the whole job, from texts to text that changes its language half-way."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import ParameterError
from . import commands, console
from .commands import command
from .streaming import Painter

if TYPE_CHECKING:
    from ..schedule import Schedule

_PROMPT = "The black cat sleeps in the garden."
_TOKENS = 72


@command(
    "demo",
    examples="""
    neuronsteer demo
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
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to go on from.")] = _PROMPT,
    schedule: Annotated[
        str | None, typer.Option(metavar="SCHEDULE", help="For example en,12:fr,28:de.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens at most.")] = _TOKENS,
    seed: Annotated[int, typer.Option(help="For sampling.")] = 1,
    device: commands.Device = "auto",
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Show what neuronsteer does, offline: one text that switches language at chosen tokens.

    Without a model on this machine, a toy model is trained first and kept for the next time.
    """
    if (model == "demo") != (neurons == "demo"):
        raise ParameterError("--model and --set belong together: a set is made for one model.")
    from ..demo import is_toy
    from ..demo.judge import judge
    from ..schedule import Schedule
    from .models import load_model, load_set
    from .running import Request, run

    if model == "demo":
        _prepare(quiet=quiet or as_json)
    rows = load_set(neurons)
    labels = [label for label, count in rows.counts.items() if count]
    # The tour is chosen for the demo model; other sets may say how they want to be shown.
    chosen = schedule or (None if model == "demo" else rows.schedule)
    if isinstance(chosen, str):
        target = Schedule.parse(chosen)
    else:
        target = Schedule.from_dict(chosen) if chosen else _tour(labels, max_new_tokens)
    request = Request(
        prompt=prompt,
        schedule=target,
        max_new_tokens=max_new_tokens,
        temperature=0.5,
        seed=seed,
    )
    request.check(rows)
    loaded, tokenizer = load_model(
        model, device=device, dtype="float32" if model == "demo" else "auto"
    )
    out = console.out()
    painter = Painter(out, rows.labels)
    if not as_json:
        if not quiet:
            out.print(rows.table())
        out.print(f"\nOne text, steered along the schedule [bold]{escape(str(target))}[/bold]:\n")
    # Streamed to people, but not into JSON.
    done = run(loaded, tokenizer, rows, request, None if as_json else painter)
    ask = judge(labels, toy=is_toy(model))
    facts = [
        {**span, "text": text, "found": ask(text) if ask is not None else None}
        for span in done.spans
        for text in [done.text[span["start"] : span["end"]].strip()]
    ]
    if as_json:
        console.dump({"text": done.text, "prompt": done.prompt, "spans": facts})
    else:
        _verdict(facts, painter, judged=ask is not None)
        if not quiet:
            _next(model)


def _prepare(*, quiet: bool) -> None:
    """Make sure that there is a demo model, showing what takes time."""
    from ..demo import embedded, set_folder, toy_folder

    if embedded():
        return
    trained = (toy_folder() / "set").exists()
    # The library's own bars would show that files of a megabyte are being written.
    from transformers import logging

    logging.disable_progress_bar()
    if not trained:
        console.note("There is no model here: training a toy, about half a minute.", quiet=quiet)
    started = time.monotonic()
    with _bar(quiet=quiet) as progress:
        set_folder(progress)
    if trained:
        console.note(f"Toy model of four languages, trained earlier: {toy_folder()}", quiet=quiet)
    else:
        console.note(
            f"Trained a toy model of four languages, collected its statistics and found its "
            f"language neurons in {time.monotonic() - started:.0f} s; kept in {toy_folder()}",
            quiet=quiet,
        )


@contextmanager
def _bar(*, quiet: bool) -> Generator[Callable[[int, int, float], None], None, None]:
    columns = (
        TextColumn("Training a toy model"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
    )
    with Progress(
        *columns, TimeRemainingColumn(), console=console.err(), transient=True, disable=quiet
    ) as bar:
        task: Any = None

        def update(step: int, steps: int, loss: float) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task("", total=steps, loss="")
            bar.update(task, completed=step, loss=f"{loss:.2f}")

        yield update


def _tour(labels: Sequence[str], tokens: int) -> Schedule:
    """Return a schedule that switches twice: to a close label, then to one further down."""
    from ..schedule import Schedule

    stops = list(dict.fromkeys([*labels[:2], labels[2 * len(labels) // 3]]))
    every = max(tokens // len(stops), 1)
    return Schedule(stops[0], *((i * every, label) for i, label in enumerate(stops) if i))


def _verdict(facts: Sequence[dict[str, Any]], painter: Painter, *, judged: bool) -> None:
    out = console.out()
    table = Table(box=None, padding=(0, 2, 0, 0), title="\nWhat was asked, what came out")
    table.title_justify = "left"
    table.add_column("tokens", justify="right", no_wrap=True)
    table.add_column("asked", no_wrap=True)
    if judged:
        table.add_column("judged", no_wrap=True)
    table.add_column("text", overflow="fold")
    for fact in facts:
        tokens = f"{fact['token_start']}–{fact['token_end'] - 1}"
        verdict = fact["found"] or "unclear"
        mark = "[green]✓[/green]" if fact["found"] == fact["label"] else "[red]✗[/red]"
        colour = painter.colour(fact["label"])
        cells = [tokens, f"[{colour}]{escape(str(fact['label'] or '-'))}[/]"]
        if judged:
            cells.append(f"{escape(verdict)} {mark}")
        table.add_row(*cells, f"[{colour}]{escape(fact['text'])}[/]")
    out.print(table)
    if judged:
        right = sum(fact["found"] == fact["label"] for fact in facts)
        out.print(f"\n{right} of {len(facts)} spans are in the language asked for.")


def _next(model: str) -> None:
    console.err().print(
        '\nNext: neuronsteer generate demo demo --to es --prompt "The old teacher" --stream'
        if model == "demo"
        else "",
        style="dim",
        soft_wrap=True,
        markup=False,
    )
