"""A checkpoint on disk: read single tensors, and rewrite shards without loading them.

A rewritten shard is streamed: bytes of untouched tensors are copied as they are, and only a changed
tensor is ever in memory.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import HubError, ParameterError, shown
from ..hub import read_json, stays_inside

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
#: Changes a tensor in place.
TensorEdit = Callable[[Tensor], object]

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ENDING = ".safetensors"
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Entry:
    """One tensor in a file: its type, shape and absolute byte range."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Checkpoint:
    """The safetensors files of one model.

    Args:
        fetch: Returns the local path of a file of the checkpoint, or `None` if it has no such
            file. Files of a Hub repository are downloaded when they are first needed.
        name: What messages call it.
    """

    def __init__(self, fetch: Callable[[str], Path | None], name: str) -> None:
        self._fetch = fetch
        self._name = name
        self._headers: dict[str, tuple[dict[str, Entry], dict[str, str]]] = {}
        self.where: dict[str, str] = {}
        self.index: dict[str, Any] | None = None
        if (single := fetch(SINGLE)) is not None:
            self.where = dict.fromkeys(self._header(SINGLE, single)[0], SINGLE)
        elif (path := fetch(INDEX)) is not None:
            self.index = read_json(path, HubError)
            self.where = _weight_map(self.index, f"{INDEX} of {name!r}")
        else:
            raise HubError(
                f"{name!r} has no {SINGLE} and no {INDEX}, so its weights cannot be read one by "
                "one. Load it with AutoModelForCausalLM and pass the model instead of its path."
            )

    @classmethod
    def of(cls, folder: Path) -> Checkpoint:
        """Return the checkpoint in a local folder."""

        def fetch(name: str) -> Path | None:
            path = folder / name
            return path if path.is_file() else None

        return cls(fetch, str(folder))

    @property
    def files(self) -> list[str]:
        """Names of the files that hold tensors."""
        return sorted(set(self.where.values()))

    def path(self, file: str) -> Path:
        """Return the local path of one of `files`."""
        found = self._fetch(file)
        if found is None:
            raise HubError(f"The checkpoint {self._name!r} lacks the shard {file!r} of its index.")
        return found

    def bytes_of(self, file: str) -> int:
        """Return the size of one of `files`."""
        return self.path(file).stat().st_size

    def find(self, parameter: str) -> str | None:
        """Return the key under which a parameter is stored, or `None`.

        Old checkpoints leave out the model's first prefix (`h.0…` for `transformer.h.0…`), and
        multimodal ones put another before it, so the longest common ending decides.
        """
        if parameter in self.where:
            return parameter
        fitting = [
            key
            for key in self.where
            if parameter.endswith("." + key) or key.endswith("." + parameter)
        ]
        return fitting[0] if len(fitting) == 1 else None

    def key(self, parameter: str) -> str:
        """Return the key of a parameter that must be there."""
        found = self.find(parameter)
        if found is None:
            raise HubError(
                f"The checkpoint {self._name!r} has no tensor {parameter!r} under this or a "
                f"similar name (it has e.g. {next(iter(self.where), 'nothing')!r}). Load it with "
                "AutoModelForCausalLM and pass the model instead of its path."
            )
        return found

    def entry(self, key: str) -> Entry:
        """Return type and shape of a tensor."""
        file = self.where[key]
        return self._header(file, self.path(file))[0][key]

    def read(self, key: str, index: int | None = None) -> Tensor:
        """Return one tensor, or only its part `[index]`."""
        self.check_dtype(key)
        with safe_open(str(self.path(self.where[key])), framework="pt") as file:
            return file.get_tensor(key) if index is None else file.get_slice(key)[index]

    def check_dtype(self, key: str) -> torch.dtype:
        """Return the type of a tensor, or raise if it is not a plain floating-point one."""
        dtype = self.entry(key).dtype
        if dtype not in _DTYPES:
            raise ParameterError(
                f"The tensor {key!r} is stored as {dtype}: quantised weights cannot be rewritten "
                "exactly. Start from the checkpoint in 16 or 32 bits and quantise the result."
            )
        return _DTYPES[dtype]

    def _header(self, file: str, path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
        if file not in self._headers:
            found = read_header(path)
            lacking = [k for k, each in self.where.items() if each == file and k not in found[0]]
            if lacking:
                raise HubError(
                    f"The shard {file!r} of {self._name!r} lacks {len(lacking)} of the tensors "
                    f"that the index says are in it, e.g. {shown(lacking[0])}. Download it again."
                )
            self._headers[file] = found
        return self._headers[file]

    def rewrite(
        self,
        target: Path,
        edits: Mapping[str, Sequence[TensorEdit]],
        added: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        """Write the checkpoint into the folder `target`, which may be its own.

        Args:
            target: Folder.
            edits: Key → functions that change the tensor in place, applied in order.
            added: File → new tensors that go into it.
        """
        touched = {self.where[key] for key in edits} | set(added)
        for file in self.files:
            source, destination = self.path(file), target / file
            destination.parent.mkdir(parents=True, exist_ok=True)
            if file in touched:
                mine = {key: edits[key] for key in edits if self.where[key] == file}
                self._stream(file, source, destination, mine, added.get(file, {}))
            elif source.resolve() != destination.resolve():
                self._header(file, source)  # a shard, whatever else may be called so
                shutil.copyfile(source, destination)
        if self.index is not None:
            (target / INDEX).write_text(json.dumps(self._new_index(added), indent=2) + "\n")

    def _new_index(self, added: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
        index = dict(self.index or {})
        new = {key: file for file, tensors in added.items() for key in tensors}
        index["weight_map"] = dict(sorted({**self.where, **new}.items()))
        metadata = dict(index.get("metadata") or {})
        tensors = [tensor for group in added.values() for tensor in group.values()]
        if isinstance(metadata.get("total_size"), int):
            metadata["total_size"] += sum(t.numel() * t.element_size() for t in tensors)
        if isinstance(metadata.get("total_parameters"), int):
            metadata["total_parameters"] += sum(t.numel() for t in tensors)
        index["metadata"] = metadata
        return index

    def _stream(
        self,
        file: str,
        source: Path,
        destination: Path,
        edits: Mapping[str, Sequence[TensorEdit]],
        added: Mapping[str, Tensor],
    ) -> None:
        entries, metadata = self._header(file, source)
        sizes = {key: entry.end - entry.start for key, entry in entries.items()}
        described: dict[str, dict[str, Any]] = {
            key: {"dtype": entry.dtype, "shape": list(entry.shape)}
            for key, entry in entries.items()
        }
        for key, tensor in added.items():
            described[key] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
            sizes[key] = tensor.numel() * tensor.element_size()
        # Wide types first, as the reference writer orders them, so that every tensor is aligned.
        order = sorted(described, key=lambda key: (-_width(described[key]["dtype"]), key))
        offset = 0
        for key in order:
            described[key]["data_offsets"] = [offset, offset + sizes[key]]
            offset += sizes[key]
        header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
        text = json.dumps({**header, **{key: described[key] for key in order}}).encode()
        text += b" " * (-len(text) % 8)
        part = destination.with_name(destination.name + ".part")
        with part.open("wb") as out, source.open("rb") as raw:
            out.write(struct.pack("<Q", len(text)) + text)
            for key in order:
                if key in added:
                    _write(out, added[key])
                elif key in edits:
                    _write(out, self._edited(source, key, edits[key]))
                else:
                    _copy(raw, out, entries[key])
        part.replace(destination)

    def _edited(self, source: Path, key: str, edits: Sequence[TensorEdit]) -> Tensor:
        self.check_dtype(key)
        with safe_open(str(source), framework="pt") as file:
            tensor = file.get_tensor(key).clone()
        for edit in edits:
            edit(tensor)
        return tensor


def _weight_map(index: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return tensor → shard of an index, whose files are read, and written under the same names."""
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise HubError(f"{where}: field 'weight_map' is {shown(found)}; expected tensors' files.")
    if not isinstance(index.get("metadata") or {}, dict):
        raise HubError(f"{where}: field 'metadata' is {shown(index['metadata'])}.")
    for file in found.values():
        if not isinstance(file, str) or not file.endswith(_ENDING) or not stays_inside(file):
            raise HubError(
                f"{where} names the file {shown(file)}; expected a {_ENDING} file in the "
                "checkpoint's own folder. Nothing was read or written there."
            )
    return found


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return `(entries, metadata)` of a safetensors file."""
    try:
        with safe_open(str(path), framework="pt"):
            pass  # validates the file; what follows only reads positions
    except (SafetensorError, OSError) as error:
        raise HubError(f"{str(path)!r} is not a readable safetensors file: {error}.") from error
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    return {
        key: Entry(
            value["dtype"],
            tuple(value["shape"]),
            8 + length + value["data_offsets"][0],
            8 + length + value["data_offsets"][1],
        )
        for key, value in header.items()
    }, metadata


def _width(dtype: str) -> int:
    """Return the size of an element in bytes, from the digits in its type's name."""
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return int(digits or 8) // 8


def _write(out: BinaryIO, tensor: Tensor) -> None:
    out.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _copy(raw: BinaryIO, out: BinaryIO, entry: Entry) -> None:
    raw.seek(entry.start)
    left = entry.end - entry.start
    while left:
        block = raw.read(min(left, _CHUNK))
        if not block:
            raise HubError("A shard ended early while it was copied; is it being written to?")
        out.write(block)
        left -= len(block)
