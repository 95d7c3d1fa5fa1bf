"""Exact match, written by tools/metric_spaces.py: do not edit."""

from typing import Any

import datasets
import evaluate

from neuronsteer.evaluation.metrics.library import compute, describe


class ExactMatch(evaluate.Metric):
    """Exact match."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            **describe("exact_match"),
            features=[
                datasets.Features(
                    {
                        "predictions": datasets.Value("string"),
                        "references": datasets.Sequence(datasets.Value("string")),
                    }
                ),
                datasets.Features(
                    {
                        "predictions": datasets.Value("string"),
                        "references": datasets.Value("string"),
                    }
                ),
            ],
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        return compute("exact_match", columns)
