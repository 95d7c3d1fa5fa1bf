"""The neuron sets that an engine serves, and what the text of a request means with them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import LabelError, ParameterError, did_you_mean, unknown_label
from ...neuron_set.row_values import PROMPT, choose_left
from ...steering.schedule import Schedule
from ...steering.tables import Beginning
from .compiled_labels import ServedSet, load_set, read_key, row_key
from .request_schedule import IDENTITY, RequestSchedule
from .settings import KEY, SOURCE, ServeSettings, SetSource, read_left

#: Seconds before the rows of a removed set may be used again: longer than any request needs to get
#: from admission to the list of running ones.
GRACE = 5.0

#: Of every engine in this process, for checks that do not know which engine they belong to.
ALL_SERVED_SETS: weakref.WeakSet[ServedSets] = weakref.WeakSet()


@dataclass(frozen=True)
class ModelShape:
    """What a set must fit; `None` is unknown here, and is checked by the workers."""

    model_type: str | None = None
    num_layers: int | None = None
    width: int | None = None


class ServedSets:
    """The sets of one engine, by name.

    Args:
        settings: What the engine was started with.
        shape: The model; by default unknown.
        processes: How many processes admit requests for the same tables.
    """

    def __init__(
        self, settings: ServeSettings, shape: ModelShape | None = None, processes: int = 1
    ) -> None:
        self.capacity = settings.capacity
        self.default: Schedule | None = None
        self.source = settings.source
        self._shape = shape or ModelShape()
        #: How many rows the unfinished requests of this process may need.
        self._room = settings.capacity // max(processes, 1)
        #: Whether there may be more rows than the tables hold: one per label and what it leaves.
        self._pairs = False
        self._sets: dict[str, ServedSet] = {}
        #: Rows of removed sets → when they were removed.
        self._removed: dict[str, float] = {}
        for source in settings.sets:
            self.add(self.prepare(source))
        self._check_source()
        if settings.default is not None:
            try:
                self.default = self.schedule(settings.default)
                self._request(self.default, 1)
            except (ValueError, LabelError) as error:
                raise ParameterError(f"The server's default cannot be used: {error}") from error
        ALL_SERVED_SETS.add(self)

    # --- requests -------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that can be asked for."""
        found = (label for served in self._sets.values() for label in served.labels)
        return tuple(dict.fromkeys(found))

    def resolve(
        self, wanted: Any, prompt_tokens: int, source: Any = None
    ) -> RequestSchedule | None:
        """Return the schedule of a request, or `None` if it is not steered.

        Args:
            wanted: What the request asks for, `None` if it says nothing.
            prompt_tokens: Length of its prompt.
            source: The label, or labels, that it says are left.

        Raises:
            NeuronSteerError: If it cannot be served; the message says why.
        """
        left = read_left(source, SOURCE)
        if wanted is None:
            schedule = self.default
            if schedule is None and left:
                raise ParameterError(
                    f"{SOURCE!r} is {source!r}, but nothing says what to steer to, and this server "
                    f"has no default. Pass {KEY!r} as well, e.g. 'fr'."
                )
            if schedule is None:
                return None
        elif isinstance(wanted, str):
            schedule = self.schedule(wanted)
        else:
            raise ParameterError(
                f"{KEY!r} is {wanted!r}; expected a schedule as text, e.g. 'fr' or 'en,24:fr'."
            )
        return self._request(schedule, prompt_tokens, left)

    def schedule(self, text: str) -> Schedule:
        """Return the schedule written as `text`: one label, or labels with switch points."""
        return Schedule(text) if text in self.labels else Schedule.parse(text)

    def check_room(self, keys: Iterable[str], running: Iterable[Iterable[str]]) -> None:
        """Raise unless the tables have room for the rows of one more request.

        Args:
            keys: The rows it needs.
            running: The rows that each unfinished request needs.
        """
        if not self._pairs:  # a set was only added if all its labels fit
            return
        if not {read_key(key)[0] for key in keys} <= set(self.set_keys()):  # another engine's
            return
        taken = set[str]().union(*running)
        new = set(keys) - taken
        if new and len(taken) + len(new) > self._room:
            raise ParameterError(
                f"The server's tables hold {self._room} rows for requests; unfinished ones need "
                f"{len(taken)} of them, this one {len(new)} more: every pair of a label and what "
                "it leaves takes one. Try again in a moment, or start the server with a larger "
                "'capacity'."
            )

    def _request(
        self, schedule: Schedule, prompt_tokens: int, source: tuple[str, ...] = ()
    ) -> RequestSchedule | None:
        met: list[ServedSet] = []

        def row_of(
            label: str, strength: float, before: tuple[str, ...]
        ) -> tuple[str, float, Beginning | None]:
            served, name = self._find(label)
            if name not in served.labels:
                raise LabelError(
                    f"The label {name!r} has no neurons in the set {served.source.name!r}, so "
                    "steering to it would change nothing. Labels with neurons: "
                    f"{', '.join(served.labels)}."
                )
            met.append(served)
            weight = served.strength(name, strength)
            left = self._left(served, name, source, before)
            if not weight:
                return IDENTITY, 1.0, None
            return row_key(served.key, name, left), weight, served.beginning(name, strength)

        found = RequestSchedule.of(schedule, row_of, prompt_tokens)
        if met and not any(served.relative for served in met):
            _choose(met, source)  # where a source makes no difference, this says so
        return found

    def _left(
        self, served: ServedSet, label: str, source: tuple[str, ...], before: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return what `label` leaves, as `Steerer.to` does it, except that no prompt is read."""
        if not served.relative:
            return ()
        left = _choose([served], source or self.source)
        if left and before:
            left = _choose([served], tuple(self._find(name)[1] for name in before))
        if left == (PROMPT,):
            raise _unreadable(f"Steering to {label!r}", served.neurons.means_of)
        return () if left == (label,) else left

    def _check_source(self) -> None:
        """Raise if the server's source can be that of no set."""
        sets = sorted(self._sets.values(), key=lambda served: not served.relative)
        if PROMPT in self.source:
            raise _unreadable("The server's source", sets[0].neurons.means_of if sets else ())
        errors: list[Exception] = []
        for served in sets:
            try:
                _choose([served], self.source)
            except (ParameterError, LabelError) as error:
                errors.append(error)
        if sets and len(errors) == len(sets):
            raise ParameterError(f"The server's source cannot be used: {errors[0]}") from errors[0]

    def _find(self, label: str) -> tuple[ServedSet, str]:
        """Return the set and label that a request means by `label` or `set/label`."""
        having = [served for served in self._sets.values() if label in served.neurons.labels]
        keys = {(each.key, each.tuned(label)) if label in each.labels else "" for each in having}
        if len(having) > 1 and len(keys) > 1:
            ways = [f"{served.source.name}/{label}" for served in having]
            raise LabelError(
                f"The label {label!r} is in several of this server's neuron sets; say which: "
                f"{' or '.join(map(repr, ways))}."
            )
        if having:
            return having[0], label
        for name, served in self._sets.items():
            inner = label.removeprefix(f"{name}/")
            if inner != label:
                if inner not in served.neurons.labels:
                    raise unknown_label(inner, served.neurons.labels, f"the set {name!r}")
                return served, inner
        raise unknown_label(label, self.labels, "this server")

    # --- adding and removing sets ---------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of the sets."""
        return list(self._sets)

    def describe(self) -> dict[str, Any]:
        """Return what is served, as a JSON-able dictionary."""
        return {
            "sets": {
                name: {
                    **served.source.to_dict(),
                    "labels": list(served.labels),
                    "operation": served.operation.to_dict(),
                    "fingerprint": served.neurons.fingerprint,
                    # What may be left; empty where that makes no difference.
                    "means_of": list(served.neurons.means_of) if served.relative else [],
                }
                for name, served in self._sets.items()
            },
            "default": None if self.default is None else str(self.default),
            "source": list(self.source),
            "capacity": self.capacity,
            "used": len(self._rows()) + len(self._removed),
        }

    def prepare(self, source: SetSource) -> ServedSet:
        """Return the set that `source` names, loaded and checked, but not served yet."""
        if source.name in self._sets:
            raise ParameterError(
                f"A neuron set called {source.name!r} is served already; remove it first, or give "
                "the new one another name."
            )
        served = load_set(source)
        shape, own = self._shape, served.neurons
        served.neurons.check_model(
            shape.model_type,
            own.num_layers if shape.num_layers is None else shape.num_layers,
            own.width_per_layer if shape.width is None else shape.width,
        )
        return served

    def check_capacity(self, served: ServedSet, used: Callable[[], Iterable[str]]) -> list[str]:
        """Return the rows of removed sets that have to be freed to add a set.

        Args:
            served: The set to add.
            used: Returns the rows that running requests need.

        Raises:
            ParameterError: If the tables are full.
        """
        # Whatever a label leaves, its set is needed.
        running = {row_key(*read_key(key)[:2]) for key in used()} if self._removed else set[str]()
        now = time.monotonic()
        wanted = served.keys
        free = [
            key
            for key, since in self._removed.items()
            if key not in running and key not in wanted and now - since >= GRACE
        ]
        kept = self._rows() | (set(self._removed) - set(free))
        self._check_rows(served.source.name, wanted, kept)
        return free

    def forget(self, keys: Iterable[str]) -> None:
        """Forget rows of removed sets that the workers have freed."""
        for key in keys:
            self._removed.pop(key, None)

    def add(self, served: ServedSet) -> None:
        """Serve a prepared set from now on."""
        wanted = served.keys
        self._check_rows(served.source.name, wanted, self._rows() | set(self._removed))
        for key in wanted:  # rows of an earlier set with the same content are in use again
            self._removed.pop(key, None)
        self._sets[served.source.name] = served
        self._pairs |= served.relative

    def remove(self, name: str) -> None:
        """Refuse new requests for a set; running requests finish as they began."""
        if name not in self._sets:
            known = ", ".join(self._sets) or "none"
            raise LabelError(
                f"No neuron set called {name!r} is served; found {known}."
                f"{did_you_mean(name, self._sets)}"
            )
        served = self._sets.pop(name)
        if self.default is not None:
            try:
                self._request(self.default, 1)
            except (ValueError, LabelError) as error:
                self._sets[name] = served
                raise ParameterError(
                    f"The server's default {str(self.default)!r} needs the set {name!r}, so it "
                    "cannot be removed while the server runs."
                ) from error
        still = self._rows()
        now = time.monotonic()
        self._removed |= {key: now for key in served.keys if key not in still}

    def set_keys(self, freed: Iterable[str] = ()) -> list[str]:
        """Return the keys of the sets that are still needed when these rows are free."""
        needed = (self._rows() | set(self._removed)) - set(freed)
        return sorted({read_key(key)[0] for key in needed})

    def _rows(self) -> set[str]:
        return set[str]().union(*(served.keys for served in self._sets.values()))

    def _check_rows(self, name: str, wanted: set[str], kept: set[str]) -> None:
        total = len(wanted | kept)
        if total > self.capacity:
            removed = len(set(self._removed) & kept)
            later = f" {removed} of them belong to removed sets that are still in use, so it may "
            raise ParameterError(
                f"The neuron set {name!r} has {len(wanted)} labels, but this server's tables hold "
                f"{self.capacity} and {len(kept)} are taken."
                + (later + "work in a moment." if removed else "")
                + " Remove a set, or start the server with a larger 'capacity'."
            )


def _choose(acting: Iterable[ServedSet], source: tuple[str, ...]) -> tuple[str, ...]:
    return choose_left([(served.neurons, served.operation) for served in acting], source)


def _unreadable(what: str, means_of: Iterable[str]) -> ParameterError:
    return ParameterError(
        f"{what} would leave what the prompt is written in, which a server cannot read. Say which "
        f"label is left: {SOURCE!r}: 'en' in the request, beside {KEY!r}, or --source en for the "
        "whole server; 'others' is the mean of all others. This set has the means of "
        f"{', '.join(means_of) or 'no label'}."
    )
