"""Language confusion, written by tools/metric_spaces.py: do not edit."""

from typing import Any

import datasets
import evaluate

from neuronsteer.evaluation.metrics.library import compute, describe


class LanguageConfusion(evaluate.Metric):
    """Language confusion."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            **describe("language_confusion"),
            features=[
                datasets.Features(
                    {
                        "predictions": datasets.Value("string"),
                        "references": datasets.Value("string"),
                    }
                ),
            ],
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        return compute("language_confusion", columns)
