"""Logit lens: in which language are the tokens that every layer would say next?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ParameterError, TextError
from . import ANALYSES, Analysis, Result
from ._lens import Lens, read
from ._lines import halves, lines, rows
from ._tokens import BY, OTHER, token_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Lensed(Analysis):
    """Base of what reads every layer with a logit lens; see `LogitLens` for the parameters."""

    needs: ClassVar[tuple[str, ...]] = ("model", "tokenizer", "texts")

    by: str = "language"
    top: int | None = 10
    limit: int = 100
    max_length: int = 128
    skip: int = 4
    batch_size: int = 8
    lens: Lens | Sequence[Callable[[Tensor], Tensor]] | None = None

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise ParameterError(f"{self.name} got by={self.by!r}; expected {' or '.join(BY)}.")
        if self.limit < 2 or (self.top is not None and self.top < 1):
            raise ParameterError(
                f"{self.name} got limit={self.limit}, top={self.top}; expected at least 2 texts "
                "and at least 1 token (None: all)."
            )

    def records(self, model: Any, tokenizer: Any, texts: Any) -> tuple[list[dict[str, Any]], Any]:
        """Return a record per label, layer and language, and what is known about all of them."""
        learn, test = halves(lines(texts, self.limit), 2)
        head = model.get_output_embeddings()
        table = token_table(tokenizer, learn, int(head.weight.shape[0]), by=self.by)
        found: list[dict[str, Any]] = []
        facts: dict[str, Any] = {
            "labels": list(learn),
            "languages": list(table.names),
            "known_tokens": table.known(),
            "positions": {},
            "next_token": {},
        }
        for label, each in test.items():
            chosen = rows(tokenizer, each, self.max_length, self.skip)
            if not chosen:
                raise TextError(
                    f"Label {label!r}: no text is longer than {self.skip} tokens. Give longer "
                    "texts, or a smaller skip."
                )
            seen = read(
                model, chosen, table, top=self.top, lens=self.lens, batch_size=self.batch_size
            )
            facts["positions"][label] = seen.positions
            facts["next_token"][label] = {
                "nll": (seen.nll / seen.positions).tolist(),
                "agrees_with_last": (seen.agree / seen.positions).tolist(),
            }
            for layer, (mass, first) in enumerate(
                zip(
                    (seen.mass / seen.positions).tolist(),
                    (seen.first / seen.positions).tolist(),
                    strict=True,
                )
            ):
                facts["num_layers"] = layer + 1
                found += [
                    {
                        "label": label,
                        "layer": layer,
                        "language": name,
                        "share": share,
                        "share_of_first": likeliest,
                    }
                    for name, share, likeliest in zip(table.names, mass, first, strict=True)
                ]
        return found, facts


@ANALYSES.register("logit_lens")
@dataclasses.dataclass(frozen=True)
class LogitLens(Lensed):
    """Read every layer's hidden states with the model's own final norm and head.

    The language of a token comes from a table learned from half of the texts (the other half is
    read): a token belongs to each label by how frequent it is there, within the labels that use its
    script. Tokens without letters, and words that were never seen, are `other`; their share says
    how much to trust the rest, and early layers of many models are mostly that.

    Records: `label` (of the text), `layer`, `language` (of the tokens), `share` (of the probability
    of the `top` likeliest tokens, mean over positions), `share_of_first` (of the likeliest token
    alone). Facts: `thinks_in`, per label the language with the largest share in every layer,
    `other` left aside; `own_from`, per label the first layer from which on that is the language of
    the text; `next_token`, per label and layer: nats of the text's next token, and how often the
    likeliest token is the one of the last layer.

    Args:
        by: Tell tokens apart by `"language"`, or by `"script"` alone, which needs no texts to learn
            from and no label to be a language.
        top: How many of the likeliest tokens count; `None` weighs the whole vocabulary.
        limit: Texts per label.
        max_length: Tokens per text.
        skip: Positions at the start of a text that are not read: there the language is still open.
        batch_size: Texts per forward pass.
        lens: A tuned lens: a function `(hidden, layer)` → hidden, or one function per layer, put
            before the model's final norm. Without it, hidden states are read as they are.

    Paper: nostalgebraist (2020), "interpreting GPT: the logit lens"; Belrose et al. (2023),
    "Eliciting Latent Predictions from Transformers with the Tuned Lens" (arXiv:2303.08112); Wendler
    et al. (2024), "Do Llamas Work in English?" (arXiv:2402.10588).
    """

    name: ClassVar[str] = "logit_lens"
    title: ClassVar[str] = "Language of the likeliest next tokens (logit lens)"
    question: ClassVar[str] = "In which language does each layer think?"
    paper: ClassVar[str] = "Wendler et al. 2024, Do Llamas Work in English? (arXiv:2402.10588)"

    def run(self, model: Any, tokenizer: Any, texts: Any) -> Result:
        """Read the texts."""
        records, facts = self.records(model, tokenizer, texts)
        shares = tabulated(records)
        thinks: dict[str, list[str | None]] = {}
        for label, layers in shares.items():
            thinks[label] = []
            for each in layers:
                named = {name: share for name, share in each.items() if name != OTHER}
                best = max(named, key=named.__getitem__)
                thinks[label].append(best if named[best] > 0 else None)
        facts["thinks_in"] = thinks
        if self.by == "language":
            facts["own_from"] = {label: _from(label, each) for label, each in thinks.items()}
        return self.result(records, facts, model, tokenizer)

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw the shares, one panel per label of the texts."""
        from ..plots import shares

        return shares(
            {
                label: {name: [each[name] for each in layers] for name in layers[0]}
                for label, layers in tabulated(result.rows).items()
            },
            title=cls.title,
            value_name="share of probability",
            pale=OTHER,
        )


def tabulated(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """Return label → layer → language → share."""
    found: dict[str, list[dict[str, float]]] = {}
    for row in records:
        layers = found.setdefault(row["label"], [])
        if len(layers) <= row["layer"]:
            layers.append({})
        layers[row["layer"]][row["language"]] = row["share"]
    return found


def _from(label: str, thinks: Sequence[str | None]) -> int | None:
    """Return the first layer from which on every layer thinks in `label`."""
    first = len(thinks)
    while first and thinks[first - 1] == label:
        first -= 1
    return first if first < len(thinks) else None
