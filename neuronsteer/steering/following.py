"""One steerer's side of the clock: the plan of every forward pass, and whether it was kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..errors import HookError, ParameterError, ScheduleError
from .generation import Session
from .layer_hooks import Signal
from .planner import Planner
from .schedule import Schedule
from .schedule_text import Point
from .timeline import Track


@dataclass(eq=False)
class Assignment:
    """What `Steerer.to()` asked for.

    Attributes:
        tracks: One for the whole batch, or one per row.
        per_row: Whether there is one per row.
        prompt_length: Where the prompt ends in direct calls, if the user said so.
    """

    tracks: list[Track]
    per_row: bool = False
    prompt_length: int | None = None

    @property
    def constant_row(self) -> int | None:
        """The one table row that holds everywhere, or `None`."""
        return None if self.per_row else self.tracks[0].constant_row

    def check(self, batch: int | None) -> None:
        """Raise if there is one label per row but not as many as rows."""
        if self.per_row and batch is not None and len(self.tracks) != batch:
            raise ParameterError(
                f"{len(self.tracks)} labels were given, one per row, but the batch has {batch} "
                "rows. Give one label, or as many as there are prompts."
            )


@dataclass(eq=False)
class Run:
    """One generation: the tracks it follows, with every switch made on the way.

    Attributes:
        assignment: The newest one that the tracks contain.
        tracks: One for the whole batch, or one per row.
        tokens: Generated tokens that have been planned for.
        ids: The generated tokens per row, kept only for schedules that wait for text.
    """

    assignment: Assignment
    tracks: list[Track]
    tokens: int = 0
    ids: list[list[int]] = field(default_factory=list)

    def switch(self, assignment: Assignment, token: int) -> None:
        """Follow `assignment` from generated token `token` on."""
        old, new = self.tracks, assignment.tracks
        self.assignment = assignment
        self.tracks = [
            old[i % len(old)].switched(token, new[i % len(new)])
            for i in range(max(len(old), len(new)))
        ]


class Following:
    """What a steerer does when the clock ticks (see `clock.Follower`).

    Args:
        signal: What the hooks read.
        assignment: What to follow at first.
        private: Take part only in generations of its own.
    """

    def __init__(self, signal: Signal, assignment: Assignment, private: bool) -> None:
        self.private = private
        self.last: Run | None = None
        self.generations = 0
        self._signal = signal
        self._assignment = assignment
        self._planner = Planner()
        self._runs: dict[Session, Run] = {}
        self._direct_prompt: int | None = None

    @property
    def assignment(self) -> Assignment:
        """What is followed; setting it takes effect at the next token, in every thread."""
        return self._assignment

    @assignment.setter
    def assignment(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._direct_prompt = None
        row = assignment.constant_row
        self._signal.default = 0 if self.private else row
        if row is not None:
            self._signal.show_row(row)

    @property
    def running(self) -> Run | None:
        """The generation that runs, the newest if there are several."""
        return next(reversed(self._runs.values()), None)

    def begin(self, session: Session) -> None:
        """Start following a generation."""
        assignment = self._assignment
        assignment.check(session.batch)
        self._runs[session] = self.last = Run(assignment, assignment.tracks)

    def place(self, session: Session, first: int, batch: int, length: int, ids: Tensor) -> None:
        """Plan one forward pass of a generation."""
        run = self._runs[session]
        assignment = self._assignment
        if assignment is not run.assignment:
            assignment.check(session.batch)
            run.switch(assignment, session.token)
        prompt = session.prompt or 0
        run.tokens = session.token + 1
        if any(track.needs_tokens for track in run.tracks):
            run.ids = ids[:, prompt:].tolist()
        plan = self._planner.plan(run.tracks, first, batch, length, ids, prompt)
        session.wanted[id(self)] = session.wanted.get(id(self), 0) + plan.steered
        self._signal.local.plan = plan
        self._signal.show(plan)

    def place_direct(self, start: int, batch: int, length: int, ids: Tensor | None) -> None:
        """Plan a direct call of the model."""
        assignment = self._assignment
        if assignment.constant_row is not None:
            plan = self._planner.plan(assignment.tracks, 0, batch, length, None, 0)
        else:
            assignment.check(batch)
            prompt = assignment.prompt_length
            if prompt is None:
                # A sequence that starts here is a prompt; what follows on its cache is output.
                prompt = length if start == 0 else self._direct_prompt
            if prompt is None:
                raise ScheduleError(
                    "A schedule counts generated tokens, but this call continues a cache that was "
                    "filled before, so where the prompt ended is unknown. Pass prompt_length=… to "
                    "to(), or use model.generate()."
                )
            self._direct_prompt = prompt
            whole = ids if start == 0 else None
            first = start - prompt + 1
            plan = self._planner.plan(assignment.tracks, first, batch, length, whole, prompt)
        self._signal.local.plan = plan
        self._signal.show(plan)

    def passed(self, session: Session | None) -> None:
        """Check that a forward pass was steered as planned."""
        plan = self._signal.local.plan
        self._signal.local.plan = None
        if plan is None:
            return
        if plan.steered and not plan.hits and not self._signal.traced:
            raise _untouched()
        if session is not None:
            session.hits[id(self)] = session.hits.get(id(self), 0) + plan.hits

    def finish(self, session: Session, failed: bool) -> None:
        """Stop following a generation."""
        self._runs.pop(session, None)
        self._signal.local.plan = None
        self.generations += 1
        if self._signal.default is not None:
            self._signal.show_row(self._signal.default)
        wanted, hits = session.wanted.get(id(self), 0), session.hits.get(id(self), 0)
        if not failed and wanted and not hits and not self._signal.traced:
            raise _untouched()

    def packed(self) -> None:
        """Refuse what needs a batch dimension when there is none."""
        if self._assignment.constant_row is None:
            raise ScheduleError(
                "Continuous batching packs all requests into one row, so labels per row and "
                "schedules cannot be followed there. Use one label, or model.generate()."
            )


def flatten(track: Track) -> Schedule:
    """Return one schedule for a track whose schedule was replaced on the way."""
    history = track.history
    if len(history) == 1:
        return history[0][1]
    points: list[Point] = []
    for i, (start, schedule) in enumerate(history):
        end = history[i + 1][0] if i + 1 < len(history) else None
        label, strength = schedule.at(start)
        points.append(Point(start, label, strength))
        for point in schedule.points:
            at = point.at
            if isinstance(at, int) and at > start and (end is None or at < end):
                points.append(point)
    return Schedule(*points, prompt=history[0][1].prompt)


def _untouched() -> HookError:
    return HookError(
        "The model ran unsteered although a label was set: no steering hook was called. It was "
        "compiled before attach(), or its kernels bypass the layers. Attach before torch.compile, "
        "and load the model without kernel replacement."
    )
