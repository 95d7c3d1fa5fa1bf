"""Results on benchmarks of the Hub, as the file `.eval_results/neuronsteer.yaml` beside a set.

The Hub shows such a file on the model's page and puts its numbers into the benchmark's leaderboard
(https://huggingface.co/docs/hub/eval-results). It therefore holds only results whose data set is
named as a benchmark, and no control: a control is a number about the unsteered model. All results,
and all controls, are in the card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .markdown_text import one_line

#: The Hub reads every YAML file of the folder; this one is ours to replace.
FILE = ".eval_results/neuronsteer.yaml"

_DATASET = re.compile(r"[\w.-]+/[\w.-]+")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+(Z|[+-]\d\d:\d\d)?)?")


def entries(results: Sequence[Mapping[str, Any]], created: object = None) -> list[dict[str, Any]]:
    """Return one entry per result on a benchmark, in the fields that the Hub specifies.

    Args:
        results: As `card.evaluation_results` returns them. A result is on a benchmark if its data
            set has a `task_id`, one of those in the benchmark's own `eval.yaml`, and a `type` that
            is a data set on the Hub.
        created: When it was measured, ISO 8601; anything else is left out.
    """
    found: list[dict[str, Any]] = []
    for each in results:
        told = each["dataset"]
        if not told.get("task_id") or not _DATASET.fullmatch(told["type"]):
            continue
        dataset = {"id": told["type"], "task_id": one_line(told["task_id"])}
        if told.get("revision"):
            dataset["revision"] = one_line(told["revision"])
        entry: dict[str, Any] = {"dataset": dataset, "value": each["value"]}
        if isinstance(created, str) and _DATE.fullmatch(created):
            entry["date"] = created
        found.append({**entry, "notes": _notes(each)})
    return found


def file_of(results: Sequence[Mapping[str, Any]], created: object = None) -> dict[str, bytes]:
    """Return the file with its path, or nothing if no result is on a benchmark."""
    listed = entries(results, created)
    if not listed:
        return {}
    from huggingface_hub.utils import yaml_dump

    return {FILE: yaml_dump(listed).encode("utf-8")}


def remove(folder: Path) -> None:
    """Delete the file of an earlier set, and its folder if nothing else is in it."""
    path = folder / FILE
    path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or with results that somebody else put there
        path.parent.rmdir()


def _notes(each: Mapping[str, Any]) -> str:
    steered = f"steered to {each['label']} by neuronsteer" if each["label"] else "neuronsteer"
    controls = [f"{name} {value:.4g}" for name, value in each["controls"].items()]
    told = [f"{steered}, {each['metric']}"]
    if controls:
        told.append(f"controls: {', '.join(controls)}")
    return one_line("; ".join(told))
