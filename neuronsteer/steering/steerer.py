"""A model with neuron sets attached: `attach`, `to`, and the report of what was steered."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from types import TracebackType
from typing import Any

from ..errors import HookError, ParameterError
from ..models import inspect
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import FEATURE_SITES
from ..operations import Operation, operation
from .attachment import Anchor, steered_site
from .compile import Compiler, State
from .following import Assignment, Following, Run, flatten
from .generation import Clock
from .label_sums import Arithmetic
from .schedule import Schedule
from .targets import PREVIOUS, Target, leaving, scheduled
from .timeline import Track, Triggers

OperationLike = str | Operation | Mapping[str, Any]
SetLike = NeuronSet | str | PathLike[str]

#: Rows beyond the labels' own that fit in the tables before they have to grow.
_SPARE_ROWS = 8
_REMEMBERED = 256


class Steerer:
    """A model whose output language can be switched; made by `attach()`.

    The model stays an ordinary transformers model: call `model.generate`, a pipeline, a streamer.
    Use it as a context manager, or call `detach()`. Until `to()` is called nothing is changed.

    Attributes:
        sets: The attached neuron sets.
        private: Whether only this steerer's own `generate()` is steered.
    """

    def __init__(
        self,
        model: Any,
        sets: Sequence[NeuronSet],
        *,
        tokenizer: Any = None,
        capacity: int | None = None,
        probe: bool = True,
        private: bool = False,
    ) -> None:
        anatomy = inspect(model)
        if anatomy.compiled:
            raise HookError(
                "The model is compiled already, and compiled code ignores hooks added afterwards. "
                "Attach first, then compile: steer = attach(model, …), torch.compile(model)."
            )
        for neurons in sets:
            widths = [tap.width for tap in anatomy.hook_points(steered_site(neurons.site))]
            if neurons.site in FEATURE_SITES:
                widths = list(neurons.width_per_layer)  # of the codec, which the model knows not
            neurons.check_model(anatomy.model_type, anatomy.num_layers, widths)
        self.sets = tuple(sets)
        self.private = private
        self._root: Any = anatomy.root
        spare = _SPARE_ROWS + sum(len(each.labels) for each in sets)
        self._anchor = Anchor(anatomy, sets, 1 + (spare if capacity is None else capacity))
        self._signal = self._anchor.signal
        self._compiler = Compiler(sets, anatomy.gated, self._anchor.widths)
        self._triggers = Triggers(tokenizer) if tokenizer is not None else None
        self._rows: dict[State, int] = {}
        self._row_labels: list[str | None] = [None]
        self._assigned: dict[Any, Assignment] = {}
        self._defining = threading.Lock()
        unset = Track(Schedule(None), lambda _label, _strength: 0, None)
        self._following = Following(self._signal, Assignment([unset]), private)
        for label in self._compiler.labels:
            if any(each.counts.get(label) for each in sets):
                self._row(State(label))
        self._clock = Clock.of(anatomy.root)
        self._anchor.install()
        try:
            if probe:
                self._anchor.probe()
            self._clock.join(self._following)
        except BaseException:
            self._anchor.remove()
            raise
        self.attached = True

    @classmethod
    def from_pretrained(cls, model: Any, repo_or_path: str, **hub_kwargs: Any) -> Steerer:
        """Load a neuron set from the Hub or a folder and attach it to `model`."""
        return attach(model, NeuronSet.from_pretrained(repo_or_path, **hub_kwargs))

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of all attached sets."""
        return self._compiler.labels

    def to(
        self,
        target: Target | Sequence[Target],
        operation: OperationLike | None = None,
        strength: float = 1.0,
        away_from: str | Sequence[str] | None = None,
        *,
        away: OperationLike | None = None,
        prompt: bool | None = None,
        prompt_length: int | None = None,
    ) -> Steerer:
        """Choose what the model speaks; returns the steerer.

        During a generation, also from another thread, it takes effect at the next token.

        Args:
            target: A label, `None` (unsteered), a `Schedule`, or a list of these with one entry
                per row of the batch. A string with switch points (`"en,24:fr"`) is a schedule, one
                with operators (`"fr - en"`) a sum of labels, see `arith`.
            operation: What to do with the neurons; default: what the set's header says.
            strength: How much of it, see `Operation.blended`.
            away_from: Labels whose neurons are deactivated first. Neurons that source and target
                share end as the target wants them. "previous": at each switch, live ones included,
                the label before, see `Schedule.leaving`.
            away: The operation that deactivates them, and what a sum takes away. Default: zero;
                directions (rows at `resid`) are subtracted, what is pulled is pulled back.
            prompt: Whether the prompt is steered too. Default: yes for one label, no otherwise.
            prompt_length: For direct `model(...)` calls on a whole sequence: how many of its tokens
                are prompt.

        Raises:
            LabelError: If a label is unknown or has no neurons.
        """
        if not self.attached:
            raise HookError("This steerer is detached; attach the neuron set again.")
        key = None
        if away_from in (PREVIOUS, (PREVIOUS,), [PREVIOUS]) and PREVIOUS not in self.labels:
            target, away_from = leaving(target, self.labels, self._in_force()), None
        elif target is None or isinstance(target, str):
            # Switching back and forth is the common case, and happens between two tokens.
            key = (target, operation, strength, away_from, away, prompt, prompt_length)
            key = key if not any(isinstance(part, (Mapping, list)) for part in key) else None
            if key in self._assigned:
                self._following.assignment = self._assigned[key]
                return self
        chosen = None if operation is None else _operation(operation)
        sources = (away_from,) if isinstance(away_from, str) else tuple(away_from or ())
        per_row = not (target is None or isinstance(target, (str, Schedule, Arithmetic)))
        targets: list[Target] = list(target) if per_row else [target]  # type: ignore[arg-type]
        if not targets:
            raise ParameterError("to([]) names no label; pass one per row of the batch.")

        def state(label: str | None, weight: float, alone: bool) -> State:
            if label is None and not (alone and sources):
                return State(None)
            total = None if label is None else self._compiler.sum_of(label)
            wanted = (label,) if total is None else [name for _, name in total.on]
            away_sources = tuple(source for source in sources if source not in wanted)
            by = None if away is None else _operation(away)
            if not away_sources and (total is None or not total.off):
                by = None  # one state, whatever would have deactivated
            return State(label, weight * strength, chosen, away_sources, by)

        tracks: list[Track] = []
        for each in targets:
            schedule = scheduled(each, self.labels, prompt)
            alone = schedule.is_constant
            tracks.append(
                Track(
                    schedule,
                    lambda label, weight, alone=alone: self._row(state(label, weight, alone)),
                    self._triggers,
                )
            )
        assignment = Assignment(tracks, per_row, prompt_length)
        if key is not None and len(self._assigned) < _REMEMBERED:
            self._assigned[key] = assignment
        self._following.assignment = assignment
        return self

    def off(self) -> Steerer:
        """Stop steering; the model behaves as if nothing were attached."""
        return self.to(None)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Call `model.generate` so that only this steerer acts in it, whoever else is attached."""
        return self._clock.alone(self._following, lambda: self._root.generate(*args, **kwargs))

    def detach(self) -> None:
        """Take every hook and wrapper away; calling it twice is fine."""
        if self.attached:
            self.attached = False
            self._clock.leave(self._following)
            self._anchor.remove()

    def __enter__(self) -> Steerer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        state = "attached" if self.attached else "detached"
        layers = len({cell.tap.layer for cell in self._anchor.cells})
        return (
            f"<Steerer {state} to {type(self._root).__name__}: labels {', '.join(self.labels)}; "
            f"{layers} layers; now {self.schedule}>"
        )

    @property
    def schedule(self) -> Schedule | list[Schedule]:
        """What `to()` asked for last; a list if it was one per row."""
        assignment = self._following.assignment
        found = [track.history[0][1] for track in assignment.tracks]
        return found if assignment.per_row else found[0]

    @property
    def timeline(self) -> Schedule | list[Schedule]:
        """What was in force in the last generation, with the switches made while it ran."""
        run = self._run_now()
        found = [flatten(track) for track in run.tracks]
        return found if len(found) > 1 else found[0]

    def spans(self, row: int = 0) -> list[tuple[int, int, str | None]]:
        """Return `(start, end, label)` runs over the generated tokens of the last generation.

        Args:
            row: Row of the batch.
        """
        run = self._run_now()
        track = run.tracks[row if len(run.tracks) > 1 else 0]
        tokens = run.ids[row] if run.ids else []
        spans: list[tuple[int, int, str | None]] = []
        for start, end, table_row in track.runs(0, run.tokens, tokens):
            label = self._row_labels[table_row]
            if spans and spans[-1][2] == label:  # the steps of a ramp
                spans[-1] = (spans[-1][0], end, label)
            else:
                spans.append((start, end, label))
        return spans

    def _in_force(self) -> list[str | None]:
        run = self._following.running
        spans = [self.spans(row) for row in range(len(run.tracks))] if run is not None else []
        return [found[-1][2] if found else None for found in spans]

    def report(self) -> dict[str, Any]:
        """Return, per layer, how often and at how many positions the model was steered."""
        return {
            "generations": self._following.generations,
            "compiled": self._signal.traced,
            "layers": [
                {
                    "layer": cell.tap.layer,
                    "site": cell.tap.site,
                    "module": cell.tap.name,
                    "calls": cell.calls,
                    "positions": cell.positions,
                }
                for cell in self._anchor.cells
            ],
        }

    def _row(self, state: State) -> int:
        if state.idle:
            return 0
        row = self._rows.get(state)
        if row is None:
            with self._defining:
                compiled = self._compiler.compile(state)
                row = len(self._row_labels)
                self._anchor.define(row, compiled)
                self._row_labels.append(state.label)
                self._rows[state] = row
        return row

    def _run_now(self) -> Run:
        run = self._following.last
        if run is None:
            raise ParameterError("Nothing was generated with this steerer yet.")
        return run


def attach(
    model: Any,
    neurons: SetLike | Sequence[SetLike],
    *,
    tokenizer: Any = None,
    capacity: int | None = None,
    probe: bool = True,
    private: bool = False,
) -> Steerer:
    """Attach neuron sets to a model and return the `Steerer`; nothing is steered until `to()`.

    Args:
        model: A causal LM of transformers, bare or PEFT-wrapped, not compiled yet.
        neurons: A neuron set, a Hub id or folder, or several; later ones are applied last.
        tokenizer: Needed for schedules that wait for text.
        capacity: How many different steering states fit before the tables move, which compiled
            graphs notice with a recompilation. Default: one per label and a few more.
        probe: Run one token to make sure every hook fires.
        private: Take part only in this steerer's own `generate()`, so that several users of one
            model do not steer each other.

    Example:
        >>> with attach(model, "user/model-language-neurons") as steer:  # doctest: +SKIP
        ...     steer.to("fr")
        ...     model.generate(**inputs)
    """
    several = (
        neurons if isinstance(neurons, Sequence) and not isinstance(neurons, str) else [neurons]
    )
    sets = [
        each if isinstance(each, NeuronSet) else NeuronSet.from_pretrained(fspath(each))
        for each in several
    ]
    if not sets:
        raise ParameterError("attach() got no neuron set.")
    return Steerer(
        model, sets, tokenizer=tokenizer, capacity=capacity, probe=probe, private=private
    )


def _operation(spec: OperationLike) -> Operation:
    return operation(spec)
