"""Rows of data sets on the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ...errors import ParameterError, TextError, require
from ...languages import canonical

PREFIX = "hf://"


class Address:
    """`hf://owner/dataset[/config][:split]`; `{label}` in it stands for the label.

    Example: `hf://cambridgeltl/xcopa/{label}:test`, `hf://google/xquad/xquad.{label}:validation`.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        path, _, self._split = text.removeprefix(PREFIX).partition(":")
        owner, _, rest = path.partition("/")
        name, _, self._config = rest.partition("/")
        self._repo = f"{owner}/{name}"
        if not owner or not name or "{label}" not in text:
            raise ParameterError(
                f"Cannot read the address {text!r}; expected "
                "hf://owner/dataset/{label}:split, where {label} stands for the language."
            )

    def __str__(self) -> str:
        return self._text

    def rows(self, labels: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of every label that the data set has.

        Raises:
            TextError: If it has none of them, or cannot be reached.
        """
        datasets: Any = require("datasets", "eval", f"Reading {self._text}")
        found: dict[str, list[dict[str, Any]]] = {}
        failure: Exception | None = None
        for label in labels:
            for spelling in dict.fromkeys((label, canonical(label))):
                try:
                    loaded: Iterable[Any] = datasets.load_dataset(
                        self._repo.replace("{label}", spelling),
                        self._config.replace("{label}", spelling) or None,
                        split=self._split.replace("{label}", spelling) or "test",
                    )
                except Exception as error:  # a config that is not there, a Hub that is not there
                    failure = error
                    continue
                found[label] = [_plain(row) for row in loaded]
                break
        if not found and failure is not None:
            said = next((line for line in str(failure).splitlines() if line.strip()), "no reason")
            raise TextError(f"Cannot read {self._text!r}: {said}") from failure
        return found


def _plain(row: Any) -> dict[str, Any]:
    fields = dict(row)
    answers = fields.get("answers")
    if isinstance(answers, dict) and "text" in answers:  # SQuAD's nesting
        fields["answers"] = list(answers["text"])
    if "answer_number" in fields:  # MGSM: the solution is in `answer`, the number here
        fields["answer"] = str(fields["answer_number"])
    return fields
