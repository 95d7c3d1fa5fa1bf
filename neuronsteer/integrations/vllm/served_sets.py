"""The front end's view: which sets can be asked for, and what a request's text means."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import LabelError, ParameterError, did_you_mean, unknown_label
from ...steering.schedule import Schedule
from .compiled_labels import Served, load
from .request_schedule import Plan
from .settings import KEY, Settings, Source

#: Seconds before the rows of a removed set may be used again: longer than any request needs to get
#: from admission to the list of running ones.
GRACE = 5.0

#: Every catalogue of this process, for checks that do not know which engine they belong to.
CATALOGUES: weakref.WeakSet[Catalogue] = weakref.WeakSet()


@dataclass(frozen=True)
class Shape:
    """What a set must fit; `None` is not known here, and is checked by the workers."""

    model_type: str | None = None
    num_layers: int | None = None
    width: int | None = None


class Catalogue:
    """The sets of one engine, by name.

    Args:
        settings: What the engine was started with.
        shape: The model; by default nothing is known of it.
    """

    def __init__(self, settings: Settings, shape: Shape | None = None) -> None:
        self.capacity = settings.capacity
        self.default: Schedule | None = None
        self._shape = shape or Shape()
        self._sets: dict[str, Served] = {}
        #: Rows of removed sets → when they were removed.
        self._leaving: dict[str, float] = {}
        for source in settings.sets:
            self.enter(self.prepare(source))
        if settings.default is not None:
            try:
                self.default = self.schedule(settings.default)
                Plan.of(self.default, self._key, 1)
            except (ValueError, LabelError) as error:
                raise ParameterError(f"The server's default cannot be used: {error}") from error
        CATALOGUES.add(self)

    # --- requests -------------------------------------------------------------------------------

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that can be asked for."""
        found = (label for served in self._sets.values() for label in served.moves)
        return tuple(dict.fromkeys(found))

    def plan(self, wanted: Any, prompt_tokens: int) -> Plan | None:
        """Return the plan of a request, or `None` if it is not steered.

        Args:
            wanted: What the request says, `None` if it says nothing.
            prompt_tokens: Length of its prompt.

        Raises:
            NeuronSteerError: If that cannot be served; the message says why.
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
        return Plan.of(schedule, self._key, prompt_tokens)

    def schedule(self, text: str) -> Schedule:
        """Return the schedule that `text` writes: one label, or labels with switch points."""
        return Schedule(text) if text in self.labels else Schedule.parse(text)

    def _key(self, label: str, strength: float) -> str:
        served, name = self._find(label)
        if name not in served.moves:
            raise LabelError(
                f"The label {name!r} has no neurons in the set {served.source.name!r}, so steering "
                f"to it would change nothing. Labels with neurons: {', '.join(served.moves)}."
            )
        return served.key(name, strength)

    def _find(self, label: str) -> tuple[Served, str]:
        """Return the set and label that a request calls `label`, or `set/label`."""
        having = [served for served in self._sets.values() if label in served.neurons.labels]
        keys = {each.moves[label].key if label in each.moves else "" for each in having}
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

    # --- sets coming and going ------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return the names of the sets."""
        return list(self._sets)

    def describe(self) -> dict[str, Any]:
        """Return what is served, as a JSON-able dictionary."""
        return {
            "sets": {
                name: {
                    **served.source.to_dict(),
                    "labels": list(served.moves),
                    "operation": served.operation.to_dict(),
                    "fingerprint": served.neurons.fingerprint,
                }
                for name, served in self._sets.items()
            },
            "default": None if self.default is None else str(self.default),
            "capacity": self.capacity,
            "used": len(self._rows()) + len(self._leaving),
        }

    def prepare(self, source: Source) -> Served:
        """Return the set that `source` names, loaded and checked, but not served yet."""
        if source.name in self._sets:
            raise ParameterError(
                f"A neuron set called {source.name!r} is served already; remove it first, or give "
                "the new one another name."
            )
        served = load(source)
        shape, own = self._shape, served.neurons
        served.neurons.check_model(
            shape.model_type,
            own.num_layers if shape.num_layers is None else shape.num_layers,
            own.width_per_layer if shape.width is None else shape.width,
        )
        return served

    def room_for(self, served: Served, used: Callable[[], Iterable[str]]) -> list[str]:
        """Return the rows of removed sets that can be given up now.

        Args:
            served: What is to be added.
            used: Returns the rows that running requests need.

        Raises:
            ParameterError: If the tables are full.
        """
        running = set(used()) if self._leaving else set[str]()
        now = time.monotonic()
        wanted = {move.key for move in served.moves.values()}
        free = [
            key
            for key, since in self._leaving.items()
            if key not in running and key not in wanted and now - since >= GRACE
        ]
        kept = self._rows() | (set(self._leaving) - set(free))
        self._check_room(served.source.name, wanted, kept)
        return free

    def give_up(self, keys: Iterable[str]) -> None:
        """Forget rows of removed sets, which the workers have forgotten."""
        for key in keys:
            self._leaving.pop(key, None)

    def enter(self, served: Served) -> None:
        """Serve a prepared set from now on."""
        wanted = {move.key for move in served.moves.values()}
        self._check_room(served.source.name, wanted, self._rows() | set(self._leaving))
        for key in wanted:  # rows of an earlier set with the same content are in use again
            self._leaving.pop(key, None)
        self._sets[served.source.name] = served

    def leave(self, name: str) -> None:
        """Refuse new requests for a set; the ones that are running finish as they began."""
        if name not in self._sets:
            known = ", ".join(self._sets) or "none"
            raise LabelError(
                f"No neuron set called {name!r} is served; found {known}."
                f"{did_you_mean(name, self._sets)}"
            )
        served = self._sets.pop(name)
        if self.default is not None:
            try:
                Plan.of(self.default, self._key, 1)
            except (ValueError, LabelError) as error:
                self._sets[name] = served
                raise ParameterError(
                    f"The server's default {str(self.default)!r} needs the set {name!r}, so it "
                    "cannot be removed while the server runs."
                ) from error
        still = self._rows()
        now = time.monotonic()
        self._leaving |= {m.key: now for m in served.moves.values() if m.key not in still}

    def _rows(self) -> set[str]:
        return {move.key for served in self._sets.values() for move in served.moves.values()}

    def _check_room(self, name: str, wanted: set[str], kept: set[str]) -> None:
        total = len(wanted | kept)
        if total > self.capacity:
            leaving = len(set(self._leaving) & kept)
            later = f" {leaving} of them belong to removed sets that are still in use, so it may "
            raise ParameterError(
                f"The neuron set {name!r} has {len(wanted)} labels, but this server's tables hold "
                f"{self.capacity} and {len(kept)} are taken."
                + (later + "work in a moment." if leaving else "")
                + " Remove a set, or start the server with a larger 'capacity'."
            )
