"""The texts of one generation that are steered only where they leave their language."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from ..errors import HookError, ScheduleError
from .keeping.language_sensor import LanguageSensor, Watch
from .layer_hooks import MIXED, Plan, Span
from .prompt_reader import TokenReading
from .schedule_text import target_label
from .timeline import Planner, RowText, RowTimeline

#: Returns the timeline of one row of the batch as it was given, leaving a language.
TimelineOf = Callable[[int, "str | None"], RowTimeline]


class KeptTexts:
    """Plans forward passes by what the sensor saw in those before.

    What is known of a text is kept beside its tokens, so that beams and rejected drafts find what
    was known at that token.

    Args:
        sensor: Watches the texts.
        timeline_of: Says what each row is kept to, and how it is pulled there.
        rows: Rows of the batch as it was given.
        prompts: Their tokens, per row of the batch now.
    """

    def __init__(
        self,
        sensor: LanguageSensor,
        timeline_of: TimelineOf,
        rows: int,
        prompts: Sequence[list[int]],
    ) -> None:
        self.sensor = sensor
        self._timeline_of = timeline_of
        self._rows = rows
        self._prompts = prompts
        self._reading: TokenReading | None = None

    def plan(
        self, planner: Planner, texts: Sequence[RowText], first: int, batch: int, length: int
    ) -> Plan:
        """Return the plan of a forward pass; see `Planner.plan` for the arguments."""
        if len(texts) != batch:
            raise ScheduleError(
                "keep() needs the token ids of the whole sequence, which this call does not have. "
                "Use model.generate() with input_ids."
            )
        spans: list[list[Span]] = []
        end, unread = first + length, 0
        for row, text in enumerate(texts):
            watches = self._known(row, text, max(first - 1, 0))
            spans.append(self._spans(row // (batch // self._rows), watches, text, first, end))
            unread = max(unread, end - len(watches))
        plan = Plan(MIXED, batch=batch, length=length)
        if any(row is not None for each in spans for _, _, row, _ in each):
            plan = planner.per_row(spans, first, batch, length)
            plan.row, plan.factor = MIXED, 1.0  # positions have to be read, too
        # A position holds the token before the one that it predicts.
        self._reading = None
        if min(unread, length) > 0:
            self._reading = self.sensor.reader.watch(batch, length, min(unread, length))
            plan.reading = self._reading
        return plan

    def take_in(self, texts: Sequence[RowText], first: int, length: int) -> None:
        """Look at what a forward pass has read."""
        reading, self._reading = self._reading, None
        if reading is None:
            return
        likeness = self.sensor.reader.likeness(reading)
        if likeness is None:
            raise HookError(
                "keep() reads what the neurons do, which compiled layers do not show. Load the "
                "model without torch.compile and without cache_implementation='static'."
            )
        batch, last, _ = likeness.shape
        for row, text in enumerate(texts):
            given, watches = row // (batch // self._rows), text.progress[self.sensor]
            for k in range(last):
                if len(watches) == first + length - last + k:
                    watches.append(self._after(given, text, watches, likeness[row, k]))

    def watches(self, text: RowText) -> list[Watch]:
        """Return what was known of a text after each of its tokens."""
        return text.progress.get(self.sensor, [])

    def _known(self, row: int, text: RowText, count: int) -> list[Watch]:
        """Return what is known after `count` tokens; of those that nobody read, only the text."""
        given = row // max(1, len(self._prompts) // self._rows)
        watches = text.progress.get(self.sensor)
        if watches is None:  # asked at every token, and the prompt stays what it is
            start = self.sensor.start(self._prompts[row], self._kept(given, text, 0))
            watches = text.progress[self.sensor] = [start]
        while len(watches) <= count:
            watches.append(self._after(given, text, watches, None))
        return watches

    def _after(
        self, given: int, text: RowText, watches: list[Watch], likeness: Tensor | None
    ) -> Watch:
        count = len(watches)
        kept = self._kept(given, text, count + 1)
        return self.sensor.after(watches[-1], text.tokens[count - 1], likeness, kept)

    def _kept(self, given: int, text: RowText, token: int) -> str | None:
        """Return the label that a token is kept to."""
        row = self._timeline_of(given, None).spans(token, token + 1, text)[0][2]
        return None if row is None or row.label is None else target_label(row.label)

    def _spans(
        self, given: int, watches: list[Watch], text: RowText, first: int, end: int
    ) -> list[Span]:
        """Return what acts on the tokens `first` … `end - 1`: what did so before does so again."""
        found: list[Span] = [(first, min(end, 1), None, 1.0)] if first < 1 else []
        for token in range(max(first, 1), end):
            watch = watches[min(token, len(watches)) - 1]
            if not watch.pulled:
                found.append((token, token + 1, None, 1.0))
                continue
            timeline = self._timeline_of(given, watch.left)
            ((_, _, row, factor),) = timeline.spans(token, token + 1, text)
            begins = None if row is None else row.beginning
            if begins is not None and self.sensor.hold - watch.pulled < begins.tokens:
                factor = begins.strength  # as after a switch, which it is
            found.append((token, token + 1, row, factor))
        return found
