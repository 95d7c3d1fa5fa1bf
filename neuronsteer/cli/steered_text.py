"""One steered text: generating it, and printing it so that one sees which label made which part."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..errors import ParameterError, unknown_label
from ..steering.schedule_text import is_arithmetic, target_label
from ..steering.token_text import Detokenizer, Run, locate, pieces
from . import console

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet
    from ..operations import Operation
    from ..steering.keeping.language_sensor import PullBack
    from ..steering.keeping.vocabulary_gate import Refusal
    from ..steering.schedule import Schedule

#: What was done at a token to keep its language: how it is written where colours do not reach the
#: reader, how it is styled elsewhere, and what that style is called.
REFUSED, PULLED_BACK = "refused", "pulled back"
_SIGNS = {REFUSED: "⟦×⟧", PULLED_BACK: "⟦↩⟧"}
_STYLES = {REFUSED: "underline", PULLED_BACK: "underline italic"}
_STYLE_NAMES = {REFUSED: "underlined", PULLED_BACK: "underlined and in italics"}

#: Tokens that are generated after the last switch, unless the user says how many there are.
_AFTER_SWITCH = 32


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """What to generate.

    Attributes:
        prompt: The text to continue.
        schedule: Labels over generated tokens.
        operation: What is done to the neurons; `None` leaves it to the set.
        strength: How much of it.
        away_from: Labels whose neurons are switched off; "previous": at switches, the one before.
        away: How; `None` leaves it to the set.
        source: What is left, as in `steer.to`.
        max_new_tokens: How many tokens at most.
        min_new_tokens: The text does not end before that many.
        temperature: 0 takes the likeliest token.
        seed: For sampling.
        keep: The language that the text is kept in, see `ns.keep`; with neurons where the schedule
            is empty.
    """

    prompt: str
    schedule: Schedule
    operation: Operation | None = None
    strength: float = 1.0
    away_from: Sequence[str] = ()
    away: Operation | None = None
    source: Sequence[str] | None = None
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    keep: str | None = None

    def check(self, neurons: NeuronSet | None) -> None:
        """Raise for what the set does not have, before a large model is loaded."""
        from ..steering.keeping.gate_rules import schedules_of
        from ..steering.label_sums import arith
        from ..steering.steerer import PREVIOUS

        schedules_of(self.keep)
        if neurons is None:
            return
        away = () if tuple(self.away_from) == (PREVIOUS,) else self.away_from
        for label in (*self.schedule.labels, *away):
            if label in neurons.labels or label in neurons.means_of:
                continue
            for each in arith(label).labels if is_arithmetic(label) else (label,):
                if each not in neurons.labels:
                    raise unknown_label(each, neurons.labels)


def length_for(schedule: Schedule, asked: int | None, usual: int, *, quiet: bool) -> int:
    """Return how many tokens to generate; switches that are not reached then are said.

    Args:
        schedule: What is followed.
        asked: What the user asked for; otherwise enough is generated to see every label.
        usual: How many it is at least, if nothing was asked for.
        quiet: Whether nothing is to be said.
    """
    enough = max(usual, schedule.last_switch + _AFTER_SWITCH)
    if asked is None:
        return enough
    if missed := schedule.unreached(asked):
        console.note(f"{missed} Try --max-new-tokens {enough}.", quiet=quiet)
    return asked


@dataclasses.dataclass(frozen=True)
class GeneratedText:
    """What was generated.

    Attributes:
        prompt: The prompt.
        text: Prompt and completion.
        spans: Which label made which part of `text`, see `token_text.locate`.
        tokens: Number of generated tokens.
        report: What was steered, per layer.
        kept: What was done to keep the language.
        pieces: The text of every generated token.
    """

    prompt: str
    text: str
    spans: list[dict[str, Any]]
    tokens: int
    report: dict[str, Any]
    kept: Sequence[Refusal | PullBack] = ()
    pieces: Sequence[str] = ()

    def parts(self) -> Iterator[tuple[str, str | None, str | None]]:
        """Yield the text of every token, its label, and what kept its language there."""
        marks = marks_of(self.kept)
        for span in self.spans:
            for token in range(span["token_start"], span["token_end"]):
                yield self.pieces[token], span["label"], marks.get(token)


def marks_of(kept: Sequence[Refusal | PullBack]) -> dict[int, str]:
    """Return at which tokens another one was refused, and which were pulled back."""
    from ..steering.keeping.vocabulary_gate import Refusal

    refused = {each.token: REFUSED for each in kept if isinstance(each, Refusal)}
    pulled = {
        token: PULLED_BACK
        for each in kept
        if not isinstance(each, Refusal)
        for token in range(each.token, each.token + each.tokens)
    }
    return {**pulled, **refused}


def generate_text(
    model: Any,
    tokenizer: Any,
    neurons: NeuronSet | None,
    request: GenerationRequest,
    printer: LabelPrinter | None = None,
) -> GeneratedText:
    """Generate one text; with a printer, its tokens are shown as they come."""
    from ..steering.keeping.keeper import keep
    from ..steering.steerer import attach

    inputs = tokenizer(request.prompt, return_tensors="pt").to(model.device)
    # Some tokenizers add ids that the model's forward does not take.
    inputs.pop("token_type_ids", None)
    length = int(inputs["input_ids"].shape[1])
    if length == 0:
        raise ParameterError(f"The tokenizer makes no token of the prompt {request.prompt!r}.")
    with ExitStack() as stack:
        steer = kept = None
        if request.keep is not None:
            watching = None if request.schedule.labels else neurons
            kept = keep(model, tokenizer, request.keep, neurons=watching)
            steer = stack.enter_context(kept).steer
        if neurons is not None and steer is None:
            steer = stack.enter_context(attach(model, neurons, tokenizer=tokenizer))
            steer.to(
                request.schedule,
                operation=request.operation,
                strength=request.strength,
                away_from=request.away_from,
                away=request.away,
                source=request.source,
            )
        runs_so_far: Callable[[], Sequence[Run]] = steer.spans if steer else lambda: ()
        streamer = None
        if printer is not None:
            printer.prompt(request.prompt)
            kept_so_far = kept.report if kept else lambda: ()
            streamer = LabelStreamer(
                printer, tokenizer, runs_so_far, lambda: marks_of(kept_so_far())
            )
        ids = _generate(model, tokenizer, inputs, request, streamer)
        report = steer.report() if steer else {}
        done = kept.report() if kept else ()
        new: list[int] = ids[0, length:].tolist()
        runs: list[Run] = [run for run in runs_so_far() if run[0] < len(new)] if new else []
    if steer is None and new:
        runs = [(0, len(new), None)]
    texts = pieces(tokenizer, ids[0, :length].tolist(), new)
    return GeneratedText(
        prompt=request.prompt,
        text=request.prompt + "".join(texts),
        spans=locate(runs, texts, len(request.prompt)),
        tokens=len(new),
        report=report,
        kept=done,
        pieces=texts,
    )


def _generate(
    model: Any,
    tokenizer: Any,
    inputs: Any,
    request: GenerationRequest,
    streamer: LabelStreamer | None,
) -> Any:
    import torch

    from ..models.special_tokens import unwritten_tokens

    sampling: dict[str, Any] = {"do_sample": False}
    if unwritten := unwritten_tokens(model, tokenizer):
        sampling["suppress_tokens"] = unwritten
    if request.temperature > 0:
        sampling |= {"do_sample": True, "temperature": request.temperature}
        torch.manual_seed(request.seed)
    if request.min_new_tokens:
        sampling["min_new_tokens"] = request.min_new_tokens
    if tokenizer.pad_token_id is None and model.generation_config.pad_token_id is None:
        sampling["pad_token_id"] = tokenizer.eos_token_id
    return model.generate(
        **inputs, max_new_tokens=request.max_new_tokens, streamer=streamer, **sampling
    )


class LabelPrinter:
    """Prints pieces of text in the colour of their label.

    Where colours do not reach the reader, the label stands in front of its text: `⟦fr⟧`. So does
    what was done at a token to keep its language, which is underlined otherwise.
    """

    def __init__(self, out: Console, labels: Sequence[str]) -> None:
        self._out = out
        self._colours = console.colours(labels)
        self._marks = not console.coloured(out)
        self._last: str | None = None
        self._mark: str | None = None
        self._waiting: str | None = None

    def prompt(self, text: str) -> None:
        """Write the prompt."""
        self._write(text, "dim")

    def piece(self, text: str, label: str | None, mark: str | None = None) -> None:
        """Write the text of one token or span.

        Args:
            text: The text; what was done at a token without any is told at the next one.
            label: Its label.
            mark: What was done there to keep the language: `REFUSED` or `PULLED_BACK`.
        """
        mark, self._waiting = mark or self._waiting, None
        if not text:
            self._waiting = mark
            return
        if label != self._last and self._marks:
            self._write(f"⟦{'-' if label is None else target_label(label)}⟧", None)
        self._last = label
        # Every refusal is one of its own; a part that was pulled back is marked where it begins.
        if mark is not None and self._marks and (mark == REFUSED or mark != self._mark):
            self._write(_SIGNS[mark], None)
        self._mark = mark
        style = self.colour(label)
        self._write(text, style if mark is None else f"{style} {_STYLES[mark]}")

    def look(self, mark: str) -> str:
        """Return how a token with this mark is written, in words."""
        return _SIGNS[mark] if self._marks else _STYLE_NAMES[mark]

    def colour(self, label: str | None) -> str:
        """Return the colour of a label."""
        return "default" if label is None else self._colours.get(target_label(label), "default")

    def legend(self, labels: Sequence[str]) -> str:
        """Return the key to the colours, empty where labels are written out."""
        if self._marks:
            return ""
        return "  ".join(f"[{self._colours[label]}]■[/] {label}" for label in labels)

    def end(self) -> None:
        """Finish the line."""
        self._write("\n", None)

    def _write(self, text: str, style: str | None) -> None:
        # Wrapping is left to the terminal: pieces are parts of words.
        self._out.print(text, end="", style=style, markup=False, highlight=False, soft_wrap=True)
        sys.stdout.flush()


class LabelStreamer:
    """What `generate(streamer=…)` calls with the prompt, then with every new token.

    Args:
        printer: Where the text goes.
        tokenizer: The model's tokenizer.
        runs: Returns which label was active at which generated tokens so far.
        marks: Returns what was done at which of them to keep the language, see `marks_of`.
    """

    def __init__(
        self,
        printer: LabelPrinter,
        tokenizer: Any,
        runs: Callable[[], Sequence[Run]],
        marks: Callable[[], Mapping[int, str]] = dict,
    ) -> None:
        self._printer = printer
        self._tokenizer = tokenizer
        self._runs, self._marks = runs, marks
        self._text: Detokenizer | None = None
        self._count = 0

    def put(self, value: Any) -> None:
        """Take token ids: the whole prompt the first time, new ones afterwards."""
        ids: list[int] = value.flatten().tolist()
        if self._text is None:
            self._text = Detokenizer(self._tokenizer, ids)
            return
        for token in ids:
            mark = self._marks().get(self._count)
            self._printer.piece(self._text.push(token), self._label(), mark)
            self._count += 1

    def end(self) -> None:
        """Write what is still buffered."""
        if self._text is not None:
            self._count = max(self._count - 1, 0)
            self._printer.piece(self._text.flush(), self._label())
        self._printer.end()

    def _label(self) -> str | None:
        runs = reversed(self._runs())
        return next((label for start, end, label in runs if start <= self._count < end), None)
