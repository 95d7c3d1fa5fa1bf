"""The three scenes of `neuronsteer demo`: what steering does, seen rather than told.

Every scene shows itself line by line as it is generated (unless it only has to give its facts), and
has somebody else than the model say which language came out.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..steering.schedule_text import spoken
from ..steering.targets import PREVIOUS
from .running import Outcome, Request, run
from .streaming import Painter

if TYPE_CHECKING:
    from ..demo.language_identifier import LanguageIdentifier
    from ..neuron_set import NeuronSet
    from ..steering.schedule import Schedule

#: New tokens of one line in the first scene.
_LINE = 24
#: Continuations counted in the third.
_SAMPLES = 24


@dataclasses.dataclass(frozen=True)
class Stage:
    """What all scenes share.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        neurons: The neuron set.
        prompt: What to go on from.
        temperature: For sampling.
        seed: For sampling; every line of a scene starts from it, so that only steering differs.
        whole: Whether a text must not end before all its tokens are used.
        judge: Tells the language of a text, or `None` if nobody here can.
        out: Where to show the scene; `None` gives facts only.
    """

    model: Any
    tokenizer: Any
    neurons: NeuronSet
    prompt: str
    temperature: float
    seed: int
    whole: bool
    judge: LanguageIdentifier | None
    out: Console | None

    @property
    def labels(self) -> list[str]:
        """The labels that have neurons."""
        return [label for label, count in self.neurons.counts.items() if count]

    def continued(self, schedule: Schedule, tokens: int, painter: Painter | None = None) -> Outcome:
        """Go on from the prompt along a schedule."""
        request = Request(
            prompt=self.prompt,
            schedule=schedule,
            max_new_tokens=tokens,
            min_new_tokens=tokens if self.whole else 0,
            temperature=self.temperature,
            seed=self.seed,
            away_from=(PREVIOUS,),
        )
        request.check(self.neurons)
        return run(self.model, self.tokenizer, self.neurons, request, painter)

    def heard(self, text: str) -> str | None:
        """Return the language that is heard in a text."""
        return self.judge(text) if self.judge is not None and text.strip() else None


def languages(stage: Stage) -> dict[str, Any]:
    """The same prompt, unsteered and forced into every language."""
    from ..steering.schedule import Schedule

    _title(stage, "1", "One prompt, every language", f"“{stage.prompt} …”")
    lines: list[dict[str, Any]] = []
    for label in (None, *stage.labels):
        done = stage.continued(Schedule(label), _LINE)
        text = done.text[len(stage.prompt) :].strip()
        found = stage.heard(text)
        lines.append({"label": label, "text": text, "found": found})
        _line(stage, "unsteered" if label is None else label, label, text, found)
    return {"scene": "languages", "lines": lines}


def switch(stage: Stage, schedule: Schedule, tokens: int) -> dict[str, Any]:
    """One text that changes its language at chosen tokens."""
    _title(stage, "2", "One text that changes its language", f"{schedule}")
    painter = None if stage.out is None else Painter(stage.out, stage.neurons.labels)
    done = stage.continued(schedule, tokens, painter)
    spans: list[dict[str, Any]] = [
        {**span, "label": _spoken(span["label"]), "text": text, "found": stage.heard(text)}
        for span in done.spans
        for text in [done.text[span["start"] : span["end"]].strip()]
    ]
    if stage.out is not None:
        stage.out.print()
        for span in spans:
            name = f"{span['token_start']}–{span['token_end'] - 1} {span['label'] or '-'}"
            _line(stage, name, span["label"], span["text"], span["found"])
        if stage.judge is not None:
            right = sum(span["found"] == span["label"] for span in spans)
            stage.out.print(
                f"\n{right} of {len(spans)} spans are in the language asked for.", style="bold"
            )
    return {"scene": "switch", "text": done.text, "spans": spans}


def turned_off(stage: Stage) -> dict[str, Any] | None:
    """The model's own language turned off, and as many random neurons as the control.

    Returns:
        The facts; `None` if nobody can tell languages apart, or the model's own is not in the set.
    """
    own = stage.heard(_plain(stage))
    if own is None or own not in stage.labels:
        return None
    rows = stage.neurons.rows(own)
    _title(
        stage,
        "3",
        f"The model's own language, {own}, turned off",
        f"{len(rows)} neurons; the languages of {_SAMPLES} continuations",
    )
    conditions: list[tuple[str, NeuronSet | None]] = [
        ("nothing off", None),
        (f"{own} off", rows),
        ("random off", rows.random_like(stage.seed)),
    ]
    shown: list[dict[str, Any]] = []
    for name, neurons in conditions:
        texts = _samples(stage, own, neurons)
        heard = Counter(stage.heard(text) or "?" for text in texts)
        fact = {"condition": name, "heard": dict(heard.most_common()), "text": texts[0]}
        shown.append(fact)
        if stage.out is not None:
            counts = ", ".join(f"{label} {count}" for label, count in heard.most_common())
            _row(stage, name, f"[bold]{escape(counts)}[/]\n{escape(texts[0])}")
    return {"scene": "off", "language": own, "neurons": len(rows), "conditions": shown}


def _spoken(label: str | None) -> str | None:
    return None if label is None else spoken(label)


def _plain(stage: Stage) -> str:
    from ..steering.schedule import Schedule

    return stage.continued(Schedule(None), _LINE).text[len(stage.prompt) :]


def _samples(stage: Stage, own: str, neurons: NeuronSet | None) -> list[str]:
    """Return continuations of the prompt with the neurons of `own` taken away, if any are given.

    How, the set knows: zero, or what is the opposite of its operation.
    """
    import torch

    from ..steering.steerer import attach

    inputs = stage.tokenizer([stage.prompt] * _SAMPLES, return_tensors="pt").to(stage.model.device)
    inputs.pop("token_type_ids", None)
    options: dict[str, Any] = {"max_new_tokens": _LINE, "do_sample": True, "temperature": 0.8}
    if stage.tokenizer.pad_token_id is None:
        options["pad_token_id"] = stage.tokenizer.eos_token_id

    def generate(model: Any) -> Any:
        torch.manual_seed(stage.seed)
        return model.generate(**inputs, **options)

    if neurons is None:
        ids = generate(stage.model)
    else:
        with attach(stage.model, neurons) as steer:
            steer.to(None, away_from=own)
            ids = generate(stage.model)
    new = ids[:, inputs["input_ids"].shape[1] :]
    texts: Sequence[str] = stage.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _title(stage: Stage, number: str, title: str, about: str) -> None:
    if stage.out is not None:
        stage.out.print(f"\n[bold]{number}. {escape(title)}[/]  [dim]{escape(about)}[/]\n")


def _line(stage: Stage, name: str, label: str | None, text: str, found: str | None) -> None:
    """Show what was asked for, what was heard, and the text."""
    if stage.out is None:
        return
    colour = Painter(stage.out, stage.neurons.labels).colour(label)
    verdict = ""
    if stage.judge is not None:
        mark = "" if label is None else ("[green]✓[/] " if found == label else "[red]✗[/] ")
        verdict = f"{mark}{escape(found or '?')}"
    _row(stage, f"[{colour}]{escape(name)}[/]", f"[{colour}]{escape(text)}[/]", verdict)


def _row(stage: Stage, name: str, text: str, verdict: str | None = None) -> None:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=12, no_wrap=True)
    cells = [name]
    if verdict is not None:
        table.add_column(width=4, no_wrap=True)
        cells.append(verdict)
    # Folded, because some scripts have no spaces to wrap at.
    table.add_column(overflow="fold", ratio=1)
    table.add_row(*cells, text)
    if stage.out is not None:
        stage.out.print(table)
