"""Side effects, written by tools/metric_spaces.py: do not edit."""

from typing import Any

import datasets
import evaluate

from neuronsteer.evaluation.metrics.library import compute, describe


class SideEffects(evaluate.Metric):
    """Side effects."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            **describe("side_effects"),
            features=[
                datasets.Features(
                    {
                        "predictions": datasets.Sequence(datasets.Value("float64")),
                        "references": datasets.Sequence(datasets.Value("float64")),
                    }
                ),
            ],
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        return compute("side_effects", columns)
