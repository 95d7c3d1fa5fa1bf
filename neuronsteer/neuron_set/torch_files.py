"""Files that others wrote with `torch.save`: their tensors are read, their code never runs.

`torch.load` trusts what a file says about sizes: a kilobyte can ask for any amount of memory, and
read past the end of its data. So the archive is read here, with the few instructions that lists,
dictionaries, numbers and plain tensors are written with.
"""

from __future__ import annotations

import os
import pickletools  # it lists the instructions of a pickle and runs none
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import NeuronSteerError, shown

#: Bytes of an archive. Boolean masks of 100 languages in a model of 70 B parameters take 230 MB.
FILE_BYTES = 1 << 30
#: Instructions and objects beside the tensors; a list of numbers has one for each.
PARTS = 500_000
#: Parts that may be repeated: one list or tensor can stand in many places of a small file.
REPEATED = 1 << 18
_DEPTH = 8
_DIMENSIONS = 8

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_PUSHED = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_NUMBERS_AND_TEXTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")


def read_torch_file(
    path: str | os.PathLike[str], expected: str, error: type[NeuronSteerError]
) -> Any:
    """Return what is in a file: lists, tuples, dictionaries, numbers, texts, tensors on the CPU.

    Args:
        path: The file.
        expected: What it should be, for messages.
        error: What to raise.

    Raises:
        NeuronSteerError: If it is missing, damaged, larger than the limits, or holds other objects.
    """
    file = Path(path)
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "is not a file"
        kind = kind if file.exists() else "does not exist"
        raise error(f"{os.fspath(path)!r} {kind}; expected {expected}.")
    try:
        with zipfile.ZipFile(file) as archive:
            return _Reader(archive, file.stat().st_size).content()
    except zipfile.BadZipFile as found:
        raise error(
            f"{file.name} cannot be read as tensors: {found}. Expected the format of torch 1.6 and "
            "later. It is damaged, not a torch file, or a bare pickle, which would run code on "
            "loading and is never unpickled here."
        ) from found
    except Exception as found:  # a damaged archive or pickle can raise anything
        reason = str(found).strip().splitlines()[0] if str(found).strip() else repr(found)
        raise error(
            f"{file.name} cannot be read as tensors: {reason[:500].rstrip('.')}. Expected plain "
            "tensors, numbers and texts in lists and dictionaries. Other objects would run code on "
            "loading, and are never unpickled here; if you trust the file, save its tensors again."
        ) from found


class _Damaged(Exception):
    """What is wrong with a file; becomes the reason in the message."""


class _Name(str):
    """A name of Python code. It is compared with those known here, and never looked up."""


class _Storage(NamedTuple):
    """Elements of a file, which several tensors may be parts of."""

    elements: torch.Tensor


