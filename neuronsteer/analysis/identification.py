"""Do the neurons know the language of a line as well as a language identifier does?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..errors import ParameterError, StatsError
from ..evaluation.bootstrap import interval
from ..evaluation.metrics.langid import IdentifierLike, identify_languages
from ..languages import same
from ..stats import collect
from . import ANALYSES, Analysis, Result
from ._lines import halves, lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..neuron_set import NeuronSet

OWN, CENTRES, RANDOM = "own neurons", "all neurons", "random neurons"


@ANALYSES.register("identification")
@dataclasses.dataclass(frozen=True)
class Identification(Analysis):
    """Identify the label of lines by the neurons' mean activations, beside a language identifier.

    Half of the lines are learned from, the other half are identified. Activations are means over a
    line's tokens, and each neuron's are standardised by the mean and spread over the learned lines
    (labels weigh equally). Then three rules:

    - `own neurons`: the label whose own neurons stand out most, on average, in the direction in
      which they do in its learned lines;
    - `all neurons`: the label whose mean over the learned lines is nearest, over all neurons of the
      set;
    - `random neurons`: the first rule with as many random neurons per label and layer; the control
      without which the others say nothing, because almost any neurons know the language.

    The identifier reads the same lines and, if restricted, chooses among the same labels.

    Records, per identified line: `label`, `line` (its number), `characters`, the label by each rule
    and by the identifier. Facts: `accuracy` of each (`value`, 95 % bootstrap `interval`,
    `labels`), `chance`, `agreement` of own neurons and identifier, `confusion` of own neurons.

    Args:
        identifier: `"lingua"`, a model file or a function, as for the metrics; `None`: none.
        restrict: Let lingua or fastText choose among the labels only.
        limit: Lines per label.
        max_length: Tokens per line.
        seed: Of the random neurons.

    Paper: Andrylie et al. (2025), "Sparse Autoencoders Can Capture Language-Specific Concepts
    Across Diverse Languages" identify languages by counting active features; counts need a
    threshold, which neurons of a gated MLP do not have, hence the standardised means.
    """

    name: ClassVar[str] = "identification"
    title: ClassVar[str] = "Language of a line: neurons and an identifier"
    question: ClassVar[str] = "Do the neurons show the language of a line?"
    needs: ClassVar[tuple[str, ...]] = ("model", "neurons", "tokenizer", "texts")
    paper: ClassVar[str] = (
        "Andrylie et al. 2025, Sparse Autoencoders Can Capture Language-Specific Concepts"
    )

    identifier: IdentifierLike | None = "lingua"
    restrict: bool = True
    limit: int = 100
    max_length: int = 128
    seed: int = 0

    def run(self, model: Any, neurons: NeuronSet, tokenizer: Any, texts: Any) -> Result:
        """Learn from half of the lines, identify the others."""
        given = lines(texts, self.limit)
        labels = [label for label in neurons.labels if label in given and neurons.counts[label]]
        if len(labels) < 2:
            raise ParameterError(
                "identification needs at least two labels that have both texts and neurons; the "
                f"texts have {', '.join(given)}, the set has {', '.join(neurons.labels)}."
            )
        wanted = {
            label: [line for line in given[label] if tokenizer(line)["input_ids"]]
            for label in labels
        }
        learn, test = halves(wanted, 4)
        kept = neurons.only(*labels)
        # Called first: a missing identifier should not be found out after the model has run.
        said, identified_by = self._identified(test, labels)
        known, asked = (self._responses(model, tokenizer, each, kept) for each in (learn, test))
        control = kept.random_like(self.seed)
        rules = {
            OWN: _own(known, asked, kept),
            CENTRES: _nearest(known, asked, kept),
            RANDOM: _own(known, asked, control),
        }
        records: list[dict[str, Any]] = []
        for label in labels:
            for number, line in enumerate(test[label]):
                guesses = {name: labels[each[label][number]] for name, each in rules.items()}
                record: dict[str, Any] = {
                    "label": label,
                    "line": number,
                    "characters": len(line),
                    **guesses,
                }
                if said is not None:
                    record[identified_by] = said[label][number]
                records.append(record)
        names = [*rules, *([identified_by] if said is not None else [])]
        facts: dict[str, Any] = {
            "labels": labels,
            "chance": 1 / len(labels),
            "identifier": identified_by if said is not None else None,
            "accuracy": {name: _accuracy(records, name, labels) for name in names},
            "confusion": _confusion(records, OWN, labels),
        }
        if said is not None:
            agree = [same(row[OWN], row[identified_by]) for row in records]
            facts["agreement"] = sum(agree) / len(agree)
        return self.result(records, facts, model, neurons, tokenizer)

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw the accuracy of each, over all lines and per label."""
        from ..plots import bars

        accuracy = result.facts["accuracy"]
        return bars(
            {name: {"all": each["value"], **each["labels"]} for name, each in accuracy.items()},
            intervals={name: {"all": each["interval"]} for name, each in accuracy.items()},
            baseline=result.facts["chance"],
            title=cls.title,
            value_name="lines identified correctly",
            form=".2f",
            limits=(0.0, 1.08),
            horizontal=False,
            note="Whiskers: 95 % bootstrap interval over lines.",
        )

    def _identified(
        self, test: Mapping[str, Sequence[str]], labels: Sequence[str]
    ) -> tuple[dict[str, list[str | None]] | None, str]:
        if self.identifier is None:
            return None, ""
        restricted = labels if self.restrict and isinstance(self.identifier, str) else None
        found: dict[str, list[str | None]] = {}
        name = ""
        for label, each in test.items():
            said, name = identify_languages(each, self.identifier, labels=restricted)
            # By the set's own name for the language, so that the columns can be compared.
            found[label] = [next((mine for mine in labels if same(mine, one)), one) for one in said]
        return found, name.partition("[")[0]

    def _responses(
        self, model: Any, tokenizer: Any, texts: Mapping[str, list[str]], neurons: NeuronSet
    ) -> dict[str, Tensor]:
        stats = collect(
            model,
            tokenizer,
            dict(texts),
            needs=[("responses", neurons.site)],
            policy={"max_length": self.max_length},
            progress=False,
        )
        found = stats.responses(neurons.site)
        for label, rows in found.items():
            if len(rows) != len(texts[label]):
                raise StatsError(
                    f"Label {label!r}: {len(texts[label])} lines gave {len(rows)} responses; lines "
                    "without a token that counts cannot be used. Leave them out."
                )
        return found


