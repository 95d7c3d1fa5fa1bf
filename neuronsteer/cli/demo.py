"""`neuronsteer demo`: what steering does to a model's language, in three short parts, offline.

Every part shows itself line by line as it is generated (unless it only has to give its facts), and
has a language identifier say which language came out.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import ParameterError
from ..hub import SHIPPED, builtin
from ..steering.schedule_text import target_label
from . import console, options
from .commands import command
from .page import LOCAL, NoBrowser, PageHost, PagePlace, PagePort, serve_page
from .steered_text import (
    GeneratedText,
    GenerationRequest,
    LabelPrinter,
    generate_text,
    length_for,
)

if TYPE_CHECKING:
    from ..demo.language_identifier import LanguageIdentifier
    from ..neuron_set import NeuronSet
    from ..steering.schedule import Schedule

_PROMPT = "The old man looked out of the window, and"
_TOKENS = 92
#: New tokens of one line in the first part.
_LINE = 24
#: Continuations counted in the third.
_SAMPLES = 24


@command(
    "demo",
    examples="""
    neuronsteer demo
    neuronsteer demo --ui
    neuronsteer demo --ui --port 8000 --no-browser
    neuronsteer demo --schedule en,20:es,40:de --prompt "Today, we see"
    neuronsteer demo --model gemma
    neuronsteer demo --model Qwen/Qwen3-0.6B --set user/qwen3-language-neurons
    """,
)
def demo(
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Another model: gemma or qwen, for which there are sets (the model as `make real` "
            "lays it out, otherwise from the Hub), or any other with its --set.",
        ),
    ] = "demo",
    neurons: Annotated[
        str | None, typer.Option("--set", metavar="SET", help="The neuron set of that model.")
    ] = None,
    ui: Annotated[
        bool, typer.Option("--ui", help="Open a page in the browser instead (extra: space).")
    ] = False,
    host: PageHost = LOCAL,
    port: PagePort = None,
    no_browser: NoBrowser = False,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to continue.")] = _PROMPT,
    schedule: Annotated[
        str | None,
        typer.Option(metavar="SCHEDULE", help="Show the second part only, for example en,12:fr."),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many tokens in the second part; default: 92, or more if the schedule is "
            "longer.",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.6,
    seed: Annotated[int, typer.Option(help="For sampling.")] = 1,
    device: options.Device = "auto",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what neuronsteer does, offline, in three parts of a few seconds.

    1. One prompt, unsteered and forced into every language of the neuron set. 2. One text that
    changes its language at chosen tokens, while it is generated. 3. The model's own language turned
    off, and as many random neurons for comparison.

    A language identifier says which language came out, ✗ where it is another one. Prompt,
    temperature and switch points were picked after trying others; give your own.
    """
    if neurons is None and model not in SHIPPED:
        raise ParameterError(
            f"--model {model} needs --set: a set is made for one model. Models that come with one: "
            f"{', '.join(SHIPPED)}."
        )
    neurons = neurons or model
    if (model == "demo") != (neurons.split("/")[0] == "demo"):
        raise ParameterError("--model and --set belong together: a set is made for one model.")
    if ui:
        place = PagePlace(host=host, port=port, no_browser=no_browser)
        serve_page(model, neurons, place, device=device, quiet=quiet)
        return
    if host != LOCAL or port is not None or no_browser:
        raise ParameterError("--host, --port and --no-browser are about the page: add --ui.")
    from ..demo.language_identifier import language_identifier
    from .models import load_model, load_set

    rows = load_set(neurons)
    labels = [label for label, count in rows.counts.items() if count]
    target = _target(schedule, rows, labels, max_new_tokens or _TOKENS)
    tokens = length_for(target, max_new_tokens, _TOKENS, quiet=quiet)
    loaded, tokenizer = load_model(
        model, device=device, dtype="float32" if model == "demo" else "auto"
    )
    run = DemoRun(
        model=loaded,
        tokenizer=tokenizer,
        neurons=rows,
        selected=_selected(neurons, rows),
        prompt=prompt,
        temperature=temperature,
        seed=seed,
        full_length=model == "demo",
        identify=language_identifier(labels),
        out=None if as_json else console.out(),
    )
    shown: list[dict[str, Any]] = []
    if schedule is None:
        shown.append(show_languages(run))
    shown.append(switched := show_switch(run, target, tokens))
    if schedule is None and (off := show_turned_off(run)) is not None:
        shown.append(off)
    if as_json:
        facts = {key: switched[key] for key in ("text", "spans")}
        console.dump({"prompt": prompt, "schedule": str(target), **facts, "parts": shown})
    elif not quiet:
        if run.identify is None:
            console.note(
                "No language is detected without the extra: pip install 'neuronsteer[langid]'"
            )
        if model == "demo":
            console.note(
                "\nNext: neuronsteer generate demo demo --to es --prompt 'The old teacher' --stream"
            )


