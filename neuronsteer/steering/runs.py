"""What a steerer was asked to do, and what it does in each generation that it takes part in."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import ParameterError
from .keeping.language_sensor import LanguageSensor, PullBack, pulled_back
from .kept_texts import KeptTexts
from .layer_hooks import CurrentPlan, Plan
from .prompt_reader import PromptReader
from .timeline import Planner, RowText, RowTimeline, constant, follow_all

#: The plan of whoever takes no part.
NOTHING = constant(None)


def constant_plan(timelines: Sequence[RowTimeline]) -> Plan | None:
    """Return the plan of one row that holds everywhere; `None` if there is more to it."""
    alone = len(timelines) == 1 and timelines[0].is_constant
    return constant(timelines[0].constant_row) if alone else None


@dataclass(eq=False)
class Assignment:
    """What `Steerer.to()` asked for.

    Attributes:
        timelines: One for the whole batch, or one per row.
        per_row: Whether there is one per row.
        prompt_length: Where the prompt ends in direct calls, if the user said so.
        leaving: If it depends on what the prompt is written in: makes the timeline of one target
            when that is known. `timelines` then change nothing.
        sensor: If texts are to be steered only where they leave their language: notices that.
    """

    timelines: list[RowTimeline]
    per_row: bool = False
    prompt_length: int | None = None
    leaving: Callable[[int, str | None], RowTimeline] | None = None
    sensor: LanguageSensor | None = None
    #: The plan where one row holds everywhere, else `None`.
    everywhere: Plan | None = None

    def __post_init__(self) -> None:
        self._known: dict[tuple[int, str | None], RowTimeline] = {}
        if self.leaving is None and not self.per_row and self.sensor is None:
            self.everywhere = constant_plan(self.timelines)

    def timelines_leaving(self, languages: Sequence[str | None]) -> list[RowTimeline]:
        """Return the timelines of a batch whose rows leave these languages."""
        if self.leaving is None:
            return self.timelines
        if not self.per_row and len(set(languages)) == 1:
            languages = languages[:1]
        return [self.timeline_leaving(row, language) for row, language in enumerate(languages)]

    def timeline_leaving(self, row: int, language: str | None) -> RowTimeline:
        """Return the timeline of one row that leaves a language."""
        key = (row if self.per_row else 0, language)
        if self.leaving is None:
            return self.timelines[key[0]]
        if key not in self._known:
            self._known[key] = self.leaving(*key)
        return self._known[key]

    def check(self, batch: int | None) -> None:
        """Raise if there is one label per row but not as many as rows."""
        if self.per_row and batch is not None and len(self.timelines) != batch:
            raise ParameterError(
                f"{len(self.timelines)} labels were given, one per row, but the batch has {batch} "
                "rows. Give one label, or as many as there are prompts."
            )


def ids_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the token sequence in the arguments of `generate`."""
    return args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))


@dataclass(eq=False)
class Generation:
    """One call of `generate`.

    Attributes:
        batch: Rows of the batch as given (before beams), once known.
        prompt: Columns of the prompt in the frame of `input_ids`.
        offset: Cached positions that lie before that frame.
        runs: One per steerer that takes part; fixed when the generation begins.
        token: The generated token that the next forward pass predicts last.
        tokens: Generated tokens that have been planned for; in the end those that were returned.
        prepared: A forward pass has been prepared and not yet run.
        counted: Forward passes are prepared, so that their tokens can be counted.
        locked: Whether compiled graphs are kept to this generation until it ends.
    """

    batch: int | None
    prompt: int | None
    offset: int
    runs: list[Run] = field(default_factory=list)
    token: int = 0
    tokens: int = 0
    prepared: bool = False
    counted: bool = False
    locked: bool = False

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Generation:
        """Return what `generate(*args, **kwargs)` begins."""
        ids, embeds = ids_of(args, kwargs), kwargs.get("inputs_embeds")
        batch = prompt = None
        if ids is not None:
            batch, prompt = int(ids.shape[0]), int(ids.shape[1])
        elif embeds is not None:  # generate starts counting columns after the embeddings
            batch, prompt = int(embeds.shape[0]), 0
        cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
        offset = 0
        if cache is not None and mask is not None and prompt is not None:
            before = int(cache.get_seq_length())
            # Either the whole sequence is given again, or only what the cache does not hold yet.
            offset = before if int(mask.shape[1]) == prompt + before else 0
        return cls(batch, prompt, offset)


