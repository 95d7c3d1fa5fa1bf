"""LangSpec-F, written by tools/metric_spaces.py: do not edit."""

from typing import Any

import datasets
import evaluate

from neuronsteer.evaluation.metrics.library import compute, describe


class LangSpecF(evaluate.Metric):
    """LangSpec-F."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            **describe("lang_spec_f"),
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
        return compute("lang_spec_f", columns)
