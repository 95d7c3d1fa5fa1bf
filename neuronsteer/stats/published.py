"""Statistics from counts and means that others published."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError, StatsError, did_you_mean, shown
from ..models import SITES
from ..neuron_set.torch_files import read_torch_file
from .data import StatsData
from .files import MOST_TOKENS
from .needs import Need

log = logging.getLogger(__name__)

# What the files call the counts, and (LAPE, its successors) the number of tokens.
_COUNTS, _TOKENS = "over_zero", ("n", "total_tokens")
# What CLaS-Bench calls the mean states of a language, and the number of tokens.
_MEANS, _READ = "steering_vectors", "num_tokens"


def read_count_files(
    files: Mapping[str, str | os.PathLike[str]],
    subtract: Mapping[str, str | os.PathLike[str]],
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return counts and tokens per label, as `from_counts` takes them.

    Args:
        files: Label → file.
        subtract: Label → file whose counts and tokens are taken off; none or all labels.

    Raises:
        StatsError: If a file is missing, is not such a file, or does not go with the other.
    """
    if subtract and set(subtract) != set(files):
        odd = sorted(set(subtract) ^ set(files))
        raise StatsError(
            f"The files and those to subtract name different labels: {', '.join(map(repr, odd))} "
            f"is only in one of them."
        )
    found = {label: _read_count_file(path) for label, path in files.items()}
    for label, path in subtract.items():
        (counts, tokens), (fewer, off) = found[label], _read_count_file(path)
        if counts.shape != fewer.shape:
            raise StatsError(
                f"{Path(path).name} has counts of shape {list(fewer.shape)}, which cannot be "
                f"subtracted from {list(counts.shape)}. Give files of the same model."
            )
        found[label] = counts - fewer, tokens - off
    return {k: counts for k, (counts, _) in found.items()}, {k: n for k, (_, n) in found.items()}


def _read_count_file(path: str | os.PathLike[str]) -> tuple[Tensor, int]:
    name = Path(path).name
    content = read_torch_file(path, "a file of counts", StatsError)
    if not isinstance(content, Mapping) or _COUNTS not in content:
        keys = f" with {', '.join(map(str, content))[:200]}" if isinstance(content, Mapping) else ""
        raise StatsError(
            f"{name} holds a {type(content).__name__}{keys}; expected a dictionary with "
            f"{_COUNTS!r} and {' or '.join(map(repr, _TOKENS))}, as LAPE's activation.py writes it."
        )
    tokens = next((content[key] for key in _TOKENS if key in content), None)
    if isinstance(tokens, Tensor) and tokens.numel() == 1:
        tokens = tokens.item()
    if type(tokens) is not int:
        raise StatsError(
            f"{name} does not say how many tokens were read: {' or '.join(map(repr, _TOKENS))} is "
            f"{shown(tokens)}; expected a whole number."
        )
    return _integers(f"{_COUNTS!r} in {name}", content[_COUNTS]), tokens


def from_counts(
    counts: Mapping[str, Any],
    tokens: Mapping[str, int],
    site: str,
    clip: bool,
    header: dict[str, Any],
) -> StatsData:
    """Return statistics that hold nothing but counts.

    Raises:
        StatsError: If counts or tokens are malformed, or contradict each other.
        ParameterError: If there is no such site.
    """
    if site not in SITES:
        raise ParameterError(
            f"Unknown site {site!r}.{did_you_mean(site, SITES)} Sites: {', '.join(SITES)}."
        )
    if not counts:
        raise StatsError("There are no counts: the mapping from labels to counts is empty.")
    if set(counts) != set(tokens):
        odd = sorted(set(counts) ^ set(tokens))
        raise StatsError(
            f"Counts and tokens name different labels: {', '.join(map(repr, odd))} is only in one "
            f"of them."
        )
    labels = tuple(counts)
    totals: dict[str, int] = {}
    for label in labels:
        total = tokens[label]
        if isinstance(total, bool) or int(total) != total or not 1 <= total <= MOST_TOKENS:
            raise StatsError(
                f"tokens[{label!r}] is {shown(total)}; expected a whole number from 1 to "
                f"{MOST_TOKENS}."
            )
        totals[label] = int(total)
    parts = {label: _integers(f"counts[{label!r}]", counts[label]) for label in labels}
    shapes = {label: tuple(part.shape) for label, part in parts.items()}
    if len(set(shapes.values())) > 1:
        raise StatsError(f"Counts differ in shape: {shapes}. Expected [layers, width] for all.")
    layers, width = shapes[labels[0]]
    facts = dict(header)
    if outside := _outside(parts, totals):
        what = _described(outside, totals, len(labels) * layers * width)
        if not clip:
            raise StatsError(
                f"{what} Check that counts and tokens belong together. Differences of two runs "
                f"that were not quite the same are off by a little: clip=True accepts them, as 0 "
                f"or as the number of tokens."
            )
        log.warning("%s They were clipped.", what)
        parts = {label: part.clamp(0, totals[label]) for label, part in parts.items()}
        # With the labels, so that it goes where they go.
        known: dict[str, Any] = dict(facts.get("calibration") or {})
        for label, clipped in outside.items():
            known[label] = {**known.get(label, {}), "clipped": clipped}
        facts["calibration"] = known
    texts = facts.pop("texts", None) or {}
    widths = tuple(facts.pop("widths", None) or (width,) * layers)
    for name, value in (("num_layers", layers), ("width", width)):
        if facts.setdefault(name, value) != value:
            raise StatsError(
                f"{name}={facts[name]!r} contradicts the counts, whose shape is "
                f"[{layers}, {width}]."
            )
    if len(widths) != layers or max(widths) > width:
        raise StatsError(f"widths={widths} contradicts counts of shape [{layers}, {width}].")
    return StatsData(
        labels=labels,
        tokens=totals,
        texts={label: int(texts.get(label, 0)) for label in labels},
        site_widths={site: widths},
        arrays={Need("count", site): torch.stack([*parts.values()])},
        header=facts,
    )