@dataclass(eq=False)
class Run:
    """What one steerer does in one generation, with every switch made on the way.

    Attributes:
        state: The steerer's.
        generation: The generation.
        assignment: The newest one that the timelines contain.
        timelines: One for the whole batch, or one per row.
        texts: The generated tokens per row, kept only where something depends on them.
        sequences: The generated tokens that were returned, kept only for those, too.
        languages: What each row of the prompt is written in; empty if nobody asked.
        kept: The texts, if they are only steered where they leave their language.
        everywhere: The plan of this thread, where one row holds everywhere in this generation.
        wanted: Positions that should have been changed.
        hits: Layers changed over all forward passes.
    """

    state: SteererState
    generation: Generation
    assignment: Assignment
    timelines: list[RowTimeline]
    texts: list[RowText] = field(default_factory=list)
    sequences: Tensor | None = None
    languages: Sequence[str | None] = ()
    kept: KeptTexts | None = None
    everywhere: Plan | None = None
    wanted: int = 0
    hits: int = 0

    @property
    def tokens(self) -> int:
        """Generated tokens so far."""
        return self.generation.tokens

    def start(self, read: Callable[[], Sequence[str | None]]) -> None:
        """Begin; `read` tells what each row of the prompt is written in, if that matters."""
        if self.assignment.leaving is not None and self.assignment.sensor is None:
            self.languages = read()
            self.timelines = self.assignment.timelines_leaving(self.languages)
        if not self.assignment.per_row and self.assignment.sensor is None:
            self.everywhere = constant_plan(self.timelines)

    @property
    def needs_text(self) -> bool:
        """Whether something depends on the generated tokens."""
        return self.assignment.sensor is not None or any(t.needs_text for t in self.timelines)

    def plan(self, ids: Tensor | None, first: int, batch: int, length: int) -> Plan:
        """Return the plan of a forward pass.

        Args:
            ids: The tokens of the whole sequence, if they are known and new.
            first: Generated token that the first position predicts; negative in the prompt.
            batch: Rows now.
            length: Positions per row.
        """
        prompt, planner = self.generation.prompt or 0, self.state.planner
        if ids is not None and self.needs_text:
            self.texts = follow_all(self.texts, ids[:, prompt:].cpu())
        sensor = self.assignment.sensor
        if sensor is None:
            self.kept = None
            return planner.plan(self.timelines, self.texts, first, batch, length)
        if self.kept is None or self.kept.sensor is not sensor:
            prompts = [[]] * batch if ids is None else ids[:, :prompt].tolist()
            rows = self.generation.batch or batch
            self.kept = KeptTexts(sensor, self.assignment.timeline_leaving, rows, prompts)
        return self.kept.plan(planner, self.texts, first, batch, length)

    def look(self, plan: Plan) -> None:
        """Take in what a forward pass has shown."""
        if self.kept is not None and plan.reading is not None:
            first = self.generation.token - plan.length + 1
            self.kept.take_in(self.texts, first, plan.length)

    def returned(self, sequences: Tensor) -> None:
        """Keep the generated tokens that were returned, where something is told of them."""
        if not self.needs_text:
            return
        kept = self.kept is not None
        self.texts = [_closest(self.texts, row) for row in sequences] if kept else []
        self.sequences = sequences

    def pulled_back(self, row: int) -> list[PullBack]:
        """Return where the text of a row was pulled back to its language."""
        if self.kept is None or not self.texts:
            return []
        each = max(1, len(self.texts) // (self.generation.batch or 1))
        return pulled_back(self.kept.watches(self.texts[row * each]), row, self.tokens)

    def switch(
        self, assignment: Assignment, token: int, read: Callable[[], Sequence[str | None]]
    ) -> None:
        """Follow `assignment` from generated token `token` on.

        Args:
            assignment: The new one.
            token: The generated token.
            read: Tells what each row is written in, where no label has been in force before.
        """
        old, new = self.timelines, assignment.timelines
        if assignment.leaving is not None and assignment.sensor is None:
            new = assignment.timelines_leaving(self._left(token, read))
        self.assignment = assignment
        self.timelines = [
            old[i % len(old)].switched(token, new[i % len(new)])
            for i in range(max(len(old), len(new)))
        ]

    def _left(self, token: int, read: Callable[[], Sequence[str | None]]) -> list[str | None]:
        rows = self.generation.batch or len(self.timelines)
        found: list[str | None] = []
        for row in range(rows):
            timeline, text = self.text(row)
            label = timeline.label_before(token, text)
            if label is None:
                self.languages = self.languages or read()
                label = self.languages[row] if row < len(self.languages) else None
            found.append(label)
        return found

    def text(self, row: int) -> tuple[RowTimeline, RowText | None]:
        """Return the timeline and the text of one row of the batch as it was given."""
        timeline = self.timelines[row if len(self.timelines) > 1 else 0]
        if not timeline.needs_text:
            return timeline, None
        if self.sequences is None:
            each = max(1, len(self.texts) // (self.generation.batch or 1))
            return timeline, self.texts[row * each] if self.texts else RowText()
        each = max(1, len(self.sequences) // (self.generation.batch or 1))
        text = RowText()
        text.follow(self.sequences[row * each, : self.tokens])
        return timeline, text


def _closest(texts: Sequence[RowText], ids: Tensor) -> RowText:
    """Return the text that begins like `ids`, with what is known of it up to there."""
    found = max(texts, key=lambda each: each.common(ids)).copy()
    found.follow(ids)
    return found


class Prompt(NamedTuple):
    """Where a prompt ended, and what its rows are written in, as far as that matters."""

    length: int
    languages: Sequence[str | None] = ()


class SteererState:
    """One steerer's part in the tracker.

    Args:
        current: What its hooks read.
        assignment: What to follow at first.
        private: Take part only in generations of its own.
    """

    def __init__(self, current: CurrentPlan, assignment: Assignment, private: bool) -> None:
        self.current = current
        self.assignment = assignment
        self.private = private
        self.last: Run | None = None
        self.generations = 0
        self.planner = Planner()
        self.running: dict[Generation, Run] = {}
        #: Tells what a prompt is written in, if the sets can.
        self.reader: PromptReader | None = None
        #: Where the prompt ended and what it is written in, per cache of a loop that calls the
        #: model itself.
        self.prompts: weakref.WeakKeyDictionary[Any, Prompt] = weakref.WeakKeyDictionary()

    @property
    def resting(self) -> Plan | None:
        """The plan for code that runs outside of any forward pass known; `None`: nobody knows."""
        return NOTHING if self.private else self.assignment.everywhere

    def newest(self) -> Run | None:
        """Return the generation that runs, the newest if there are several."""
        runs = tuple(self.running.values())
        return runs[-1] if runs else None
