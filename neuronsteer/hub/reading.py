"""Reading files that others wrote: how large and deep they may be, and where they may lie.

Sets, statistics, codecs, reports and checkpoints are all read through these functions. What they
return may still be nonsense, but reading it takes bounded memory, and its names stay in its folder.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import NeuronSteerError, shown

if TYPE_CHECKING:
    from torch import Tensor

#: The index of a checkpoint with 140,000 tensors, the largest honest file, takes half of this.
JSON_BYTES = 32 << 20
#: In memory a value takes up to a hundred times the room that it takes in the file.
JSON_VALUES = 500_000
#: Python's own limit depends on how deep the caller is, and writing what was read needs more.
JSON_DEPTH = 64
# What can be compared and converted; others are types of quantised weights.
_DTYPES = frozenset(["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"])


def read_json(path: Path, error: type[NeuronSteerError], advice: str = "") -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: The file.
        error: What to raise if there is none, or it is larger or deeper than the limits.
        advice: What to do then, for the message.
    """
    name, advice = repr(str(path)), advice and f" {advice}"
    data = _read_bytes(path, error, advice)
    # Before parsing: commas inside of texts count too, which the limit leaves room for.
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > JSON_VALUES:
        raise error(
            f"{name} has about {values:,} values; expected at most {JSON_VALUES:,}.{advice}"
        )
    try:
        found: Any = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        if rb"\ud" in data.lower():
            # Half of a character outside of Unicode's first plane: it cannot be written again.
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except ValueError as cause:
        raise error(f"{name} is not readable JSON: {cause}.{advice}") from cause
    except RecursionError:
        raise _too_deep(name, error, advice) from None
    if not isinstance(found, dict):
        raise error(f"{name} holds a {type(found).__name__}; expected a JSON object.{advice}")
    level: list[Any] = [found]
    for _ in range(JSON_DEPTH):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for group in inner for each in group if isinstance(each, dict | list)]
    if level:
        raise _too_deep(name, error, advice)
    return found  # pyright: ignore[reportUnknownVariableType]


def read_tensors(
    path: Path, error: type[NeuronSteerError], advice: str = ""
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, and its metadata.

    Args:
        path: The file.
        error: What to raise if it is missing or damaged, or holds another type than plain numbers.
        advice: What to do then, for the message.
    """
    from safetensors import SafetensorError, safe_open

    name, advice = repr(str(path)), advice and f" {advice}"
    _check_file(path, error, advice)
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, Tensor] = {}
            for key in file.keys():  # noqa: SIM118 (no iterator)
                dtype = str(file.get_slice(key).get_dtype())
                if dtype not in _DTYPES:
                    raise error(
                        f"{name}: the tensor {shown(key)} has type {dtype}; expected one of "
                        f"{', '.join(sorted(_DTYPES))}.{advice}"
                    )
                tensors[key] = file.get_tensor(key)
            return tensors, dict(file.metadata() or {})
    except (OSError, ValueError, SafetensorError) as cause:
        if isinstance(cause, NeuronSteerError):
            raise
        raise error(f"{name} cannot be read ({cause}): truncated or damaged.{advice}") from cause


def stays_inside(name: str) -> bool:
    """Return whether a path with forward slashes, joined to a folder's, stays in that folder."""
    # On Windows a backslash is a slash too, and a drive's letter starts at the top.
    if set(name) & set("\\\0") or re.match("[A-Za-z]:", name):
        return False
    return not any(part in ("", ".", "..", ".git") for part in name.split("/"))


def _read_bytes(path: Path, error: type[NeuronSteerError], advice: str) -> bytes:
    size = _check_file(path, error, advice)
    if size > JSON_BYTES:
        raise error(
            f"{str(path)!r} has {size:,} bytes; expected at most {JSON_BYTES:,} of JSON.{advice}"
        )
    try:
        return path.read_bytes()
    except OSError as cause:
        raise error(f"{str(path)!r} cannot be read: {cause}.{advice}") from cause


def _check_file(path: Path, error: type[NeuronSteerError], advice: str) -> int:
    """Return the size of a file; raise if it is none, for a pipe or device may never end."""
    try:
        if path.is_file():
            return path.stat().st_size
    except OSError as cause:
        raise error(f"{str(path)!r} cannot be read: {cause}.{advice}") from cause
    kind = "is not a file" if path.exists() else "is missing"
    raise error(f"{str(path)!r} {kind}.{advice}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _too_deep(name: str, error: type[NeuronSteerError], advice: str) -> NeuronSteerError:
    return error(
        f"{name} has lists or objects inside each other, deeper than {JSON_DEPTH} levels.{advice}"
    )