def holds_means(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds the mean states of a language, as `read_mean_files` takes them.

    Raises:
        StatsError: If it is missing, damaged, or not of plain tensors.
    """
    content = read_torch_file(path, "a file of masks or of mean states", StatsError)
    return isinstance(content, Mapping) and _MEANS in content


def read_mean_files(
    files: Mapping[str, str | os.PathLike[str]],
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return means and tokens per label, as `from_means` takes them.

    Raises:
        StatsError: If a file is missing or is not such a file.
    """
    means: dict[str, Tensor] = {}
    tokens: dict[str, int] = {}
    for label, path in files.items():
        name = Path(path).name
        content = read_torch_file(path, "a file of mean states", StatsError)
        if not isinstance(content, Mapping) or _MEANS not in content:
            raise StatsError(
                f"{name} holds no {_MEANS!r}; expected a dictionary with {_MEANS!r} and {_READ!r}, "
                "as CLaS-Bench's diffmean.py writes it."
            )
        found = content[_MEANS]
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise StatsError(f"{_MEANS!r} in {name} is no tensor of fractions.")
        means[label], tokens[label] = found, content.get(_READ, 0)  # none are refused later
    return means, tokens


def from_means(
    means: Mapping[str, Tensor], tokens: Mapping[str, int], site: str, header: dict[str, Any]
) -> StatsData:
    """Return statistics that hold nothing but sums: means times tokens.

    Raises:
        StatsError: If means or tokens are malformed.
        ParameterError: If there is no such site.
    """
    if site not in SITES:
        raise ParameterError(
            f"Unknown site {site!r}.{did_you_mean(site, SITES)} Sites: {', '.join(SITES)}."
        )
    labels = tuple(means)
    for label in labels:
        count, mean = tokens.get(label), means[label]
        if type(count) is not int or not 1 <= count <= MOST_TOKENS:
            raise StatsError(
                f"tokens[{label!r}] is {shown(count)}; expected a whole number from 1 to "
                f"{MOST_TOKENS}."
            )
        if mean.dim() != 2 or not mean.numel() or mean.shape != means[labels[0]].shape:
            raise StatsError(
                f"The means of {label!r} have the shape {list(mean.shape)}; expected "
                "[layers, width], the same for all labels."
            )
        if not bool(mean.isfinite().all()):
            raise StatsError(f"The means of {label!r} are not all finite numbers.")
    if not labels:
        raise StatsError("There are no means: the mapping from labels to means is empty.")
    layers, width = means[labels[0]].shape
    return StatsData(
        labels=labels,
        tokens={label: tokens[label] for label in labels},
        texts=dict.fromkeys(labels, 0),
        site_widths={site: (width,) * layers},
        arrays={
            Need("sum", site): torch.stack([means[k].double() * tokens[k] for k in labels]),
        },
        header={"num_layers": layers, "width": width, **header},
    )


def _outside(parts: dict[str, Tensor], totals: dict[str, int]) -> dict[str, dict[str, int]]:
    """Return how many values of which labels are below 0 or above the tokens, and how far."""
    found: dict[str, dict[str, int]] = {}
    for label, part in parts.items():
        far = torch.maximum(-part, part - totals[label])
        count = int((far > 0).sum())
        if count:
            found[label] = {"values": count, "by_at_most": int(far.max())}
    return found


def _described(outside: dict[str, dict[str, int]], totals: dict[str, int], size: int) -> str:
    number = sum(each["values"] for each in outside.values())
    parts: list[str] = []
    for label, each in outside.items():
        share = 100 * each["by_at_most"] / totals[label]
        parts.append(
            f"{label!r} {each['values']}, by at most {each['by_at_most']} ({share:.3g} % of its "
            f"{totals[label]} tokens)"
        )
    return (
        f"{number} of {size} counts are not between 0 and their label's tokens: {'; '.join(parts)}."
    )


def _integers(name: str, value: Any) -> Tensor:
    try:
        found = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, huge numbers
        raise StatsError(f"{name} is not a table of whole numbers: {error}.") from error
    if found.dim() != 2 or not found.numel():
        raise StatsError(f"{name} has shape {list(found.shape)}; expected [layers, width].")
    if found.layout != torch.strided or found.is_meta:
        raise StatsError(f"{name} is sparse or has no data; expected a plain tensor.")
    whole = found.to(torch.int64)
    odd = found.is_complex() or found.dtype == torch.bool
    if odd or not torch.equal(whole.to(found.dtype), found):
        raise StatsError(f"{name} holds values that are not whole numbers.")
    return whole.cpu()
