"""One entry per kind of treatment, as reports store them: seeds become a mean and an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..bootstrap import mean
from ..reports.blocks import Block
from . import Finding

#: What Student's t adds to the standard error of few seeds, 95 %, by degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


def grouped(findings: Mapping[str, Finding]) -> dict[str, list[Finding]]:
    """Return findings by kind of treatment: all seeds of `random` together."""
    found: dict[str, list[Finding]] = {}
    for name, finding in findings.items():
        found.setdefault(name.partition(":")[0], []).append(finding)
    return found


def as_json(several: Sequence[Finding]) -> dict[str, Any]:
    """Return one treatment's numbers as JSON; those of several seeds with their spread."""
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
            "blocks": [dict(block) for block in first.blocks],
        }
    return {
        "seeds": len(several),
        "n": sum(finding.n for finding in several),
        "values": {
            name: _pooled([finding.values.get(name) for finding in several])
            for name in first.values
        },
        "labels": {
            label: _pooled([o.labels.get(label, {}).get("value") for o in several])
            for label in first.labels
        },
        "blocks": _averaged([finding.blocks for finding in several]),
    }


def _number(value: float | None, interval: Any) -> dict[str, Any]:
    return {"value": value, "interval": None if interval is None else list(interval)}


def _pooled(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return spread(known) if known else {"value": None, "interval": None, "seeds": 0}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and 95 % interval of the mean over seeds, with the seeds' own values."""
    n = len(values)
    average = math.fsum(values) / n
    found: dict[str, Any] = {
        "value": average,
        "interval": None,
        "seeds": n,
        "low": min(values),
        "high": max(values),
    }
    if n > 1:
        deviation = math.sqrt(math.fsum((v - average) ** 2 for v in values) / (n - 1))
        half = (_T[n - 2] if n - 2 < len(_T) else 2.0) * deviation / math.sqrt(n)
        found["interval"] = [average - half, average + half]
    return found


def _averaged(blocks: Sequence[Sequence[Block]]) -> list[dict[str, Any]]:
    """Return the matrices, averaged cell by cell; other blocks have no mean."""
    found: list[dict[str, Any]] = []
    for i, block in enumerate(blocks[0]):
        if block["kind"] != "matrix":
            continue
        alike = [each[i] for each in blocks if len(each) > i and each[i]["title"] == block["title"]]
        if any(each["rows"] != block["rows"] for each in alike):
            continue
        values = [
            [
                mean([v for each in alike for v in [each["values"][r][c]] if v is not None])
                for c in range(len(block["columns"]))
            ]
            for r in range(len(block["rows"]))
        ]
        found.append({**block, "values": values})
    return found
