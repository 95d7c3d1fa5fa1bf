"""Side effects: how much do the model's predictions change where they should not?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...errors import ParameterError
from ...languages import same
from ...steering.steerer import OperationLike, Steerer
from ..bootstrap import interval
from . import METRICS, Metric, Score, aligned
from .scoring import Switch, TokenRow, forward, switching, window_length, windows


@METRICS.register("side_effects")
@dataclass(frozen=True)
class SideEffects(Metric):
    """Distance of the steered to the unsteered next-token distribution, on other languages' text.

    `kl` is KL(unsteered ‖ steered) in nats, averaged over real tokens; `top_k_overlap` the share
    of the unsteered k most probable tokens that are still among the steered k; `top_1_agreement`
    how often the most probable token stays.

    Traps: the direction of KL matters; here the unsteered model is the truth. On text of the
    target itself a difference is the purpose, not a side effect, so those cells are left out of
    the headline (they stay in the matrix). Padding positions would count as agreement. An average
    over tokens hides rare large jumps: `kl_max_text` is the worst text.

    Args:
        k: How many tokens are compared.
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "side_effects"
    title: ClassVar[str] = "Side effects"
    paper: ClassVar[str] = ""
    primary: ClassVar[str] = "kl"
    higher_is_better: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, str]] = {"predictions": "floats", "references": "floats"}
    optional: ClassVar[Mapping[str, str]] = {"steered": "string", "evaluated": "string"}

    k: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse k below 1."""
        if self.k < 1:
            raise ParameterError(f"k must be at least 1; got {self.k}.")

    def compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[Sequence[float]],
        steered: Sequence[str] | None = None,
        evaluated: Sequence[str] | None = None,
    ) -> Score:
        """Return the score; one item is one position.

        Args:
            predictions: Logits or log-probabilities of the steered model, over the vocabulary.
            references: The same of the unsteered one.
            steered: Active label at each position.
            evaluated: Label of the text of each position.
        """
        n = aligned(
            self.name,
            predictions=predictions,
            references=references,
            steered=steered,
            evaluated=evaluated,
        )
        to = torch.tensor(predictions, dtype=torch.float64)
        of = torch.tensor(references, dtype=torch.float64)
        if to.shape != of.shape or to.shape[-1] < self.k:
            raise ParameterError(
                f"Logits of two models, [positions, vocabulary], have the shapes {tuple(to.shape)} "
                f"and {tuple(of.shape)}; expected the same, and at least k={self.k} tokens."
            )
        kl, overlap, agree = self._compare(to, of)
        names = zip(steered or [""] * n, evaluated or ["text"] * n, strict=True)
        items = zip(names, kl.tolist(), overlap.tolist(), agree.tolist(), strict=True)
        return self._score([(*pair, 1, *rest) for pair, *rest in items])

    def measure(
        self,
        model: Any,
        tokenizer: Any,
        texts: Mapping[str, Sequence[str]],
        steer: Steerer | Switch,
        *,
        labels: Sequence[str] | None = None,
        operation: OperationLike | None = None,
        strength: float = 1.0,
        batch_size: int = 8,
        max_length: int | None = None,
        padding: str = "right",
    ) -> Score:
        """Return the score of a steered model.

        Args:
            model: The model that `steer` is attached to.
            tokenizer: Its tokenizer.
            texts: Held-out texts per label.
            steer: A steerer, or a function that makes a label active and takes `None` for off.
            labels: Labels to steer to. Default: those of `texts`.
            operation: What is done with the neurons; default: the set's own.
            strength: How much of it.
            batch_size: Rows per forward pass; it does not change the numbers.
            max_length: Longer texts are read in windows of so many tokens.
            padding: Side of the padding; it does not change the numbers.
        """
        longest = window_length(model, max_length)
        rows: list[TokenRow] = []
        owner: list[tuple[str, int]] = []
        for label, some in texts.items():
            for i, text in enumerate(some):
                found = windows(tokenizer, text, longest)
                rows += found
                owner += [(label, i)] * len(found)
        aligned(self.name, texts=rows)
        sums: dict[tuple[str, str, int], list[float]] = {}
        with switching(steer, operation, strength) as switch:
            # Batch by batch, so that only two batches of logits are in memory at a time.
            for begin in range(0, len(rows), batch_size):
                some = rows[begin : begin + batch_size]
                switch(None)
                before = self._run(model, some, padding)
                for label in texts if labels is None else labels:
                    switch(label)
                    after = self._run(model, some, padding)
                    for k, plain in enumerate(before):
                        total = sums.setdefault((label, *owner[begin + k]), [0.0] * 4)
                        total[0] += len(plain)
                        for i, each in enumerate(self._compare(after[k], plain), 1):
                            total[i] += float(each.sum())
        return self._score([(to, on, *found) for (to, on, _), found in sums.items()])

    def _run(self, model: Any, rows: Sequence[TokenRow], padding: str) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        for chosen, logits in forward(model, rows, batch_size=len(rows), padding=padding):
            found.update(zip(chosen, logits, strict=True))
        return [found[i] for i in range(len(rows))]

    def _compare(
        self, steered: torch.Tensor, plain: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return KL, overlap and agreement per position."""
        after, before = steered.log_softmax(-1), plain.log_softmax(-1)
        # Where the truth has no mass nothing is lost; 0 · (−∞ − −∞) would be NaN.
        terms = torch.where(before.isneginf(), 0.0, before.exp() * (before - after))
        kl = terms.double().sum(-1).clamp(min=0)
        k = min(self.k, plain.shape[-1])
        top, old = after.topk(k).indices, before.topk(k).indices
        overlap = (top[..., :, None] == old[..., None, :]).any(-1).double().mean(-1)
        return kl, overlap, (top[..., 0] == old[..., 0]).double()

    def _score(self, items: Sequence[tuple[Any, ...]]) -> Score:
        """Return the score of `(steered, evaluated, tokens, sums of KL, overlap, agreement)`."""
        matrix: dict[str, dict[str, dict[str, float]]] = {}
        for to, on in dict.fromkeys((item[0], item[1]) for item in items):
            matrix.setdefault(to, {})[on] = self._mean([i for i in items if i[:2] == (to, on)])
        other = [item for item in items if not same(item[0], item[1])]
        total = self._mean(other) if other else {}
        names = ("kl", "top_k_overlap", "top_1_agreement", "tokens")
        return self.score(
            len(other),
            {name: total.get(name) for name in names}
            | {"kl_max_text": max((item[3] / item[2] for item in other), default=None)},
            {
                "kl": interval(
                    [item[3] for item in other],
                    weights=[item[2] for item in other],
                    seed=self.seed,
                )
            },
            {"matrix": matrix},
        )

    @staticmethod
    def _mean(items: Sequence[tuple[Any, ...]]) -> dict[str, float]:
        tokens = sum(item[2] for item in items)
        kl, overlap, agree = (sum(item[k] for item in items) / tokens for k in (3, 4, 5))
        return {"kl": kl, "top_k_overlap": overlap, "top_1_agreement": agree, "tokens": tokens}
