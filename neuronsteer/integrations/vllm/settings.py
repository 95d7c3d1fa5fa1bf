"""What an engine was started with: the `neuronsteer` block of vLLM's `additional_config`.

The block travels with vLLM's own configuration into every process and is part of the key under
which vLLM keeps compiled graphs. So whatever shapes a graph (how many rows the tables have) must
be stated here, and never depend on what is in a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ParameterError, did_you_mean

#: Name of the block in `additional_config`, of a request's entry in `extra_args`/`vllm_xargs`.
KEY = "neuronsteer"
#: Name of a request's other entry: the label, or labels, that are left.
SOURCE = f"{KEY}_source"
#: How many rows the tables hold at once, unless the block says otherwise.
CAPACITY = 64

_FIELDS = ("sets", "capacity", "default", "source")
_SOURCE_FIELDS = ("source", "revision", "subfolder", "operation")
_HELP = (
    'expected e.g. {"sets": {"demo": "user/model-language-neurons"}, "default": "fr"}; a set is a '
    'folder, a Hub id, or {"source": …, "revision": …, "subfolder": …, "operation": …}'
)


@dataclass(frozen=True)
class SetSource:
    """Where a neuron set comes from, and what it is called on the server.

    Attributes:
        name: Its name, unique on the server.
        source: Folder or Hub id.
        revision: Branch, tag or commit.
        subfolder: Folder inside.
        operation: What steering does with its neurons; `None` leaves it to the set's header.
    """

    name: str
    source: str
    revision: str | None = None
    subfolder: str | None = None
    operation: dict[str, Any] | str | None = None

    @classmethod
    def read(cls, given: Any, name: str | None = None) -> SetSource:
        """Return the source given as text or as a dictionary."""
        fields: Any = {"source": given} if isinstance(given, str) else given
        if not isinstance(fields, Mapping):
            raise ParameterError(f"Cannot read the neuron set {given!r}: {_HELP}.")
        fields = dict(fields)
        name = fields.pop("name", name)
        _check_fields(fields, _SOURCE_FIELDS, "a neuron set")
        source = fields.get("source")
        if not isinstance(source, str) or not source.strip():
            raise ParameterError(f"The neuron set {given!r} has no 'source': {_HELP}.")
        for field in ("revision", "subfolder"):
            if not isinstance(fields.get(field), str | None):
                raise ParameterError(
                    f"The field {field!r} of the neuron set {source!r} is {fields[field]!r}; "
                    "expected text."
                )
        if not isinstance(fields.get("operation"), str | Mapping | None):
            raise ParameterError(
                f"The field 'operation' of the neuron set {source!r} is {fields['operation']!r}; "
                'expected a name such as \'zero\', or {"name": "add", "value": …}.'
            )
        if name is None:
            parts = [source, fields.get("subfolder") or ""]
            name = [part for text in parts for part in text.split("/") if part][-1]
        if not isinstance(name, str) or not name or name == "-":
            raise ParameterError(f"A neuron set cannot be called {name!r}; choose another name.")
        return cls(name, **fields)

    def to_dict(self) -> dict[str, Any]:
        """Return what `read` takes, without the name."""
        fields = {field: getattr(self, field) for field in _SOURCE_FIELDS}
        return {field: value for field, value in fields.items() if value is not None}


@dataclass(frozen=True)
class ServeSettings:
    """The `neuronsteer` block.

    Attributes:
        sets: The neuron sets to serve from the start; more can be added while serving.
        capacity: How many rows the tables hold: labels, or pairs of a label and what it leaves.
            Every row takes 8 bytes per neuron.
        default: The schedule of requests that name none; `None` leaves them unsteered.
        source: What is left in requests that do not say, where an operation adds a difference of
            means: labels, or `("others",)`. Empty leaves it to the sets' headers.
    """

    sets: tuple[SetSource, ...]
    capacity: int = CAPACITY
    default: str | None = None
    source: tuple[str, ...] = ()

    @classmethod
    def read(cls, block: Any) -> ServeSettings:
        """Return the validated block.

        Raises:
            ParameterError: If something in it is wrong; the message names the field.
        """
        if not isinstance(block, Mapping):
            raise ParameterError(f"The setting {KEY!r} is {block!r}: {_HELP}.")
        _check_fields(block, _FIELDS, f"the setting {KEY!r}")
        given = block.get("sets", ())
        if isinstance(given, str):
            given = [given]
        if isinstance(given, Mapping) and "source" not in given:
            sources = [SetSource.read(value, name) for name, value in given.items()]
        elif isinstance(given, Sequence):
            sources = [SetSource.read(value) for value in given]
        else:
            raise ParameterError(f"The field 'sets' is {given!r}: {_HELP}.")
        names = [source.name for source in sources]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ParameterError(
                f"Two neuron sets are called {twice!r}; give them names: "
                f'{{"sets": {{"first": …, "second": …}}}}.'
            )
        capacity = block.get("capacity", CAPACITY)
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ParameterError(
                f"The field 'capacity' is {capacity!r}; expected how many rows fit, e.g. 64."
            )
        default = block.get("default")
        if not isinstance(default, str | None):
            raise ParameterError(
                f"The field 'default' is {default!r}; expected a schedule, e.g. 'fr'."
            )
        return cls(tuple(sources), capacity, default, read_left(block.get("source"), "source"))

    def to_dict(self) -> dict[str, Any]:
        """Return the block that `read` takes."""
        block: dict[str, Any] = {"sets": {each.name: each.to_dict() for each in self.sets}}
        block["capacity"] = self.capacity
        if self.default is not None:
            block["default"] = self.default
        if self.source:
            labels = list(self.source)
            block["source"] = labels if len(labels) > 1 else labels[0]
        return block


def settings_of(vllm_config: Any) -> ServeSettings | None:
    """Return the settings of an engine, or `None` if it was started without neuron steering."""
    additional = vllm_config.additional_config
    block = additional.get(KEY) if isinstance(additional, Mapping) else None
    return None if block is None else ServeSettings.read(block)


def read_left(given: Any, field: str) -> tuple[str, ...]:
    """Return the labels that are left, given as one, several, or none."""
    found = (given,) if isinstance(given, str) else () if given is None else given
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
        raise ParameterError(
            f"The field {field!r} is {given!r}; expected the label that is left, e.g. 'en', a list "
            "of labels, or 'others' for the mean of all others."
        )
    return tuple(found)


def _check_fields(given: Mapping[str, Any], fields: Sequence[str], where: str) -> None:
    for name in given:
        if name not in fields:
            raise ParameterError(
                f"Unknown field {name!r} in {where}.{did_you_mean(str(name), fields)} Fields: "
                f"{', '.join(fields)}."
            )