def _selected(name: str, rows: NeuronSet) -> NeuronSet | None:
    """Return a set of chosen neurons. A dense set chooses none; one that does may lie beside it."""
    from .models import load_set

    if rows.site != "resid":
        return rows
    beside = f"{name}/neurons"
    return load_set(beside) if builtin(beside) else None


def _target(schedule: str | None, rows: NeuronSet, labels: Sequence[str], tokens: int) -> Schedule:
    """Return what the second part shows: what was asked, what the set proposes, or a tour."""
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


@dataclasses.dataclass(frozen=True)
class DemoRun:
    """What all parts of the demo share.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        neurons: The neuron set.
        selected: The set whose neurons are turned off in the third part; `None` for none.
        prompt: The text to continue.
        temperature: For sampling.
        seed: For sampling; every line of a part starts from it, so that only steering differs.
        full_length: Whether a text must not end before all its tokens are used.
        identify: Returns the language of a text; `None` if no identifier is installed.
        out: Where to show the part; `None` gives facts only.
    """

    model: Any
    tokenizer: Any
    neurons: NeuronSet
    selected: NeuronSet | None
    prompt: str
    temperature: float
    seed: int
    full_length: bool
    identify: LanguageIdentifier | None
    out: Console | None

    @property
    def labels(self) -> list[str]:
        """The labels that have neurons."""
        return [label for label, count in self.neurons.counts.items() if count]

    def continued(
        self, schedule: Schedule, tokens: int, printer: LabelPrinter | None = None
    ) -> GeneratedText:
        """Continue the prompt along a schedule."""
        from ..steering.steerer import PREVIOUS

        request = GenerationRequest(
            prompt=self.prompt,
            schedule=schedule,
            max_new_tokens=tokens,
            min_new_tokens=tokens if self.full_length else 0,
            temperature=self.temperature,
            seed=self.seed,
            away_from=(PREVIOUS,),
        )
        request.check(self.neurons)
        return generate_text(self.model, self.tokenizer, self.neurons, request, printer)

    def detect_language(self, text: str) -> str | None:
        """Return the language of a text."""
        return self.identify(text) if self.identify is not None and text.strip() else None


def show_languages(run: DemoRun) -> dict[str, Any]:
    """The same prompt, unsteered and forced into every language."""
    from ..steering.schedule import Schedule

    _print_title(run, "1", "One prompt, every language", f"“{run.prompt} …”")
    lines: list[dict[str, Any]] = []
    for label in (None, *run.labels):
        done = run.continued(Schedule(label), _LINE)
        text = done.text[len(run.prompt) :].strip()
        found = run.detect_language(text)
        lines.append({"label": label, "text": text, "found": found})
        _print_line(run, "unsteered" if label is None else label, label, text, found)
    return {"part": "languages", "lines": lines}


def show_switch(run: DemoRun, schedule: Schedule, tokens: int) -> dict[str, Any]:
    """One text that changes its language at chosen tokens."""
    _print_title(run, "2", "One text that changes its language", f"{schedule}")
    printer = None if run.out is None else LabelPrinter(run.out, run.neurons.labels)
    done = run.continued(schedule, tokens, printer)
    spans: list[dict[str, Any]] = [
        {
            **span,
            "label": _target_label(span["label"]),
            "text": text,
            "found": run.detect_language(text),
        }
        for span in done.spans
        for text in [done.text[span["start"] : span["end"]].strip()]
    ]
    if run.out is not None:
        run.out.print()
        for span in spans:
            name = f"{span['token_start']}–{span['token_end'] - 1} {span['label'] or '-'}"
            _print_line(run, name, span["label"], span["text"], span["found"])
        if run.identify is not None:
            right = sum(span["found"] == span["label"] for span in spans)
            run.out.print(
                f"\n{right} of {len(spans)} spans are in the language asked for.", style="bold"
            )
    return {"part": "switch", "text": done.text, "spans": spans}