def _standard(known: Mapping[str, Tensor], layer: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and spread of neurons over the learned lines, labels weighing equally."""
    chosen = [rows[:, layer, index].double() for rows in known.values()]
    mean = torch.stack([each.mean(0) for each in chosen]).mean(0)
    square = torch.stack([((each - mean) ** 2).mean(0) for each in chosen]).mean(0)
    # A neuron that never changes says nothing, rather than everything.
    return mean, torch.where(square > 0, square, torch.inf).sqrt()


def _own(
    known: Mapping[str, Tensor], asked: Mapping[str, Tensor], neurons: NeuronSet
) -> dict[str, list[int]]:
    """Return the position of the label whose neurons stand out most, per line."""
    scores: dict[str, list[Tensor]] = {label: [] for label in asked}
    for name in neurons.labels:
        rows = neurons.rows(name)
        layer, index = rows.layer.long(), rows.index.long()
        mean, spread = _standard(known, layer, index)
        sign = ((known[name][:, layer, index].double() - mean) / spread).mean(0).sign()
        for label, each in asked.items():
            standing = (each[:, layer, index].double() - mean) / spread
            scores[label].append((standing * sign).mean(1))
    return {label: torch.stack(each, 1).argmax(1).tolist() for label, each in scores.items()}


def _nearest(
    known: Mapping[str, Tensor], asked: Mapping[str, Tensor], neurons: NeuronSet
) -> dict[str, list[int]]:
    """Return the position of the label with the nearest mean, per line."""
    key = neurons.neuron_keys().unique()
    layer, index = key // neurons.width, key % neurons.width
    mean, spread = _standard(known, layer, index)
    centres = torch.stack(
        [
            ((known[name][:, layer, index].double() - mean) / spread).mean(0)
            for name in neurons.labels
        ]
    )
    return {
        label: torch.cdist((each[:, layer, index].double() - mean) / spread, centres)
        .argmin(1)
        .tolist()
        for label, each in asked.items()
    }


def _accuracy(
    records: Sequence[dict[str, Any]], name: str, labels: Sequence[str]
) -> dict[str, Any]:
    right = [float(same(row["label"], row[name])) for row in records]
    by_label = {
        label: [hit for row, hit in zip(records, right, strict=True) if row["label"] == label]
        for label in labels
    }
    return {
        "value": sum(right) / len(right),
        "interval": interval(right),
        "labels": {label: sum(hits) / len(hits) for label, hits in by_label.items()},
    }


def _confusion(
    records: Sequence[dict[str, Any]], name: str, labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    found = {label: dict.fromkeys(labels, 0) for label in labels}
    for row in records:
        found[row["label"]][row[name]] += 1
    return found
