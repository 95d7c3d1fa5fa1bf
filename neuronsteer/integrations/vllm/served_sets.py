"""The neuron sets that an engine serves, and what the text of a request means with them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import LabelError, ParameterError, did_you_mean, unknown_label
from ...steering.schedule import Schedule
from .compiled_labels import ServedSet, load_set
from .request_schedule import RequestSchedule
from .settings import KEY, ServeSettings, SetSource

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
    """

    def __init__(self, settings: ServeSettings, shape: ModelShape | None = None) -> None:
        self.capacity = settings.capacity
        self.default: Schedule | None = None
        self._shape = shape or ModelShape()
        self._sets: dict[str, ServedSet] = {}
        #: Rows of removed sets → when they were removed.
        self._removed: dict[str, float] = {}
        for source in settings.sets:
            self.add(self.prepare(source))
        if settings.default is not None:
            try:
                self.default = self.schedule(settings.default)
                RequestSchedule.of(self.default, self._key, 1)
            except (ValueError, LabelError) as error:
                raise ParameterError(f"The server's default cannot be used: {error}") from error
        ALL_SERVED_SETS.add(self)

    # --- requests -------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that can be asked for."""
        found = (label for served in self._sets.values() for label in served.compiled)
        return tuple(dict.fromkeys(found))

    def resolve(self, wanted: Any, prompt_tokens: int) -> RequestSchedule | None:
        """Return the schedule of a request, or `None` if it is not steered.

        Args:
            wanted: What the request asks for, `None` if it says nothing.
            prompt_tokens: Length of its prompt.

        Raises:
            NeuronSteerError: If it cannot be served; the message says why.
        """
        if wanted is None:
            schedule = self.default
            if schedule is None:
                return None
        elif isinstance(wanted, str):
            schedule = self.schedule(wanted)
        else:
            raise ParameterError(
                f"{KEY!r} is {wanted!r}; expected a schedule as text, e.g. 'fr' or 'en,24:fr'."
            )
        return RequestSchedule.of(schedule, self._key, prompt_tokens)

    def schedule(self, text: str) -> Schedule:
        """Return the schedule written as `text`: one label, or labels with switch points."""
        return Schedule(text) if text in self.labels else Schedule.parse(text)

    def _key(self, label: str, strength: float) -> str:
        served, name = self._find(label)
        if name not in served.compiled:
            raise LabelError(
                f"The label {name!r} has no neurons in the set {served.source.name!r}, so steering "
                f"to it would change nothing. Labels with neurons: {', '.join(served.compiled)}."
            )
        return served.key(name, strength)

    def _find(self, label: str) -> tuple[ServedSet, str]:
        """Return the set and label that a request means by `label` or `set/label`."""
        having = [served for served in self._sets.values() if label in served.neurons.labels]
        keys = {each.compiled[label].key if label in each.compiled else "" for each in having}
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
                    "labels": list(served.compiled),
                    "operation": served.operation.to_dict(),
                    "fingerprint": served.neurons.fingerprint,
                }
                for name, served in self._sets.items()
            },
            "default": None if self.default is None else str(self.default),
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
        running = set(used()) if self._removed else set[str]()
        now = time.monotonic()
        wanted = {label.key for label in served.compiled.values()}
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
        wanted = {label.key for label in served.compiled.values()}
        self._check_rows(served.source.name, wanted, self._rows() | set(self._removed))
        for key in wanted:  # rows of an earlier set with the same content are in use again
            self._removed.pop(key, None)
        self._sets[served.source.name] = served

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
                RequestSchedule.of(self.default, self._key, 1)
            except (ValueError, LabelError) as error:
                self._sets[name] = served
                raise ParameterError(
                    f"The server's default {str(self.default)!r} needs the set {name!r}, so it "
                    "cannot be removed while the server runs."
                ) from error
        still = self._rows()
        now = time.monotonic()
        labels = served.compiled.values()
        self._removed |= {label.key: now for label in labels if label.key not in still}

    def _rows(self) -> set[str]:
        return {label.key for each in self._sets.values() for label in each.compiled.values()}

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