def show_turned_off(run: DemoRun) -> dict[str, Any] | None:
    """The model's own language turned off, and as many random neurons as the control.

    Returns:
        The facts; `None` without an identifier or a set of selected neurons, or if the model's own
        language is not in it.
    """
    own = run.detect_language(_unsteered(run))
    if own is None or run.selected is None or not run.selected.counts.get(own):
        return None
    rows = run.selected.rows(own)
    _print_title(
        run,
        "3",
        f"The model's own language, {own}, turned off",
        f"{len(rows)} neurons; the languages of {_SAMPLES} continuations",
    )
    conditions: list[tuple[str, NeuronSet | None]] = [
        ("nothing off", None),
        (f"{own} off", rows),
        ("random off", rows.random_like(run.seed)),
    ]
    shown: list[dict[str, Any]] = []
    for name, neurons in conditions:
        texts = _samples(run, own, neurons)
        detected = Counter(run.detect_language(text) or "?" for text in texts)
        fact = {"condition": name, "detected": dict(detected.most_common()), "text": texts[0]}
        shown.append(fact)
        if run.out is not None:
            counts = ", ".join(f"{label} {count}" for label, count in detected.most_common())
            _print_row(run, name, f"[bold]{escape(counts)}[/]\n{escape(texts[0])}")
    return {"part": "off", "language": own, "neurons": len(rows), "conditions": shown}


def _target_label(label: str | None) -> str | None:
    return None if label is None else target_label(label)


def _unsteered(run: DemoRun) -> str:
    from ..steering.schedule import Schedule

    return run.continued(Schedule(None), _LINE).text[len(run.prompt) :]


def _samples(run: DemoRun, own: str, neurons: NeuronSet | None) -> list[str]:
    """Return continuations of the prompt with the neurons of `own` taken away, if any are given.

    The set's header says how: zero, or the opposite of its operation.
    """
    import torch

    from ..steering.steerer import attach

    inputs = run.tokenizer([run.prompt] * _SAMPLES, return_tensors="pt").to(run.model.device)
    inputs.pop("token_type_ids", None)
    options: dict[str, Any] = {"max_new_tokens": _LINE, "do_sample": True, "temperature": 0.8}
    if run.tokenizer.pad_token_id is None:
        options["pad_token_id"] = run.tokenizer.eos_token_id

    def generate(model: Any) -> Any:
        torch.manual_seed(run.seed)
        return model.generate(**inputs, **options)

    if neurons is None:
        ids = generate(run.model)
    else:
        with attach(run.model, neurons) as steer:
            steer.to(None, away_from=own)
            ids = generate(run.model)
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts: Sequence[str] = run.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _print_title(run: DemoRun, number: str, title: str, about: str) -> None:
    if run.out is not None:
        run.out.print(f"\n[bold]{number}. {escape(title)}[/]  [dim]{escape(about)}[/]\n")


def _print_line(run: DemoRun, name: str, label: str | None, text: str, found: str | None) -> None:
    """Show what was asked for, which language was detected, and the text."""
    if run.out is None:
        return
    colour = LabelPrinter(run.out, run.neurons.labels).colour(label)
    verdict = ""
    if run.identify is not None:
        mark = "" if label is None else ("[green]✓[/] " if found == label else "[red]✗[/] ")
        verdict = f"{mark}{escape(found or '?')}"
    _print_row(run, f"[{colour}]{escape(name)}[/]", f"[{colour}]{escape(text)}[/]", verdict)


def _print_row(run: DemoRun, name: str, text: str, verdict: str | None = None) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=12, no_wrap=True)
    cells = [name]
    if verdict is not None:
        table.add_column(width=4, no_wrap=True)
        cells.append(verdict)
    # Folded, because some scripts have no spaces to wrap at.
    table.add_column(overflow="fold", ratio=1)
    table.add_row(*cells, text)
    if run.out is not None:
        run.out.print(table)
