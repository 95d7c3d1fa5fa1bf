"""Perplexity matrix, written by tools/metric_spaces.py: do not edit."""

from typing import Any

import datasets
import evaluate

from neuronsteer.evaluation.metrics.library import compute, describe


class PerplexityMatrix(evaluate.Metric):
    """Perplexity matrix."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            **describe("perplexity_matrix"),
            features=[
                datasets.Features(
                    {
                        "intervened": datasets.Value("string"),
                        "evaluated": datasets.Value("string"),
                        "nll_sum": datasets.Value("float64"),
                        "base_nll_sum": datasets.Value("float64"),
                        "tokens": datasets.Value("int64"),
                    }
                ),
            ],
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        return compute("perplexity_matrix", columns)
