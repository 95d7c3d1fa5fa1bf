"""What an engine was started with: the `neuronsteer` block of vLLM's `additional_config`.

The block travels with vLLM's own configuration into every process and is part of the key under
which vLLM keeps compiled graphs. So whatever shapes a graph (how many rows the tables have) must
be stated here, and never depend on what is in a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import NeuronSteerError, ParameterError, did_you_mean, shown
from ...languages import check_known
from ...steering.keeping.gate_rules import NAMES, PROMPT, schedules_of
from ...steering.keeping.running_text import THOUGHT_MARKS
from ...steering.schedule import Schedule

#: Name of the block in `additional_config`, of a request's entry in `extra_args`/`vllm_xargs`.
KEY = "neuronsteer"
#: Names of a request's other entries: the label, or labels, that are left; the language that its
#: text is kept in, and that of its thoughts.
SOURCE, KEEP, THINKING = f"{KEY}_source", f"{KEY}_keep", f"{KEY}_thinking"
#: All that a request may say.
REQUEST_FIELDS = (KEY, SOURCE, KEEP, THINKING)
#: How many rows the tables hold at once, unless the block says otherwise.
CAPACITY = 64
#: Switch points of what a text is kept in: they are looked up at every token.
MAX_KEPT = 32
#: Characters in which a request can say that.
_LONGEST = 1000

_FIELDS = ("sets", "capacity", "default", "source", "keep")
_KEEP_FIELDS = ("language", "thinking", "allow", "names", "reach", "marks")
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
class KeepSettings:
    """The field `keep`: what texts are kept in, and how.

    Attributes:
        language: The schedule of requests that name none; `None` leaves them alone.
        thinking: The language of a reasoning model's thoughts, likewise.
        allow: Words that stay allowed; "prompt": foreign words of the prompt.
        names: Latin tokens in a row that may stand in a text of another script.
        reach: Where the likeliest token is taken: what counts as a choice is at least this share as
            likely.
        marks: What begins and what ends a thought.
    """

    language: str | None = None
    thinking: str | None = None
    allow: str | tuple[str, ...] = PROMPT
    names: int = NAMES
    reach: float = 0.01
    marks: tuple[str, str] = THOUGHT_MARKS

    @classmethod
    def read(cls, given: Any) -> KeepSettings:
        """Return the validated field, given as text or as a dictionary."""
        fields: Any = {"language": given} if isinstance(given, str) else given
        if not isinstance(fields, Mapping):
            raise ParameterError(
                f"The field 'keep' is {shown(given)}; expected the code of a language, a schedule "
                'such as \'en,24:ko\', or {"language": "ko", "thinking": "en"}.'
            )
        _check_fields(fields, _KEEP_FIELDS, "the field 'keep'")
        fields = {name: value for name, value in fields.items() if value is not None}
        for name in ("allow", "marks"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        found = cls(**fields)
        words = (found.allow,) if isinstance(found.allow, str) else found.allow
        for name, right, expected in (
            ("allow", _are_texts(words), "words, or 'prompt'"),
            ("marks", _are_texts(found.marks) and len(found.marks) == 2, "two texts"),
            ("names", _is_number(found.names, int) and found.names >= 1, "a number from 1 on"),
            (
                "reach",
                _is_number(found.reach, int | float) and 0 < found.reach <= 1,
                "a share of a probability, above 0, at most 1",
            ),
        ):
            if not right:
                raise ParameterError(
                    f"The field {name!r} of 'keep' is {shown(fields[name])}; expected {expected}."
                )
        try:
            read_kept(found.language, "language")
            read_thinking(found.thinking, "thinking")
        except NeuronSteerError as error:
            raise ParameterError(f"The field 'keep' cannot be used: {error}") from error
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return what `read` takes."""
        plain = KeepSettings()
        fields = {name: getattr(self, name) for name in _KEEP_FIELDS}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if value != getattr(plain, name)
        }


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
        keep: What texts are kept in, if something is said about it.
    """

    sets: tuple[SetSource, ...]
    capacity: int = CAPACITY
    default: str | None = None
    source: tuple[str, ...] = ()
    keep: KeepSettings | None = None

    @property
    def steers(self) -> bool:
        """Whether neurons are steered. Without sets, to keep languages needs no hooks."""
        return bool(self.sets) or self.keep is None

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
        left = read_left(block.get("source"), "source")
        keep = block.get("keep")
        keep = None if keep is None else KeepSettings.read(keep)
        return cls(tuple(sources), capacity, default, left, keep)

    def to_dict(self) -> dict[str, Any]:
        """Return the block that `read` takes."""
        block: dict[str, Any] = {"sets": {each.name: each.to_dict() for each in self.sets}}
        block["capacity"] = self.capacity
        if self.default is not None:
            block["default"] = self.default
        if self.source:
            labels = list(self.source)
            block["source"] = labels if len(labels) > 1 else labels[0]
        if self.keep is not None:
            block["keep"] = self.keep.to_dict()
        return block


def settings_of(vllm_config: Any) -> ServeSettings | None:
    """Return the settings of an engine, or `None` if it was started without the block."""
    additional = vllm_config.additional_config
    block = additional.get(KEY) if isinstance(additional, Mapping) else None
    return None if block is None else ServeSettings.read(block)


def steering_of(vllm_config: Any) -> ServeSettings | None:
    """Return the settings of an engine whose neurons are steered, otherwise `None`."""
    settings = settings_of(vllm_config)
    return settings if settings is not None and settings.steers else None


def read_kept(given: Any, field: str) -> Schedule | None:
    """Return the schedule of languages that a text is kept in, `None` if it is not.

    Args:
        given: What was given.
        field: The name of the field, for messages.

    Raises:
        NeuronSteerError: If it cannot be used.
    """
    if given is None:
        return None
    if not isinstance(given, str) or not given.strip() or len(given) > _LONGEST:
        raise ParameterError(
            f"{field!r} is {shown(given)}; expected the code of a language as text, e.g. 'ko', a "
            "schedule of them, e.g. 'en,24:ko', or '-' for none."
        )
    schedule = Schedule(None) if given.strip() == "-" else schedules_of(given)[0]
    if any(point.strength != 1 or point.ramp for point in schedule.points):
        raise ParameterError(
            f"{field!r} is {shown(given)}, but a text is kept in a language or it is not: leave "
            "out strengths and ramps."
        )
    if len(schedule.points) > MAX_KEPT:
        raise ParameterError(
            f"{field!r} has {len(schedule.points)} switch points; it may have {MAX_KEPT}. Use "
            "repeat=, or send the rest as a second request."
        )
    return schedule if schedule.labels else None


def read_thinking(given: Any, field: str) -> str | None:
    """Return the language of thoughts; likewise."""
    if given is None:
        return None
    if not isinstance(given, str) or len(given) > _LONGEST:
        raise ParameterError(
            f"{field!r} is {shown(given)}; expected the code of a language as text, e.g. 'en', or "
            "'-' for none."
        )
    if given.strip() == "-":
        return None
    check_known(given)
    return given


def read_left(given: Any, field: str) -> tuple[str, ...]:
    """Return the labels that are left, given as one, several, or none."""
    found = (given,) if isinstance(given, str) else () if given is None else given
    if not isinstance(found, list | tuple) or not all(isinstance(each, str) for each in found):
        raise ParameterError(
            f"The field {field!r} is {given!r}; expected the label that is left, e.g. 'en', a list "
            "of labels, or 'others' for the mean of all others."
        )
    return tuple(found)


def _are_texts(given: object) -> bool:
    return isinstance(given, tuple) and all(isinstance(each, str) and each for each in given)


def _is_number(given: object, kind: Any) -> bool:
    return isinstance(given, kind) and not isinstance(given, bool)


def _check_fields(given: Mapping[str, Any], fields: Sequence[str], where: str) -> None:
    for name in given:
        if name not in fields:
            raise ParameterError(
                f"Unknown field {name!r} in {where}.{did_you_mean(str(name), fields)} Fields: "
                f"{', '.join(fields)}."
            )
