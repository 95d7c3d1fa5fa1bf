"""The shape of a report's JSON: what its formats read, checked before any of them does.

A shape is a `Kind` of value; `[shape]`, a list of such values; `{name: shape}`, an object with
these fields and perhaps others, where `name?` may be missing; or `Each(shape)`, an object of any
names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArtifactError, shown


@dataclass(frozen=True)
class Kind:
    """A kind of plain value.

    Attributes:
        name: What messages call it.
        fits: Whether a value is one.
    """

    name: str
    fits: Callable[[Any], bool]

    @property
    def or_null(self) -> Kind:
        """The same, or `None`."""
        return Kind(f"{self.name} or null", lambda value: value is None or self.fits(value))


@dataclass(frozen=True)
class Each:
    """An object whose values all have one shape.

    Attributes:
        shape: Theirs.
        needed: Names that must be there.
    """

    shape: Any
    needed: tuple[str, ...] = ()


def _is_number(value: Any) -> bool:
    # Larger ones would overflow in charts; no measured number is.
    return isinstance(value, int | float) and type(value) is not bool and -1e300 < value < 1e300


ANYTHING = Kind("anything", lambda _: True)
TEXT = Kind("text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a finite number", _is_number)
SHARE = Kind("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
COUNT = Kind("a whole number", lambda value: type(value) is int and 0 <= value < 1 << 63)
NAME = Kind("text or a number", lambda value: isinstance(value, str) or _is_number(value))
PLAIN = Kind("text, a number, true, false or null", lambda v: not isinstance(v, dict | list))
PAIR = Kind(
    "two numbers",
    lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)),
)

VALUE = {
    "value": NUMBER.or_null,
    "interval?": PAIR.or_null,
    "seeds?": COUNT,
    "low?": NUMBER,
    "high?": NUMBER,
}
BLOCK = {"kind": TEXT, "title": TEXT, "note": TEXT}
BLOCKS: dict[str, dict[str, Any]] = {
    "matrix": {
        "rows": [NAME],
        "columns": [NAME],
        "values": [[NUMBER.or_null]],
        "row_name": TEXT,
        "column_name": TEXT,
        "unit": TEXT,
        "diverging": FLAG,
    },
    "scatter": {
        "points": [{"x": SHARE, "y": SHARE, "label": NAME, "group?": PLAIN, "best?": PLAIN}],
        "x_name": TEXT,
        "y_name": TEXT,
    },
    "histogram": {"edges": [NUMBER], "counts": [COUNT], "x_name": TEXT},
    "table": {"header": [NAME], "rows": [[PLAIN]]},
    "samples": {
        "items": [
            {
                "prompt": PLAIN,
                "text": PLAIN,
                "label": PLAIN,
                "identified": PLAIN,
                "good": PLAIN,
            }
        ]
    },
}
TREATMENT = {
    "seeds": COUNT,
    "n": NUMBER,
    "values": Each(VALUE),
    "labels": Each(VALUE),
    "blocks": [BLOCK],
}
TASK = {
    "name": TEXT,
    "title": TEXT,
    "question": TEXT,
    "definition": TEXT,
    "paper": TEXT.or_null,
    "primary": TEXT,
    "higher_is_better": FLAG,
    "unit": TEXT,
    "units": Each(TEXT),
    "reads": [TEXT],
    "parameters": Each(ANYTHING),
    "treatments": Each(TREATMENT, needed=("neurons",)),
    "not_applicable": [TEXT],
    "seconds": NUMBER,
}
REPORT = {
    "subject": {
        "model": {"name": TEXT.or_null, "type": TEXT, "parameters": COUNT, "dtype": TEXT},
        "set": {
            "fingerprint": TEXT,
            "method": {"name?": TEXT.or_null},
            "operation": Each(ANYTHING),
            "site": TEXT,
            "labels": [TEXT],
            "neurons": COUNT,
        },
    },
    "settings": {"controls?": [TEXT]},
    "environment": Each(PLAIN),
    "data": Each({"source": TEXT, "sha256": TEXT, "items": Each(NUMBER)}),
    "tasks": [TASK],
    "notes": [TEXT],
    "created": TEXT,
    "seconds": NUMBER,
}


def check_report(data: Mapping[str, Any]) -> None:
    """Raise unless `data` is what every format of a report can show.

    Raises:
        ArtifactError: Names the field, what was found and what was expected.
    """
    _check(data, REPORT, "")
    for i, task in enumerate(data["tasks"]):
        for name, entry in task["treatments"].items():
            for k, block in enumerate(entry["blocks"]):
                where = f"tasks[{i}].treatments.{name}.blocks[{k}]"
                _check(block, BLOCKS.get(block["kind"], {}), where)
                _check_sizes(block, where)


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, Kind):
        if not shape.fits(value):
            raise _wrong(where, value, shape.name)
    elif isinstance(shape, list):
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, "a list")
        for i, each in enumerate(value):
            _check(each, shape[0], f"{where}[{i}]")
    elif not isinstance(value, Mapping):
        raise _wrong(where, value, "an object")
    else:
        some = isinstance(shape, Each)
        fields: dict[str, Any] = dict.fromkeys(value, shape.shape) if some else shape
        needed = shape.needed if some else [name for name in shape if not name.endswith("?")]
        for name in needed:
            if name not in value:
                raise ArtifactError(f"Field {_inner(where, name)!r} of the report is missing.")
        for name, each in fields.items():
            key = name if some else name.removesuffix("?")
            if key in value:
                _check(value[key], each, _inner(where, key))


def _check_sizes(block: Mapping[str, Any], where: str) -> None:
    """Raise if a block's lists do not belong together."""
    fits = True
    if block["kind"] == "matrix":
        widths = {len(row) for row in block["values"]}
        fits = len(block["values"]) == len(block["rows"]) and widths <= {len(block["columns"])}
    elif block["kind"] == "histogram":
        fits = len(block["edges"]) == len(block["counts"]) + 1
    if not fits:
        raise ArtifactError(
            f"Field {where!r} of the report, a {block['kind']}, has more or fewer numbers than "
            "names of rows and columns, or edges."
        )


def _inner(where: str, name: str) -> str:
    return f"{where}.{name}"[:200] if where else name[:200]


def _wrong(where: str, value: object, expected: str) -> ArtifactError:
    return ArtifactError(f"Field {where!r} of the report is {shown(value)}; expected {expected}.")
