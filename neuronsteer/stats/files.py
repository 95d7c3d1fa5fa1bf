"""Statistics on disk: `stats.json` for the facts, `stats.safetensors` for the numbers."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import StatsError, shown
from ..hub import read_json, read_tensors, write_file
from ..neuron_set.validation import MOST
from .data import StatsData
from .needs import Need
from .reducers import REDUCERS

FORMAT = 1
FACTS, NUMBERS = "stats.json", "stats.safetensors"
#: Counts are int64, and sums of them are compared with tokens.
MOST_TOKENS = 1 << 62
_OBJECTS = ("policy", "calibration", "experts", "codec")


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file completely or not at all."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_file(path, lambda temporary: save_file(ready, temporary, metadata=metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Raises:
        StatsError: If it is missing or damaged.
    """
    return read_tensors(path, StatsError)


def write(folder: Path, stats: StatsData) -> Path:
    """Write statistics into a folder; return it."""
    if folder.exists() and not folder.is_dir():
        raise StatsError(f"{str(folder)!r} is a file; statistics are saved as a folder.")
    tensors = {f"array/{need}": array for need, array in stats.arrays.items()}
    tensors |= {f"routed/{site}": array for site, array in stats.routed.items()}
    tensors |= {f"weight_measure/{need}": array for need, array in stats.weight_measures.items()}
    for need, rows in stats.rows.items():
        # By position: a label may hold any character.
        tensors |= {f"rows/{need}/{i}": rows[label] for i, label in enumerate(stats.labels)}
    # The two files belong together; a crash between writing them must not go unnoticed.
    save = secrets.token_hex(8)
    save_tensors(folder / NUMBERS, tensors, {"format": "pt", "save": save})
    facts = {
        "format": FORMAT,
        "save": save,
        "labels": list(stats.labels),
        "tokens": [stats.tokens[label] for label in stats.labels],
        "texts": [stats.texts[label] for label in stats.labels],
        "site_widths": {site: list(widths) for site, widths in stats.site_widths.items()},
        "header": stats.header,
    }
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    write_file(folder / FACTS, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return folder


def read(folder: Path) -> StatsData:
    """Return the statistics that `write` wrote, checked.

    Raises:
        StatsError: If the folder is not there, damaged, or of a newer format.
    """
    facts = _facts(folder)
    labels = _labels(facts)
    site_widths = _widths(facts)
    tensors, metadata = load_tensors(folder / NUMBERS)
    if metadata.get("save") != facts.get("save"):
        raise StatsError(
            f"{FACTS} and {NUMBERS} in {str(folder)!r} are not from the same save: writing was "
            f"interrupted or the files were mixed. Save or collect again."
        )
    stats = StatsData(
        labels=labels,
        tokens=_numbers(facts, "tokens", labels, least=1),
        texts=_numbers(facts, "texts", labels, least=0),
        site_widths=site_widths,
        header=_header(facts, labels, site_widths),
    )
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("/")
        if kind == "array":
            need = _need(name, rest, site_widths)
            _shape(name, tensor, (len(labels), *_size(site_widths[need.site]), *_entry(need)))
            _sound(name, tensor, need, stats.tokens)
            stats.arrays[need] = tensor
        elif kind == "routed":
            experts = stats.header.get("experts", {}).get(rest)
            if experts is None:
                raise StatsError(
                    f"Tensor {name!r}: the header says nothing of experts at {rest!r}."
                )
            most = max(block["num_experts"] for block in experts if block)
            _shape(name, tensor, (len(labels), len(experts), most))
            # How many tokens an expert got.
            _sound(name, tensor, Need("count", rest), stats.tokens)
            stats.routed[rest] = tensor
        elif kind == "weight_measure":
            need = _need(name, rest, site_widths)
            _shape(name, tensor, _size(site_widths[need.site]))
            _sound(name, tensor, need, stats.tokens)
            stats.weight_measures[need] = tensor
        elif kind == "rows":
            key, _, position = rest.rpartition("/")
            need = _need(name, key, site_widths)
            if tensor.dim() != 3 or not position.isdecimal() or int(position) >= len(labels):
                raise StatsError(f"Tensor {name!r} is not [texts, layers, width] of a label.")
            _shape(name, tensor, (len(tensor), *_size(site_widths[need.site])))
            _no_nan(name, tensor)
            stats.rows.setdefault(need, {})[labels[int(position)]] = tensor
        else:
            raise StatsError(f"{NUMBERS} holds an unknown tensor {shown(name)}.")
    for need, rows in stats.rows.items():
        if set(rows) != set(labels):
            raise StatsError(f"{NUMBERS} lacks the rows of {need} of some labels.")
    return stats


def _facts(folder: Path) -> dict[str, Any]:
    path = folder / FACTS
    if not path.is_file():
        listing = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else None
        found = f"it holds {listing or 'nothing'}" if listing is not None else "no such folder"
        raise StatsError(
            f"{str(folder)!r} does not hold statistics ({found}); expected {FACTS} and {NUMBERS}, "
            f"as 'neuronsteer collect' writes them."
        )
    facts = read_json(path, StatsError)
    version = facts.get("format")
    if type(version) is not int or version < 1:
        raise StatsError(f"Field 'format' of {str(path)!r} is {shown(version)}; expected {FORMAT}.")
    if version > FORMAT:
        raise StatsError(
            f"{str(path)!r} has format {version}, this neuronsteer reads up to {FORMAT}. Update "
            f"with pip install -U neuronsteer."
        )
    return facts


def _labels(facts: dict[str, Any]) -> tuple[str, ...]:
    labels = facts.get("labels")
    if (
        not isinstance(labels, list)
        or not labels
        or not all(isinstance(label, str) and label for label in labels)
        or len(set(labels)) < len(labels)
        or len(labels) > MOST["labels"]
    ):
        raise StatsError(
            f"Field 'labels' is {shown(labels)}; expected a list of different names, at most "
            f"{MOST['labels']:,}."
        )
    return tuple(labels)


def _widths(facts: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    found = _object(facts, "site_widths")
    for site, widths in found.items():
        if not _are_widths(widths):
            raise StatsError(
                f"Field 'site_widths' has {shown(widths)} for {shown(site)}; expected a number of "
                f"neurons up to {MOST['width']:,} for each of up to {MOST['num_layers']:,} layers."
            )
    if not found or len({len(widths) for widths in found.values()}) > 1:
        raise StatsError(f"Field 'site_widths' is {shown(found)}; expected one number per layer.")
    return {site: tuple(widths) for site, widths in found.items()}


def _are_widths(found: Any) -> bool:
    return (
        isinstance(found, list)
        and 0 < len(found) <= MOST["num_layers"]
        and all(type(width) is int and 0 <= width <= MOST["width"] for width in found)
        and any(found)
    )


def _header(
    facts: dict[str, Any], labels: tuple[str, ...], site_widths: dict[str, tuple[int, ...]]
) -> dict[str, Any]:
    """Return the header, the types of what is read from it checked; other fields are kept."""
    found = _object(facts, "header")
    # An object that is null says as little as none, which readers expect then.
    found: dict[str, Any] = {k: v for k, v in found.items() if v is not None or k not in _OBJECTS}
    for names, kind in (
        (("model_type", "base_model", "revision"), str),
        (("gated",), bool),
        (_OBJECTS, dict),
    ):
        for name in names:
            if found.get(name) is not None and not isinstance(found[name], kind):
                raise _wrong(name, found[name], f"a value of type {kind.__name__}, or null")
    layers = len(next(iter(site_widths.values())))
    widths = found.get("widths")
    if widths is not None and not (_are_widths(widths) and len(widths) == layers):
        raise _wrong("widths", widths, f"a number for each of {layers} layers")
    for label in labels:
        if not isinstance(found.get("calibration", {}).get(label, {}), dict):
            raise _wrong("calibration", found["calibration"], "an object for each label")
    for site, blocks in found.get("experts", {}).items():
        sizes = site_widths.get(site, ())
        if not (
            isinstance(blocks, list)
            and len(blocks) == len(sizes)
            and any(blocks)
            and all(each is None or _is_block(each, max(sizes)) for each in blocks)
        ):
            raise _wrong("experts", blocks, "num_experts and expert_width, or null, per layer")
    return found


def _is_block(found: Any, width: int) -> bool:
    if not isinstance(found, dict):
        return False
    count, size = found.get("num_experts"), found.get("expert_width")
    numbers = [each for each in (count, size) if type(each) is int and each > 0]
    return len(numbers) == 2 and numbers[0] * numbers[1] <= width


def _wrong(name: str, found: object, expected: str) -> StatsError:
    return StatsError(f"Field {name!r} of the header is {shown(found)}; expected {expected}.")


def _object(facts: dict[str, Any], name: str) -> dict[str, Any]:
    found = facts.get(name)
    if not isinstance(found, dict):
        raise StatsError(f"Field {name!r} is {shown(found)}; expected an object.")
    return found


def _numbers(
    facts: dict[str, Any], name: str, labels: tuple[str, ...], least: int
) -> dict[str, int]:
    found = facts.get(name)
    if (
        not isinstance(found, list)
        or len(found) != len(labels)
        or not all(type(value) is int and least <= value <= MOST_TOKENS for value in found)
    ):
        raise StatsError(
            f"Field {name!r} is {shown(found)}; expected {len(labels)} whole numbers from {least}."
        )
    return dict(zip(labels, found, strict=True))


def _need(name: str, text: str, site_widths: dict[str, tuple[int, ...]]) -> Need:
    need = Need.parse(text)
    if need.site not in site_widths:
        raise StatsError(f"Tensor {name!r} is at {need.site!r}, which 'site_widths' does not list.")
    return need


def _size(widths: tuple[int, ...]) -> tuple[int, int]:
    return len(widths), max(widths)


def _entry(need: Need) -> tuple[int, ...]:
    if need.reducer not in REDUCERS:
        raise StatsError(
            f"There is no reducer {shown(need.reducer)}; known are {', '.join(REDUCERS.names())}. "
            "Install the plugin that it comes from."
        )
    return REDUCERS.get(need.reducer).entry_shape


def _shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise StatsError(
            f"Tensor {name!r} has shape {list(tensor.shape)}; expected {list(expected)}."
        )


def _sound(name: str, tensor: Tensor, need: Need, tokens: dict[str, int]) -> None:
    if need.reducer == "count":
        limits = torch.tensor(list(tokens.values())).view(-1, *[1] * (tensor.dim() - 1))
        if tensor.dtype != torch.int64 or bool(((tensor < 0) | (tensor > limits)).any()):
            raise StatsError(
                f"Tensor {name!r} holds counts ({tensor.dtype}) that are negative or exceed the "
                f"label's tokens."
            )
    else:
        _no_nan(name, tensor)


def _no_nan(name: str, tensor: Tensor) -> None:
    if bool(torch.isnan(tensor).any()):
        raise StatsError(f"Tensor {name!r} contains NaN.")
