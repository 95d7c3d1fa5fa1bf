"""What a neuron set's fields may hold: types, ranges, finite numbers.

Every check names the field, because these files are written by other programs too.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from ..errors import ArtifactError, NeuronSteerError, shown
from ..operations import OPERATIONS, operation
from . import row_math
from .value_columns import DIRECTION, MEANS, OTHERS, PROMPT, check_name

INTEGER_COLUMNS = ("label", "layer", "index")
#: Generous for any model, and small enough for tables of labels times layers.
MOST = {"num_layers": 1_024, "width": 1 << 26, "labels": 10_000}
_MOST_ORPHANS = 1 << 53
_LONGEST_BEGINNING = 1_024


def clean_header(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validated header fields of a neuron set, JSON parts copied."""
    labels = _strings("labels", fields["labels"])
    if not labels:
        raise ArtifactError("Field 'labels' is empty: a neuron set needs at least one label.")
    if len(labels) > MOST["labels"]:
        raise ArtifactError(
            f"Field 'labels' has {len(labels):,} names; expected at most {MOST['labels']:,}."
        )
    repeated = sorted(name for name, times in Counter(labels).items() if times > 1)
    if repeated:
        raise ArtifactError(f"Field 'labels' repeats {', '.join(map(repr, repeated[:20]))}.")
    if "" in labels:
        raise ArtifactError("Field 'labels' contains an empty name.")
    clean: dict[str, Any] = {"labels": labels, "site": fields["site"]}
    if not _is_text(clean["site"]) or not clean["site"]:
        raise ArtifactError(f"Field 'site' is {shown(clean['site'])}; expected e.g. 'mlp.neuron'.")
    for name in ("num_layers", "width"):
        clean[name] = check_size(name, fields[name])
    clean["orphans"] = _integer("orphans", fields["orphans"], least=0, most=_MOST_ORPHANS)
    for name in ("model_type", "base_model", "base_revision"):
        clean[name] = fields[name]
        if clean[name] is not None and not _is_text(clean[name]):
            raise ArtifactError(f"Field {name!r} is {shown(clean[name])}; expected text or null.")
    clean["widths"] = _widths(fields["widths"], clean["num_layers"], clean["width"])
    modules = fields["target_modules"]
    clean["target_modules"] = None if modules is None else _strings("target_modules", modules)
    clean["means_of"] = _strings("means_of", fields["means_of"])
    if len(set(clean["means_of"])) != len(clean["means_of"]):
        raise ArtifactError(f"Field 'means_of' repeats a label ({', '.join(clean['means_of'])}).")
    clean["source"] = fields["source"]
    if clean["source"] is not None and not isinstance(clean["source"], str):
        raise ArtifactError(f"Field 'source' is {shown(clean['source'])}; expected text or null.")
    if clean["source"] not in (None, OTHERS, PROMPT, *clean["means_of"]):
        raise ArtifactError(
            f"Field 'source' is {clean['source']!r}; expected {OTHERS!r}, {PROMPT!r}, or a label "
            f"in 'means_of' ({', '.join(clean['means_of']) or 'none'})."
        )
    for name in ("method", "operation", "calibration"):
        clean[name] = _json_object(name, fields[name])
    for name in ("method", "operation"):
        if not isinstance(clean[name].get("name"), str):
            raise ArtifactError(f"Field {name!r} has no 'name' (found {shown(clean[name])}).")
    _check_operation(clean["operation"])
    clean["strengths"] = _json_object("strengths", fields["strengths"])
    for name, strength in clean["strengths"].items():
        if name not in labels:
            raise ArtifactError(f"Field 'strengths' names {name!r}, which is not a label.")
        if not _is_strength(strength):
            raise ArtifactError(
                f"Field 'strengths' has {shown(strength)} for {name!r}; expected a number >= 0."
            )
    clean["switch"] = _switch(fields["switch"])
    # Empty ones say nothing, and are not written.
    evaluation = {} if fields["evaluation"] is None else fields["evaluation"]
    clean["evaluation"] = _json_object("evaluation", evaluation) or None
    schedule = fields["schedule"]
    if schedule is not None and not _is_text(schedule):
        schedule = _json_object("schedule", schedule) or None
    clean["schedule"] = schedule
    return clean


def _switch(value: Any) -> dict[str, Any]:
    switch = _json_object("switch", value)
    tokens = switch.get("tokens")
    if switch and not (
        switch.keys() == {"strength", "tokens"}
        and _is_strength(switch["strength"])
        and isinstance(tokens, int)
        and not isinstance(tokens, bool)
        and 0 < tokens <= _LONGEST_BEGINNING
    ):
        raise ArtifactError(
            f"Field 'switch' is {shown(switch)}; expected how much more strongly a switch begins, "
            f"and for how many tokens (1 to {_LONGEST_BEGINNING}): "
            '{"strength": 1.4, "tokens": 8}.'
        )
    return switch


