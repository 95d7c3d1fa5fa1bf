"""A model with neuron sets attached: `attach`, `to`, and the report of what was steered."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from types import TracebackType
from typing import Any, cast
from weakref import WeakValueDictionary

from torch import Tensor

from ..errors import HookError, ParameterError, ScheduleError
from ..models import inspect
from ..neuron_set import NeuronSet
from ..neuron_set.row_values import names_of
from ..neuron_set.value_columns import FEATURE_SITES, PROMPT
from ..operations import Operation, operation
from .attachment import Attachment
from .compile import Compiler, State, steered_site
from .generation import GenerationTracker
from .keeping.language_sensor import HOLD, LanguageSensor, PullBack
from .keeping.running_text import ALL, ANSWER, THOUGHT_MARKS
from .label_sums import Arithmetic
from .prompt_reader import PromptReader
from .runs import Assignment, Run, SteererState
from .schedule import Schedule
from .schedule_text import is_arithmetic, terms
from .tables import Row, ValueTooLargeError
from .timeline import RowTimeline, TextConditions

Target = str | Schedule | Arithmetic | None
OperationLike = str | Operation | Mapping[str, Any]
SetLike = NeuronSet | str | PathLike[str]

#: Rows beyond the labels' own that fit in the tables before they have to grow.
_SPARE_ROWS = 8
#: How many calls of `to()` are remembered whole, because switching back and forth is common.
_REMEMBERED = 32

#: Instead of labels in `away_from`: whatever label was in force before.
PREVIOUS = "previous"


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
        if anatomy.root.get_output_embeddings() is None or not anatomy.root.can_generate():
            raise HookError(
                f"{type(anatomy.root).__name__} has no language-model head, so it generates "
                "nothing that could be steered. Load it with AutoModelForCausalLM, and attach to "
                "that."
            )
        for neurons in sets:
            widths = [point.width for point in anatomy.hook_points(steered_site(neurons.site))]
            if neurons.site in FEATURE_SITES:
                widths = list(neurons.width_per_layer)  # the codec's, of which the model has none
            neurons.check_model(anatomy.model_type, anatomy.num_layers, widths)
        self.sets = tuple(sets)
        self.private = private
        self._root: Any = anatomy.root
        spare = _SPARE_ROWS + sum(len(each.labels) for each in sets)
        self._attachment = Attachment(anatomy, sets, 1 + (spare if capacity is None else capacity))
        self._compiler = Compiler(sets, anatomy.gated, self._attachment.widths)
        self._conditions = TextConditions(tokenizer) if tokenizer is not None else None
        # Rows that nobody uses any more are given back; those of the labels are kept.
        self._rows: WeakValueDictionary[State, Row] = WeakValueDictionary()
        self._assigned: OrderedDict[Any, Assignment] = OrderedDict()
        self._defining = threading.Lock()
        off = RowTimeline(Schedule(None), lambda _label, _strength, _left: None, None)
        self._state = SteererState(self._attachment.current, Assignment([off]), private)
        self._tracker: GenerationTracker | None = None
        try:
            self._attachment.install()
            self._tracker = GenerationTracker.join(anatomy.root, self._state)
            if probe:
                self._tracker.probe(self._state, self._attachment.probe)
            self._state.reader = self._prompt_reader()
            self._kept = self._rows_of_labels()
        except BaseException:
            self._let_go()
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
        source: str | Sequence[str] | None = None,
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
            strength: How much of it, see `Operation.blended`; 1 is what the set was tuned to, if it
                was.
            away_from: Labels to take away first. Operations that add a difference of means take it
                from them (as `source` does); of other sets their neurons are deactivated, and
                neurons that source and target share end as the target wants them. "previous": at
                each switch, live ones included, the label before.
            away: The operation that deactivates them, and what a sum takes away. Default: zero;
                directions (rows at `resid`) are subtracted, what is pulled is pulled back.
            source: What is left: the label, or labels, whose mean a difference of means is taken
                from; "others" for all other labels. "prompt" (the default of sets that carry the
                means of all labels): what the prompt is written in, which the set itself tells;
                text that is in the target's language already is left alone. After a switch it is
                the label before. Sums of labels say themselves what they take away.
            prompt: Whether the prompt is steered too. Default: yes for one label, no otherwise.
            prompt_length: For direct `model(...)` calls on a whole sequence: how many of its tokens
                are prompt.

        Raises:
            LabelError: If a label is unknown or has no neurons.
        """
        tracker = self._tracker
        if tracker is None:
            raise _detached()
        # Switching back and forth is the common case, and happens between two tokens.
        key = (target, operation, strength, away_from, away, source, prompt, prompt_length)
        try:
            known = self._assigned.get(key)
        except TypeError:  # lists and mappings are not kept
            known = key = None
        if known is not None:
            tracker.assign(self._state, known)
            return self
        if target is not None and not isinstance(target, str):
            key = None
        sources = () if away_from is None else names_of(away_from)
        if sources == (PREVIOUS,) and PREVIOUS not in self.labels:
            sources, chosen = (), None if operation is None else _operation(operation)
            if not self._compiler.relative(chosen):  # the others leave the label before anyway
                key, target = None, self._away_from_previous(target)
        assignment = self._assignment(
            target, operation, strength, sources, away, source, prompt, prompt_length
        )
        tracker.assign(self._state, assignment)
        if key is not None and strength == 1:  # every step of a slider would be remembered
            with self._defining:
                self._assigned[key] = assignment
                if len(self._assigned) > _REMEMBERED:
                    self._assigned.popitem(last=False)
        return self

    def keep(
        self,
        target: Target | Sequence[Target],
        operation: OperationLike | None = None,
        strength: float = 1.0,
        *,
        source: str | Sequence[str] | None = None,
        where: str = ANSWER,
        hold: int = HOLD,
        marks: tuple[str, str] = THOUGHT_MARKS,
    ) -> Steerer:
        """Steer only where a text leaves its language; returns the steerer.

        The set's neurons tell at every token which language the text is in. While it is the right
        one nothing is changed; where another one begins, the text is steered back for a few tokens.
        At a schedule's switches it is steered at once. `pulled_back()` tells where that was.

        Args:
            target: A label, a `Schedule`, or a list of these with one entry per row of the batch.
            operation: What pulls back; default: what the set's header says.
            strength: How strongly.
            source: What is left; default: the language that the text was found in.
            where: For reasoning models: "answer" leaves thoughts alone, "all" does not.
            hold: For how many tokens a text is steered.
            marks: What begins and what ends a thought.
        """
        tracker, reader = self._tracker, self._state.reader
        if tracker is None:
            raise _detached()
        if reader is None:
            raise _no_means("keep() reads what a text is written in off the neurons")
        if self._conditions is None:
            raise ParameterError(
                "keep() tells words from code and addresses, which needs the tokenizer: pass "
                "tokenizer=… to attach()."
            )
        if where not in (ANSWER, ALL):
            raise ParameterError(f"where={where!r}; it is 'answer' or 'all'.")
        sensor = LanguageSensor(
            reader, self._conditions.tokenizer, thinking=where == ALL, marks=marks, hold=hold
        )
        made = self._assignment(target, operation, strength, (), None, source, None, None)
        for timeline in made.timelines:
            sensor.check(timeline.history[0][1].labels)
        kept = Assignment(made.timelines, made.per_row, None, made.leaving, sensor)
        tracker.assign(self._state, kept)
        return self

    @property
    def rows(self) -> int:
        """How many rows the last generation's batch had."""
        return self._last_run().generation.batch or 1

    def pulled_back(self, row: int = 0) -> list[PullBack]:
        """Return where `keep()` steered the last generation back to its language.

        Args:
            row: Row of the batch as it was given; of several returned sequences, the first.
        """
        return self._last_run().pulled_back(row)

    def _assignment(
        self,
        target: Target | Sequence[Target],
        operation: OperationLike | None,
        strength: float,
        sources: tuple[str, ...],
        away: OperationLike | None,
        source: str | Sequence[str] | None,
        prompt: bool | None,
        prompt_length: int | None,
    ) -> Assignment:
        try:
            finite = math.isfinite(strength)
        except TypeError:
            finite = False
        if not finite:
            raise ParameterError(f"The strength is {strength!r}; it must be a finite number.")
        chosen = None if operation is None else _operation(operation)
        left = self._left(chosen, source, sources if away is None else ())
        per_row = not (target is None or isinstance(target, (str, Schedule, Arithmetic)))
        if per_row and not isinstance(target, Sequence):
            raise _not_a_target(target)
        targets: list[Target] = list(target) if per_row else [target]  # type: ignore[arg-type]
        if not targets:
            raise ParameterError("to([]) names no label; pass one per row of the batch.")

        def state(label: str | None, weight: float, alone: bool, leaving: tuple[str, ...]) -> State:
            if label is None and not (alone and sources):
                return State(None)
            total = None if label is None else self._compiler.sum_of(label)
            wanted = (label,) if total is None else [name for _, name in total.on]
            away_sources = tuple(source for source in sources if source not in wanted)
            by = None if away is None else _operation(away)
            if not away_sources and (total is None or not total.off):
                by = None  # one state, whatever would have deactivated
            leaving = leaving if label is not None and total is None else ()
            stated = label is not None and weight != 1
            return State(label, weight * strength, chosen, away_sources, by, leaving, stated)

        reads = left == (PROMPT,)

        def timeline(schedule: Schedule, leaving: tuple[str, ...], known: bool) -> RowTimeline:
            alone = schedule.is_constant

            def row_of(label: str | None, weight: float, before: tuple[str, ...]) -> Row | None:
                if not known and label is not None:
                    self._compiler.check(label)
                if not known:
                    return None
                if not left or (before == (label,) and not reads):
                    before = ()  # of a source, too, something can be left: all others
                return self._row(state(label, weight, alone, before))

            return RowTimeline(schedule, row_of, self._conditions, leaving)

        schedules = [_scheduled(each, self.labels, prompt) for each in targets]
        # Sums and nothing at all leave what they say.
        reads = reads and any(
            self._compiler.sum_of(label) is None
            for schedule in schedules
            for label in schedule.labels
        )
        timelines = [timeline(each, () if reads else left, not reads) for each in schedules]

        def leaving(row: int, language: str | None) -> RowTimeline:
            return timeline(schedules[row], () if language is None else (language,), True)

        return Assignment(timelines, per_row, prompt_length, leaving if reads else None)

    def _left(
        self, chosen: Operation | None, source: str | Sequence[str] | None, away: tuple[str, ...]
    ) -> tuple[str, ...]:
        left = self._compiler.usually_left
        if not (chosen is None and source is None and not away):
            left = self._compiler.left(chosen, names_of(source), away)
        if left != (PROMPT,) or self._state.reader is not None:
            return left
        if source is not None:
            raise ParameterError(
                "What the prompt is written in cannot be read here: the attached sets have rows "
                "only in experts or features. Say what is left: source='en'."
            )
        return ()

    def likeness(self, ids: Tensor) -> tuple[tuple[str, ...], Tensor]:
        """Return labels, and how much the neurons look like each one's at every token.

        Args:
            ids: Tokens `[rows, tokens]`, without padding.

        Returns:
            The labels, and cosines `[rows, tokens, labels]`.
        """
        tracker, reader = self._tracker, self._state.reader
        if tracker is None:
            raise _detached()
        if reader is None:
            raise _no_means("What a text is written in cannot be read")
        reading = reader.watch(ids.shape[0], ids.shape[1], ids.shape[1])
        tracker.run_unsteered(self._state, {"input_ids": ids.to(self._root.device)}, reading)
        found = reader.likeness(reading)
        if found is None:
            raise HookError("Compiled layers do not show what neurons do. Attach before compiling.")
        return reader.labels, found

    def off(self) -> Steerer:
        """Stop steering; the model behaves as if nothing were attached."""
        return self.to(None)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Call `model.generate` so that only this steerer acts in it, whoever else is attached."""
        tracker = self._tracker
        if tracker is None:
            raise _detached()
        return tracker.run_exclusively(self._state, lambda: self._root.generate(*args, **kwargs))

    def detach(self) -> None:
        """Take every hook and wrapper away; calling it twice is fine."""
        if self.attached:
            self.attached = False
            self._let_go()

    def _let_go(self) -> None:
        with self._defining:
            tracker, self._tracker = self._tracker, None
            if tracker is not None:
                tracker.leave(self._state)
            self._attachment.remove()
            self._kept = []
            self._assigned.clear()
            self._root = None

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
        where = f"attached to {type(self._root).__name__}" if self.attached else "detached"
        layers = len({each["layer"] for each in self._attachment.report()})
        return (
            f"<Steerer {where}: labels {', '.join(self.labels)}; {layers} layers; "
            f"now {self.schedule}>"
        )

    @property
    def schedule(self) -> Schedule | list[Schedule]:
        """What `to()` asked for last; a list if it was one per row."""
        assignment = self._state.assignment
        found = [timeline.history[0][1] for timeline in assignment.timelines]
        return found if assignment.per_row else found[0]

    @property
    def timeline(self) -> Schedule | list[Schedule]:
        """What was in force in the last generation, with the switches made while it ran."""
        run = self._last_run()
        texts = [run.text(row) for row in range(len(run.timelines))]
        found = [timeline.flattened(run.tokens, text) for timeline, text in texts]
        return found if len(found) > 1 else found[0]

    def spans(self, row: int = 0) -> list[tuple[int, int, str | None]]:
        """Return `(start, end, label)` runs over the generated tokens of the last generation.

        Args:
            row: Row of the batch as it was given; of several returned sequences, the first.
        """
        return _spans(self._last_run(), row)

    def _away_from_previous(self, target: Target | Sequence[Target]) -> Target | list[Target]:
        """Return what takes away, at each switch of `target`, the label before it."""
        run = self._state.newest()
        spans = [_spans(run, row) for row in range(len(run.timelines))] if run is not None else []
        now = [found[-1][2] if found else None for found in spans]
        alone = target is None or isinstance(target, (str, Schedule, Arithmetic))
        each: list[Target] = [target] if alone else list(target)  # type: ignore[arg-type]
        made: list[Target] = [
            _scheduled(one, self.labels, None).subtract_previous(
                now[row % len(now)] if now else None
            )
            for row, one in enumerate(each)
        ]
        return made[0] if alone else made

    def report(self) -> dict[str, Any]:
        """Return, per layer, how often and at how many positions the model was steered."""
        return {
            "generations": self._state.generations,
            "compiled": self._state.current.traced,
            "layers": self._attachment.report(),
        }

    def _row(self, state: State) -> Row | None:
        if state.idle:
            if state.label is not None:
                self._compiler.check(state.label)
            return None
        row = self._rows.get(state)
        if row is None:
            with self._defining:
                row = self._rows.get(state)
                if row is None:
                    if self._tracker is None:
                        raise _detached()
                    row = self._attachment.define(
                        state.label,
                        self._compiler.compile(state),
                        self._compiler.beginning(state),
                    )
                    self._rows[state] = row
        return row

    def _prompt_reader(self) -> PromptReader | None:
        """Return what tells the language of prompts; `None` if no set can."""
        told = [each for each in self.sets if len(each.means_of) > 1]
        readers = (PromptReader(each, self._attachment) for each in told)
        return next((reader for reader in readers if reader), None)

    def _rows_of_labels(self) -> list[Row | None]:
        """Return the rows that are kept, so that switching to a label finds it ready."""
        left = self._left(None, None, ())
        found: list[Row | None] = []
        for label in self._compiler.labels if left != (PROMPT,) else ():
            if any(each.counts.get(label) for each in self.sets):
                try:
                    found.append(self._row(State(label, left=left if left != (label,) else ())))
                except ValueTooLargeError:
                    continue  # to() says so, if somebody wants this label at full strength
        return found

    def _last_run(self) -> Run:
        run = self._state.last
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


def _spans(run: Run, row: int) -> list[tuple[int, int, str | None]]:
    timeline, text = run.text(row)
    found: list[tuple[int, int, str | None]] = []
    if run.kept is not None:
        for each in run.pulled_back(row):
            at = found[-1][1] if found else 0
            found += [(at, each.token, None)] if each.token > at else []
            found.append((each.token, each.token + each.tokens, each.language))
        at = found[-1][1] if found else 0
        return [*found, (at, run.tokens, None)] if at < run.tokens else found
    for start, end, table_row, _ in timeline.spans(0, run.tokens, text):
        label = None if table_row is None else table_row.label
        if found and found[-1][2] == label:  # the steps of a ramp
            found[-1] = (found[-1][0], end, label)
        else:
            found.append((start, end, label))
    return found


def _scheduled(target: Target, labels: Sequence[str], prompt: bool | None) -> Schedule:
    """Return the schedule of a label, of a string in schedule notation, or of a schedule."""
    if isinstance(target, Schedule):
        found = target
    elif isinstance(cast(object, target), (str, Arithmetic, type(None))):
        name = None if target is None else str(target)
        alone = name is None or name in labels or _is_label(name, labels)
        found = Schedule(name) if alone or name is None else Schedule.parse(name)
    else:
        raise _not_a_target(target)
    if prompt is None:
        return found
    return Schedule(*found.points, repeat=found.repeat, prompt=prompt)


def _detached() -> HookError:
    return HookError("This steerer is detached; attach the neuron set again.")


def _no_means(what: str) -> ParameterError:
    return ParameterError(
        f"{what}, but the attached sets do not carry the means of several labels (or have rows "
        "only in experts or features). Detect the set again, with a method that keeps them."
    )


def _not_a_target(target: object) -> ParameterError:
    return ParameterError(
        f"Cannot steer to {target!r}: expected a label, a schedule, None, or a list of these with "
        "one entry per row of the batch."
    )


def _is_label(text: str, labels: Sequence[str]) -> bool:
    """Return whether `text` can only be a label or a sum of labels, not a schedule."""
    if not any(mark in text for mark in ",:@*"):
        return True
    try:  # labels may contain these marks, too
        return is_arithmetic(text) and all(label in labels for _, label in terms(text))
    except ScheduleError:
        return False
