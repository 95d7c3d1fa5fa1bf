"""What a neuron set's header says about its evaluation, made ready for a card.

The field is free-form JSON. What has the shape below becomes a table with its controls and the
Hub's `model-index`; anything else is shown as it is::

    {"results": [{"task": "language_forcing", "label": "fr", "metric": "fluent_success",
                  "value": 0.91, "interval": [0.88, 0.94],
                  "dataset": {"name": "flores", "type": "facebook/flores"},
                  "controls": {"no steering": 0.02, "random neurons": 0.03}}, …]}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def results(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the results that have a task, a metric and a value, all fields filled."""
    listed: Any = (evaluation or {}).get("results")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    return [_filled(each) for each in listed if isinstance(each, Mapping) and _is_result(each)]


def controls(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the controls that occur, in order."""
    return list(dict.fromkeys(name for each in found for name in each["controls"]))


def index(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the arguments of one `EvalResult` per value, the controls' values included.

    A number without its controls says nothing about neurons, so they appear beside it.
    """
    for each in found:
        of = f"{each['metric']} ({each['label']})" if each["label"] else each["metric"]
        values = {of: each["value"]} | {
            f"{of}, control: {name}": value for name, value in each["controls"].items()
        }
        for name, value in values.items():
            yield {
                "task_type": "text-generation",
                "task_name": each["task"],
                "dataset_name": each["dataset"]["name"],
                "dataset_type": each["dataset"]["type"],
                "metric_type": each["metric"],
                "metric_name": name,
                "metric_value": value,
            }


def _is_result(each: Mapping[str, Any]) -> bool:
    named = all(isinstance(each.get(name), str) for name in ("task", "metric"))
    return named and _is_number(each.get("value"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _filled(each: Mapping[str, Any]) -> dict[str, Any]:
    dataset = each.get("dataset")
    if isinstance(dataset, str):
        dataset = {"name": dataset}
    dataset = dict(dataset) if isinstance(dataset, Mapping) else {}
    name = str(dataset.get("name") or dataset.get("type") or "own data")
    given = each.get("controls")
    given = given if isinstance(given, Mapping) else {}
    interval = each.get("interval")
    whole = isinstance(interval, Sequence) and len(interval) == 2 and all(map(_is_number, interval))
    return {
        "task": each["task"],
        "metric": each["metric"],
        "value": each["value"],
        "label": str(each.get("label") or ""),
        "interval": list(interval) if whole and interval is not None else None,
        "dataset": {"name": name, "type": str(dataset.get("type") or name)},
        "controls": {str(key): value for key, value in given.items() if _is_number(value)},
    }
