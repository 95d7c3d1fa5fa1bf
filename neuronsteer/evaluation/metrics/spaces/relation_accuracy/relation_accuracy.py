"""Relation accuracy, written by tools/metric_spaces.py: do not edit."""

from typing import Any

import datasets
import evaluate

from neuronsteer.evaluation.metrics.library import compute, describe


class RelationAccuracy(evaluate.Metric):
    """Relation accuracy."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            **describe("relation_accuracy"),
            features=[
                datasets.Features(
                    {
                        "intervened": datasets.Value("string"),
                        "evaluated": datasets.Value("string"),
                        "predictions": datasets.Value("float64"),
                        "references": datasets.Value("float64"),
                    }
                ),
            ],
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        return compute("relation_accuracy", columns)
