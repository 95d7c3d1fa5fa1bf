"""The neuron set on disk: config and row columns ⇄ bytes, and telling what a folder really is.

Works on plain dictionaries and tensors. `NeuronSet` validates what they mean; here it is checked
that the files are there, readable, of a known format version and of the right types.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import ArtifactError
from ..hub import read_json, read_tensors, write_folder
from .packed_columns import OWNERS, pack_columns, unpack_columns
from .validation import check_size, integers

CONFIG = "adapter_config.json"
TENSORS = "neurons.safetensors"
CARD = "README.md"
#: Version 1 had the mean of the other labels in place of every label's mean, and 2.0 a label for
#: every row; both are still read.
FORMAT_VERSION = "2.1"
_READABLE = (1, 2)
PEFT_TYPE = "NEURONSTEER"
BLOCK = "neuronsteer"
_STAMP = "neuronsteer_fingerprint"
INTEGERS = ("label", "layer", "index")

#: What helps against damage. Downloading again needs to be said, for the cache is damaged, too.
AGAIN = "Save the set again, or load it with force_download=True."

_REQUIRED = ("format_version", "labels", "site", "num_layers", "width")
# Fields of a neuron set that are written into the block under the same name.
_FIELDS = (
    "model_type",
    "num_layers",
    "width",
    "widths",
    "labels",
    "site",
    "method",
    "calibration",
    "means_of",
    "source",
    "operation",
    "strengths",
    "switch",
    "schedule",
    "evaluation",
    "orphans",
)
# Fields written at the top level, where PEFT and the Hub look for them.
_TOP = {
    "base_model": "base_model_name_or_path",
    "base_revision": "base_model_revision",
    "target_modules": "target_modules",
}
_INFORMATIVE = ("format_version", "neuronsteer_version", "fingerprint")


def package_version() -> str:
    """Return the installed version of this package, or `"0+unknown"` in a bare source tree."""
    try:
        return version("neuronsteer")
    except PackageNotFoundError:
        return "0+unknown"


def write(
    folder: str | Path,
    header: Mapping[str, Any],
    columns: Mapping[str, torch.Tensor],
    *,
    fingerprint: str,
    card: str | None = None,
    entries: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write a neuron set into `folder` (made if needed) and return the folder.

    A crash leaves either the old artifact, the new one, or one that is refused on loading: the
    fingerprint is written into both files.

    Args:
        folder: Where to.
        header: The fields that are not row columns.
        columns: The row columns.
        fingerprint: What ties the files together.
        card: Text of the card; `None` leaves it alone.
        entries: More top-level entries of the config, for PEFT.
        files: More files, for PEFT and the Hub.
    """
    block: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "neuronsteer_version": package_version(),
        "fingerprint": fingerprint,
    }
    block.update({name: header[name] for name in _FIELDS if header.get(name) not in (None, (), {})})
    config: dict[str, Any] = {
        "peft_type": PEFT_TYPE,
        "task_type": "CAUSAL_LM",
        **{key: header.get(name) for name, key in _TOP.items()},
        "inference_mode": True,
        "peft_version": None,
        **(entries or {}),
        BLOCK: block,
    }
    bounds = (len(header["labels"]), header["num_layers"], header["width"])
    tensors = pack_columns(columns, len(header["labels"]), header["width"])
    for name, bound in zip(INTEGERS, bounds, strict=True):
        if name in tensors:
            # The smallest type that holds the bound: much of a set's size is these three.
            small = torch.int16 if bound <= torch.iinfo(torch.int16).max else torch.int32
            tensors[name] = tensors[name].to(small)
    # One metadata key only: safetensors writes several in random order, and the same set should
    # give the same bytes.
    data = {TENSORS: safetensors.torch.save(tensors, metadata={_STAMP: fingerprint})}
    data.update(files or {})
    if card is not None:
        data[CARD] = card.encode()
    # Last, because a folder without it is not an artifact.
    data[CONFIG] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return write_folder(folder, data)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], str | None]:
    """Return `(header, columns, fingerprint)` of the neuron set in `folder`.

    The fingerprint is the one that was written, `None` if another program left it out.

    Raises:
        ArtifactError: If the folder holds something else, or a file is damaged; the message names
            the file and the field.
    """
    config = read_config(folder)
    header, fingerprint = _read_header(config)
    columns, stamp = _read_columns(folder / TENSORS, header["width"])
    if fingerprint is not None and stamp is not None and fingerprint != stamp:
        raise ArtifactError(
            f"Field 'fingerprint': {CONFIG} says {str(fingerprint)[:12]}…, {TENSORS} says "
            f"{stamp[:12]}…: the two files come from different sets (an interrupted save?). "
            f"{AGAIN}"
        )
    return header, columns, stamp if fingerprint is None else str(fingerprint)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config of the neuron set in `folder`, or raise with what the folder is instead."""
    path = folder / CONFIG
    if not path.is_file():
        raise ArtifactError(explain(_names(folder)))
    config = read_json(path, ArtifactError)
    peft_type = config.get("peft_type")
    if BLOCK not in config and peft_type is not None and peft_type != PEFT_TYPE:
        raise ArtifactError(
            f"{CONFIG} describes a PEFT adapter of type {peft_type}, not a neuron set. Load it "
            "with peft.PeftModel.from_pretrained(model, path)."
        )
    if BLOCK not in config and peft_type == PEFT_TYPE and "label" in config:
        raise ArtifactError(
            f"{CONFIG} describes one label of a neuron set ({config.get('label')!r}), as a PEFT "
            "adapter. Load the whole set from the folder above, or the adapter with "
            "peft.PeftModel.from_pretrained(model, path)."
        )
    if not isinstance(config.get(BLOCK), dict):
        raise ArtifactError(
            f"{CONFIG} has no block {BLOCK!r} (found: {', '.join(config) or 'nothing'}): the "
            "folder is not a neuron set, or the file was rewritten by another program."
        )
    return config


def _read_header(config: dict[str, Any]) -> tuple[dict[str, Any], object]:
    block: dict[str, Any] = config[BLOCK]
    for name in _REQUIRED:
        if name not in block:
            raise ArtifactError(f"{CONFIG}: field '{BLOCK}.{name}' is missing.")
    newer = _check_format(block["format_version"])
    # Before the row columns are read, which take memory that depends on these.
    for name in ("num_layers", "width"):
        check_size(name, block[name])
    unknown = [name for name in block if name not in _FIELDS + _INFORMATIVE]
    if unknown:
        warnings.warn(
            f"{CONFIG}: ignoring unknown field{'s' if len(unknown) > 1 else ''} "
            f"{', '.join(map(repr, unknown))} in block {BLOCK!r}"
            + (f" (written by format {block['format_version']}; update neuronsteer)" * newer),
            stacklevel=2,
        )
    header = {name: block[name] for name in _FIELDS if name in block}
    header.update({name: config[key] for name, key in _TOP.items() if config.get(key) is not None})
    return header, block.get("fingerprint")


def _check_format(found: object) -> bool:
    """Return whether `found` is a newer minor version; raise if it cannot be read."""
    try:
        major, minor = (int(part) for part in str(found).split("."))
    except ValueError:
        raise ArtifactError(
            f"{CONFIG}: field '{BLOCK}.format_version' is {found!r}; expected e.g. "
            f"{FORMAT_VERSION!r}."
        ) from None
    known_major, known_minor = (int(part) for part in FORMAT_VERSION.split("."))
    if major not in _READABLE:
        readable = " and ".join(f"{each}.x" for each in _READABLE)
        raise ArtifactError(
            f"{CONFIG}: field '{BLOCK}.format_version' is {found!r}, but this neuronsteer "
            f"({package_version()}) reads {readable}. "
            + ("Update neuronsteer." if major > known_major else "Detect the set again.")
        )
    return (major, minor) > (known_major, known_minor)


def _read_columns(path: Path, width: int) -> tuple[dict[str, torch.Tensor], str | None]:
    if not path.is_file():
        raise ArtifactError(
            f"{TENSORS} is missing (the folder has {_listing(_names(path.parent))}): the row "
            f"columns are in it. {AGAIN}"
        )
    columns, metadata = read_tensors(path, ArtifactError, AGAIN)
    needed = (OWNERS if OWNERS in columns else "label", "layer", "index", "score")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ArtifactError(
            f"{TENSORS}: column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing "
            f"(found: {', '.join(sorted(columns)) or 'none'})."
        )
    # What they name is checked with the header; here, that they are columns of one table.
    present = [name for name in INTEGERS if name in columns]
    for name in present:
        columns[name] = integers(name, columns[name])
        if len(columns[name]) != len(columns[present[0]]):
            raise ArtifactError(
                f"Column {name!r} has {len(columns[name])} rows, but {present[0]!r} has "
                f"{len(columns[present[0]])}."
            )
    return unpack_columns(columns, width, path.stat().st_size), metadata.get(_STAMP)


def explain(names: Iterable[str], where: str = "folder") -> str:
    """Return what files called `names` are instead of a neuron set, and what loads them."""
    names = set(names)
    suffixes = {name.rpartition(".")[2] for name in names}
    below = sorted(name[: -len(TENSORS) - 1] for name in names if name.endswith(f"/{TENSORS}"))
    if below:
        hint = (
            f"it has neuron sets in subfolders. Pass one of them: "
            f"{', '.join(f'subfolder={name!r}' for name in below[:8])}."
        )
    elif "stats.json" in names or "stats.safetensors" in names:
        hint = (
            "it holds statistics. Load them with Stats.load(path), then detect(stats) makes a "
            "neuron set of them."
        )
    elif "config.json" in names:
        hint = (
            "it holds a full model. Load it with AutoModelForCausalLM.from_pretrained(path); "
            "a neuron set is attached to a model, it is not one."
        )
    elif "gguf" in suffixes:
        hint = "it holds a model for llama.cpp (GGUF), which cannot be steered here."
    elif suffixes & {"pth", "pt"}:
        hint = (
            "it holds PyTorch files. If they are masks published by a paper, import them with "
            "`neuronsteer convert FILE --labels a,b,…`."
        )
    elif TENSORS in names:
        hint = f"{TENSORS} is there but {CONFIG} is not: an interrupted save or download."
    else:
        hint = f"it has {_listing(names)}."
    return f"No {CONFIG} in the {where}, so it is not a neuron set: {hint}"


def _names(folder: Path) -> list[str]:
    below = folder.glob(f"*/{TENSORS}")
    return [entry.name for entry in folder.iterdir()] + [
        path.relative_to(folder).as_posix() for path in below
    ]


def _listing(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "no files"