class _Reader:
    """Reads one archive.

    Args:
        archive: The open archive.
        size: Bytes of the file.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        entries = archive.infolist()
        packed = [each.filename for each in entries if each.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise _Damaged(f"{shown(packed[0])} is compressed, which torch.save never does.")
        # Of entries that share their bytes, a small file can have any number.
        total = sum(each.file_size for each in entries)
        if total > min(size, FILE_BYTES):
            raise _Damaged(
                f"its entries have {total:,} bytes together; expected at most the file's {size:,}, "
                f"and {FILE_BYTES:,} in all."
            )
        pickles = [each.filename for each in entries if each.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Damaged(f"it has {len(pickles)} entries named data.pkl; expected one.")
        self._archive, self._size = archive, size
        self._top = pickles[0].removesuffix("data.pkl")
        order = f"{self._top}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise _Damaged("its numbers are not little-endian.")
        self._storages: dict[str, torch.Tensor] = {}
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def content(self) -> Any:
        """Return the object that was saved."""
        data = self._archive.read(f"{self._top}data.pkl")
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number > PARTS:
                raise _Damaged(f"it has more than {PARTS:,} parts.")
            if opcode.name == "STOP":
                break
            self._step(opcode.name, argument)
        (found,) = self._stack
        count = _count(found, _DEPTH, {})
        if count > self._size + REPEATED:
            raise _Damaged(
                f"its {self._size:,} bytes repeat lists or tensors until they have {count:,} "
                f"values; expected at most {REPEATED:,} more than bytes."
            )
        return found

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _NUMBERS_AND_TEXTS:
            if isinstance(argument, int) and not -(1 << 63) <= argument < 1 << 63:
                raise _Damaged("it has a whole number of more than 64 bits.")
            stack.append(argument)
        elif name in _PUSHED:
            stack.append(_PUSHED[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            stack.append(_Name(argument.replace(" ", ".")))
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._pop(len(stack) - int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(self._pop(self._marks.pop())))
        elif name in ("APPEND", "APPENDS"):
            new = self._pop(len(stack) - 1 if name == "APPEND" else self._marks.pop())
            _require(stack[-1], list).extend(new)
        elif name in ("SETITEM", "SETITEMS"):
            new = self._pop(len(stack) - 2 if name == "SETITEM" else self._marks.pop())
            into = _require(stack[-1], dict)
            for key, value in zip(new[::2], new[1::2], strict=True):
                # The hash of a tuple of tuples can take for ever.
                into[_require(key, str | int | float)] = value
        elif name == "BINPERSID":
            stack.append(self._storage(*_require(stack.pop(), tuple)))
        elif name == "REDUCE":
            function, arguments = self._pop(len(stack) - 2)
            stack.append(self._call(str(_require(function, _Name)), _require(arguments, tuple)))
        elif name != "PROTO":
            raise _Damaged(f"it has the instruction {name}, which plain tensors do not need.")

    def _pop(self, start: int) -> list[Any]:
        """Return what is on the stack from a place on, and take it off."""
        if not 0 <= start <= len(self._stack):
            raise _Damaged("its instructions end too early.")
        found = self._stack[start:]
        del self._stack[start:]
        return found

    def _call(self, function: str, arguments: tuple[Any, ...]) -> Any:
        makers: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor_v2": _tensor,
            "collections.OrderedDict": dict,
        }
        if function not in makers:
            raise _Damaged(f"it holds an object made by {function[:100]}, not a plain tensor.")
        if makers[function] is dict and arguments:
            raise _Damaged("it has a dictionary with arguments.")
        return makers[function](*arguments)

    def _storage(self, kind: object, name: object, key: str, _device: object, n: int) -> _Storage:
        found = str(_require(name, _Name)).removeprefix("torch.")
        if kind != "storage" or found not in _DTYPES:
            known = ", ".join(each.removesuffix("Storage") for each in _DTYPES)
            raise _Damaged(f"it has tensors of type {found[:100]}; expected one of {known}.")
        dtype = _DTYPES[found]
        if _require(key, str) not in self._storages:
            data = bytearray(self._archive.read(f"{self._top}data/{key}"))
            # A byte of a truth value may hold anything, and only 0 is false.
            kept = torch.uint8 if dtype == torch.bool else dtype
            whole = len(data) // kept.itemsize
            elements = torch.frombuffer(data, dtype=kept, count=whole) if whole else torch.empty(0)
            self._storages[key] = elements.to(dtype)
        elements = self._storages[key]
        if elements.dtype != dtype or not 0 <= _require(n, int) <= len(elements):
            raise _Damaged(
                f"the data of a tensor are {len(elements):,} elements of type {elements.dtype}; "
                f"the tensor has {n:,} of type {dtype}."
            )
        return _Storage(elements[:n])


def _tensor(storage: object, offset: int, size: object, stride: object, *_: object) -> torch.Tensor:
    elements = _require(storage, _Storage).elements
    sizes, strides = _require(size, tuple), _require(stride, tuple)
    numbers = [_require(each, int) for each in (offset, *sizes, *strides)]
    if len(sizes) != len(strides) or len(sizes) > _DIMENSIONS or min(numbers) < 0:
        raise _Damaged(f"a tensor has size {shown(sizes)} and strides {shown(strides)}.")
    count = 1
    for length in sizes:
        count *= length
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True) if n)
    if count and (last >= len(elements) or count > len(elements)):
        raise _Damaged(
            f"a tensor of size {shown(sizes)} and strides {shown(strides)} repeats its data or "
            f"goes beyond it, which has {len(elements):,} elements."
        )
    return elements.as_strided(sizes, strides, offset) if count else elements.new_empty(sizes)


def _require(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise _Damaged(f"it has a {type(value).__name__} where none can be.")
    return value


def _count(value: Any, depth: int, known: dict[int, int]) -> int:
    """Return how many values something has, those of repeated parts counted every time."""
    if isinstance(value, torch.Tensor):
        # One without elements can still have any number of rows.
        return max(value.numel(), *value.shape, 1)
    if isinstance(value, _Name | _Storage):
        raise _Damaged(f"it holds {str(value)[:100]} itself, not a plain tensor.")
    if not isinstance(value, list | tuple | dict):
        return 1
    if depth == 0:
        raise _Damaged(f"it has lists inside each other, deeper than {_DEPTH} levels.")
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(each, depth - 1, known) for each in inner)
    return known[id(value)]
