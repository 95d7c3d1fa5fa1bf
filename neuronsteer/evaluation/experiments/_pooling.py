"""From one outcome per arm to what a report says: random seeds become a mean and an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..bootstrap import mean
from ..reports.parts import Part
from . import Outcome
from ._arms import spread


def grouped(outcomes: Mapping[str, Outcome]) -> dict[str, list[Outcome]]:
    """Return outcomes by kind of arm: all seeds of `random` together."""
    found: dict[str, list[Outcome]] = {}
    for name, outcome in outcomes.items():
        found.setdefault(name.partition(":")[0], []).append(outcome)
    return found


def outcome_of(several: Sequence[Outcome]) -> dict[str, Any]:
    """Return one arm's numbers as JSON; those of several seeds with their spread."""
    first = several[0]
    if len(several) == 1:
        return {
            "seeds": 1,
            "n": first.n,
            "values": {
                name: _number(value, first.intervals.get(name))
                for name, value in first.values.items()
            },
            "labels": {label: dict(facts) for label, facts in first.labels.items()},
            "parts": [dict(part) for part in first.parts],
            "settings": dict(first.settings),
        }
    return {
        "seeds": len(several),
        "n": sum(outcome.n for outcome in several),
        "values": {
            name: _spread([outcome.values.get(name) for outcome in several])
            for name in first.values
        },
        "labels": {
            label: _spread([o.labels.get(label, {}).get("value") for o in several])
            for label in first.labels
        },
        "parts": _averaged([outcome.parts for outcome in several]),
        "settings": dict(first.settings),
    }


def _number(value: float | None, interval: Any) -> dict[str, Any]:
    return {"value": value, "interval": None if interval is None else list(interval)}


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return spread(known) if known else {"value": None, "interval": None, "seeds": 0}


def _averaged(parts: Sequence[Sequence[Part]]) -> list[dict[str, Any]]:
    """Return the matrices, averaged cell by cell; other parts have no mean."""
    found: list[dict[str, Any]] = []
    for i, part in enumerate(parts[0]):
        if part["kind"] != "matrix":
            continue
        alike = [each[i] for each in parts if len(each) > i and each[i]["title"] == part["title"]]
        if any(each["rows"] != part["rows"] for each in alike):
            continue
        values = [
            [
                mean([v for each in alike for v in [each["values"][r][c]] if v is not None])
                for c in range(len(part["columns"]))
            ]
            for r in range(len(part["rows"]))
        ]
        found.append({**part, "values": values})
    return found