def _is_strength(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < math.inf


def clean_columns(fields: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validated row columns, sorted by label, layer and index."""
    labels: tuple[str, ...] = header["labels"]
    num_layers, width = header["num_layers"], header["width"]
    rows = [integers(name, fields[name]) for name in INTEGER_COLUMNS]
    floats = {"score": _floats("score", fields["score"])}
    if not isinstance(fields["values"], Mapping):
        raise ArtifactError(f"Field 'values' is {fields['values']!r}; expected columns by name.")
    for name, column in fields["values"].items():
        check_name(name, (*INTEGER_COLUMNS, "score"))
        floats[name] = _floats(name, column)
        if name.endswith(f".{MEANS}") and floats[name].shape[1:] != (len(header["means_of"]),):
            raise ArtifactError(
                f"Column {name!r} has shape {list(floats[name].shape)}, but 'means_of' has "
                f"{len(header['means_of'])} labels; expected one column for each."
            )
    named = dict(zip(INTEGER_COLUMNS, rows, strict=True)) | floats
    for name, column in named.items():
        if len(column) != len(rows[0]):
            raise ArtifactError(
                f"Column {name!r} has {len(column)} rows, but 'label' has {len(rows[0])}."
            )
    label, layer, index = rows
    row_math.check_rows(labels, label, layer, index, header["widths"] or (width,) * num_layers)
    keys, order = row_math.row_keys(label, layer, index, num_layers, width).sort()
    label, layer, index = label[order], layer[order], index[order]
    row_math.check_unique(labels, keys, label, (layer, index))
    for name, column in floats.items():
        bad = ~column.isfinite()
        if bool(bad.any()):
            place = tuple(bad.nonzero()[0].tolist())
            raise ArtifactError(
                f"Column {name!r}: {int(bad.sum())} values are not finite (row {place[0]}: "
                f"{float(column[place])}). The statistics behind it overflowed or are damaged."
            )
    floats = {name: column[order] for name, column in floats.items()}
    score = floats.pop("score")
    values = {name: floats[name] for name in sorted(floats)}
    return {"label": label, "layer": layer, "index": index, "score": score, "values": values}


def check_size(name: str, value: Any) -> int:
    """Return a number of layers or neurons, or raise if it is none that a model could have."""
    return _integer(name, value, least=1, most=MOST[name])


def _integer(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ArtifactError(
            f"Field {name!r} is {shown(value)}; expected a whole number from {least} to {most}."
        )
    return value


def _is_text(value: Any) -> bool:
    """Return whether `value` is a text that can be written into a file."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def _check_operation(spec: dict[str, Any]) -> None:
    """Raise if the operation is one that is known here and cannot be made."""
    if spec["name"] not in OPERATIONS:
        return  # a plugin's, which may be installed where the set is used
    try:
        made = operation(spec)
    except NeuronSteerError as error:
        raise ArtifactError(f"Field 'operation': {error}") from error
    if made.site is not None and not isinstance(cast(object, made.site), str):
        raise ArtifactError(f"Field 'operation' has site={shown(made.site)}; expected text.")


def _strings(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(map(_is_text, value)):
        raise ArtifactError(f"Field {name!r} is {shown(value)}; expected a list of texts.")
    return tuple(value)


def _widths(value: Any, num_layers: int, width: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ArtifactError(f"Field 'widths' is {shown(value)}; expected one number per layer.")
    if len(value) != num_layers:
        raise ArtifactError(
            f"Field 'widths' has {len(value)} entries, but 'num_layers' is {num_layers}."
        )
    widths = tuple(_integer("widths", each, least=0, most=MOST["width"]) for each in value)
    if max(widths) != width:
        raise ArtifactError(f"Field 'widths' has maximum {max(widths)}, but 'width' is {width}.")
    return None if min(widths) == width else widths


def _json_object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ArtifactError(f"Field {name!r} is {shown(value)}; expected a dictionary.")
    try:
        # The round trip copies, turns tuples into lists, and proves that it can be saved.
        text = json.dumps(dict(value), allow_nan=False, ensure_ascii=False)
        return json.loads(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"Field {name!r} cannot be written as JSON: {error}.") from error


def _tensor(name: str, column: Any) -> torch.Tensor:
    try:
        tensor = torch.as_tensor(column).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"Column {name!r} is not a column of numbers: {error}.") from error
    # A vector per row: what one unit of a feature adds to the residual stream, or a mean per label.
    if tensor.ndim == 2 and name.endswith((f".{DIRECTION}", f".{MEANS}")) and tensor.shape[1]:
        return tensor
    if tensor.ndim != 1:
        raise ArtifactError(
            f"Column {name!r} has shape {list(tensor.shape)}; expected one dimension."
        )
    return tensor


def integers(name: str, column: Any) -> torch.Tensor:
    """Return a column of whole numbers as int64, or raise with what is wrong with it."""
    tensor = _tensor(name, column)
    # An empty Python list becomes float32, which says nothing about what was meant.
    empty_list = len(tensor) == 0 and not isinstance(column, torch.Tensor)
    if (tensor.is_floating_point() and not empty_list) or tensor.dtype == torch.bool:
        raise ArtifactError(f"Column {name!r} has dtype {tensor.dtype}; expected integers.")
    return tensor.to(torch.int64)


def _floats(name: str, column: Any) -> torch.Tensor:
    tensor = _tensor(name, column)
    if not tensor.is_floating_point() and isinstance(column, torch.Tensor):
        raise ArtifactError(f"Column {name!r} has dtype {tensor.dtype}; expected floating point.")
    return tensor.to(torch.float32)
