"""Measuring: continuations, their languages, how likely they are; everything is kept at once."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...languages import same
from ...neuron_set import NeuronSet
from ...stats.forward import evaluating
from ...steering.schedule import Point, Schedule
from ...steering.steerer import attach
from .. import retrieval
from ..bootstrap import wilson
from ..continuations import continue_rows, decode, encode_prompt, without_end
from ..experiments._saved_cases import SavedCases
from ..metrics.fluency import NGRAM
from ..metrics.langid import Identifier
from ..metrics.scoring import Likelihood, TokenRow, score_rows
from . import reference
from .budget import Budget
from .cells import Cell
from .sampling import PromptSeededSampling

#: Rows that are scored together: their logits are as wide as the vocabulary.
_SCORED = 8
_EXAMPLES = 2
_UNSTEERED, _STEERED = "unsteered", "steered"

#: Called with what is done and how many rows of it were finished.
Tell = Callable[[str, int], object]


@dataclass(frozen=True)
class Prompt:
    """A beginning of a text, and the language it is in as far as that is known."""

    text: str
    language: str | None = None


@dataclass(frozen=True)
class Setting:
    """What a cell is measured at."""

    label: str
    strength: float
    share: float | None = None


@dataclass(frozen=True)
class TuningSettings:
    """How texts are made; a resumed run must have the same.

    Attributes:
        seed: Of sampling, and of the prompts among which one is looked for.
        max_new_tokens: New tokens per prompt.
        temperature: Of sampling; 0 is greedy.
        suppress_tokens: Ids that are never generated.
        source: What is left, as `steer.to` takes it.
        chat: Whether prompts go through the chat template.
        first: Prompts per cell in the first round; every further round doubles them.
    """

    seed: int = 0
    max_new_tokens: int = 32
    temperature: float = 0.8
    suppress_tokens: tuple[int, ...] = ()
    source: str | tuple[str, ...] | None = None
    chat: bool = False
    first: int = 8


@dataclass
class _Observed:
    """What is known about a setting, text by text."""

    items: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    right: list[bool] = field(default_factory=list[bool])
    natural: list[bool] = field(default_factory=list[bool])
    away: list[float] = field(default_factory=list[float])
    hits: list[bool] = field(default_factory=list[bool])
    unsteered: list[bool] = field(default_factory=list[bool])

    @property
    def found_unsteered(self) -> float:
        """The share of the unsteered texts whose prompt was found."""
        # Where these do no better than chance there is nothing to be lost.
        return max(_mean(self.unsteered), 1 / retrieval.CANDIDATES)


@dataclass
class Measurements:
    """What was measured of a model and a set, and measuring more.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        neurons: The set, without tuned strengths.
        prompts: All prompts.
        texts: Natural texts per label; may lack labels.
        identifier: What tells languages.
        settings: How texts are made.
        saved: Where everything is kept.
        budget: When to stop.
        batch_size: Rows that are generated together.
        tell: Called as rows are finished.
        reference_prompts: Prompts in the language of a label, whose answers are its reference texts
            where enough of them are in that language; may lack labels.
        candidate: Name of the set among several that share the same `saved`.
    """

    model: Any
    tokenizer: Any
    neurons: NeuronSet
    prompts: Sequence[Prompt]
    texts: Mapping[str, Sequence[str]]
    identifier: Identifier
    settings: TuningSettings
    saved: SavedCases
    budget: Budget
    batch_size: int = 32
    tell: Tell = lambda _what, _rows: None
    reference_prompts: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    candidate: str = ""
    _ids: list[list[int]] = field(default_factory=list[list[int]])

    def __post_init__(self) -> None:
        """Encode the prompts."""
        self._ids = [self._encoded(each.text) for each in self.prompts]

    def _encoded(self, prompt: str, *, chat: bool | None = None) -> list[int]:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        room = max((limit if isinstance(limit, int) else 1 << 20) - self._tokens, 1)
        chat = self.settings.chat if chat is None else chat
        return encode_prompt(self.tokenizer, prompt, chat)[-room:]

    @property
    def _tokens(self) -> int:
        return self.settings.max_new_tokens

    def blocks(self, label: str) -> list[list[int]]:
        """Return the positions of a label's prompts, in rounds: each doubles those before it."""
        own = [i for i, each in enumerate(self.prompts) if not same(each.language, label)]
        ends, size = [0], self.settings.first
        while ends[-1] < len(own):
            ends.append(min(len(own), size))
            size *= 2
        return [own[a:b] for a, b in itertools.pairwise(ends)]

    # --- texts ----------------------------------------------------------------------------------

    def generate(self, settings: Sequence[Setting], block: int) -> None:
        """Continue the prompts of a round at every setting, and unsteered, where not done yet."""
        plain = self._unsteered(settings, block)
        steered = self._steered(settings, block)
        shares = list(dict.fromkeys(setting.share for setting, _ in steered)) or [None]
        for share in shares:
            rows: list[tuple[Setting | None, int]] = []
            if share == shares[0]:
                rows += [(None, i) for i in plain]
            own = [(setting, prompts) for setting, prompts in steered if setting.share == share]
            rows += [(setting, i) for setting, prompts in own for i in prompts]
            self._continue(rows, share, block)

    def _unsteered(self, settings: Iterable[Setting], block: int) -> list[int]:
        wanted = {i for each in settings for i in self._prompts(each.label, block)}
        return sorted(i for i in wanted if not self._has("texts", None, i))

    def _steered(self, settings: Iterable[Setting], block: int) -> list[tuple[Setting, list[int]]]:
        found = [(each, self._prompts(each.label, block)) for each in dict.fromkeys(settings)]
        return [(s, p) for s, p in found if p and not self._has("texts", s, block)]

    def _prompts(self, label: str, block: int) -> list[int]:
        blocks = self.blocks(label)
        return blocks[block] if block < len(blocks) else []

    def _continue(
        self, rows: Sequence[tuple[Setting | None, int]], share: float | None, block: int
    ) -> None:
        if not rows:
            return
        waiting: dict[Setting, list[dict[str, Any]]] = {}
        with attach(self.model, self.part(share)) as steer:
            for begin in range(0, len(rows), self.batch_size):
                some = rows[begin : begin + self.batch_size]
                steer.to([_target(setting) for setting, _ in some], source=self.settings.source)
                made = self._made([(self.prompts[i].text, self._ids[i], i) for _, i in some])
                for (setting, i), item in zip(some, made, strict=True):
                    if setting is None:
                        self._put("texts", None, i, item)
                    else:
                        waiting.setdefault(setting, []).append(item)
                for setting in list(waiting):
                    if len(waiting[setting]) == len(self._prompts(setting.label, block)):
                        self._put("texts", setting, block, waiting.pop(setting))
                self.tell("generate", len(some))

    def part(self, share: float | None) -> NeuronSet:
        """Return the best so many neurons of every label, as a share of all units."""
        if share is None:
            return self.neurons
        return self.neurons.top(max(1, round(share * sum(self.neurons.width_per_layer))))

    def _made(self, prompts: Sequence[tuple[str, list[int], int]]) -> list[dict[str, Any]]:
        """Return what the model writes now: `(text, ids, position)` of a prompt → its item."""
        own = self.settings
        ids = [given for _, given, _ in prompts]
        seeds = [f"{own.seed} {text}" for text, _, _ in prompts]
        sampling = PromptSeededSampling(
            seeds, self._tokens, own.temperature, lambda: self.budget.step("token")
        )
        options: dict[str, Any] = {} if own.chat else {"min_new_tokens": self._tokens}
        if own.suppress_tokens:
            options["suppress_tokens"] = list(own.suppress_tokens)
        with evaluating(self.model):
            rows = continue_rows(
                self.model,
                self.tokenizer,
                ids,
                self._tokens,
                do_sample=False,
                logits_processor=[sampling],
                **options,
            )
        rows = [without_end(self.model, self.tokenizer, row) for row in rows]
        texts = decode(self.tokenizer, rows)
        self.budget.step("identify")
        guesses = [guess.label for guess in self.identifier.identify(texts)]
        return [
            {"prompt": position, "ids": row, "text": text, "identified": guess}
            for (_, _, position), row, text, guess in zip(
                prompts, rows, texts, guesses, strict=True
            )
        ]

    # --- reference texts ------------------------------------------------------------------------

    def write_references(self, labels: Iterable[str]) -> None:
        """Let the unsteered model write what good text of these labels is, where not done.

        Its answers to prompts in the language, or, of too few answers in it, what it continues
        natural beginnings with.
        """
        labels = list(labels)
        self._write("answers", {label: self._asked(label) for label in labels})
        self._write("texts", self._to_continue(labels))

    def reference_rows(self, labels: Iterable[str]) -> int:
        """Return about how many rows `write_references` would make."""
        asked = {label: self._asked(label) for label in labels}
        begun = self._to_continue([label for label, some in asked.items() if not some])
        new = (self._new("answers", asked), self._new("texts", begun))
        return sum(len(some) for each in new for some in each.values())

    def references(self) -> dict[str, dict[str, Any]]:
        """Return what the texts of every label are compared with: how many texts of which kind."""
        found: dict[str, dict[str, Any]] = {}
        for label in dict.fromkeys([*self.reference_prompts, *self.texts]):
            answered, own = self._written("answers", label), len(self._in_language(label))
            enough = own >= reference.LEAST
            found[label] = {
                "kind": reference.OWN_ANSWERS if enough else reference.CONTINUATIONS,
                "texts": len(self._references(label)),
                **({"answers": len(answered), "in_language": own} if answered else {}),
            }
        return found

    def _write(self, kind: str, given: Mapping[str, Sequence[str]]) -> None:
        new = self._new(kind, given)
        rows = [(text, label) for label, some in new.items() for text in some]
        made: dict[str, list[dict[str, Any]]] = {}
        for begin in range(0, len(rows), self.batch_size):
            some = rows[begin : begin + self.batch_size]
            # The answer to a beginning, in a chat, is not the text that goes on from it.
            chat = kind == "answers"
            items = self._made([(text, self._encoded(text, chat=chat), -1) for text, _ in some])
            for (_, label), item in zip(some, items, strict=True):
                made.setdefault(label, []).append(item)
            for label in list(made):
                if len(made[label]) == len(new[label]):
                    self.saved.put("reference", kind, (label,), {"found": made.pop(label)})
            self.tell("write reference texts", len(some))

    def _new(self, kind: str, given: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        return {k: v for k, v in given.items() if v and not self._written(kind, k)}

    def _asked(self, label: str) -> list[str]:
        return reference.different(self.reference_prompts.get(label, ()))

    def _to_continue(self, labels: Iterable[str]) -> dict[str, list[str]]:
        return {
            label: reference.beginnings(label, self.texts[label])
            for label in labels
            if label in self.texts and not self._references(label)
        }

    def _written(self, kind: str, label: str) -> list[dict[str, Any]]:
        kept: Any = self.saved.get("reference", kind, (label,))
        return kept["found"] if kept else []

    def _in_language(self, label: str) -> list[dict[str, Any]]:
        answered = self._written("answers", label)
        return [item for item in answered if same(item["identified"], label)]

    def _references(self, label: str) -> list[dict[str, Any]]:
        own = self._in_language(label)
        return own if len(own) >= reference.LEAST else self._written("texts", label)

    def reference_range(self, label: str) -> tuple[float, float]:
        """Return between which nats per character the middle 80 % of the reference texts are."""
        key = ("reference", "losses", (label,))
        if self.saved.get(*key) is None:
            losses = self._losses([item["ids"] for item in self._references(label)])
            # Texts that ended at once say nothing.
            known = [loss for loss in losses if loss is not None]
            self.saved.put(*key, {"range": reference.middle(known) if known else (0.0, 0.0)})
        found: Any = self.saved.get(*key)
        low, high = found["range"]
        return low, high

    def _least_distinct(self, label: str) -> float:
        """Return what nine in ten of the reference texts have of distinct n-grams."""
        n = reference.ngram_of(label)
        return reference.middle(
            [reference.distinct(item["text"], n) for item in self._references(label)]
        )[0]

    # --- likelihoods ----------------------------------------------------------------------------

    def compare_with_natural(self, settings: Sequence[Setting], block: int) -> None:
        """Score the texts of a round given nothing, where there are texts to compare with."""
        for setting in settings:
            if not self._references(setting.label) or not self._has("texts", setting, block):
                continue
            self.reference_range(setting.label)
            if not self._has("natural", setting, block):
                items = self._get("texts", setting, block)
                losses = self._losses([item["ids"] for item in items])
                self._put("natural", setting, block, losses)
            self.tell("score", 0)

    def retrieve(self, settings: Sequence[Setting], block: int) -> None:
        """Look for the own prompt of every text of a round, steered and unsteered."""
        for setting in settings:
            if not self._has("texts", setting, block):
                continue
            for i in self._prompts(setting.label, block):
                if not self._has("retrieved", None, i):
                    self._put("retrieved", None, i, self._found(self._get("texts", None, i)))
            if not self._has("retrieved", setting, block):
                items = self._get("texts", setting, block)
                self._put("retrieved", setting, block, [self._found(item) for item in items])

    def _losses(self, texts: Sequence[Sequence[int]]) -> list[float | None]:
        rows = [reference.scored_row(self.tokenizer, ids) for ids in texts]
        scored = iter(self._scored([row for row in rows if row is not None]))
        return [
            None
            if row is None
            else reference.nats_per_character(self.tokenizer, ids, next(scored).logprob)
            for ids, row in zip(texts, rows, strict=True)
        ]

    def _found(self, item: Mapping[str, Any]) -> bool | None:
        """Return whether a text is likelier after its own prompt than after any other one."""
        given = [self._ids[i] for i in (item["prompt"], *self._others(item["prompt"]))]
        return retrieval.prompts_found([(given, item["ids"])], self._scored)[0]

    def _others(self, prompt: int) -> list[int]:
        """Return other prompts of the same language."""
        mine = self.prompts[prompt]
        others = [
            i
            for i, each in enumerate(self.prompts)
            if each.text != mine.text and each.language == mine.language
        ]
        return retrieval.other_candidates(mine.text, others, self.settings.seed)

    def _scored(self, rows: Sequence[TokenRow]) -> list[Likelihood]:
        found: list[Likelihood] = []
        for begin in range(0, len(rows), _SCORED):
            some = rows[begin : begin + _SCORED]
            self.budget.step("score")
            found += score_rows(self.model, some, batch_size=_SCORED)
            self.tell("score", len(some))
        return found

    # --- what was found -------------------------------------------------------------------------

    def items(self, setting: Setting) -> list[dict[str, Any]]:
        """Return the texts of a setting: `prompt` (its position), `ids`, `text`, `identified`."""
        return self._observed(setting).items

    def cell(self, setting: Setting) -> Cell | None:
        """Return what is known about a setting; `None` if nothing is."""
        seen = self._observed(setting)
        items = seen.items
        if not items:
            return None
        plain = [self._get("texts", None, item["prompt"]) for item in items]
        said = Counter(str(item["identified"]) for item in items)
        return Cell(
            label=setting.label,
            strength=setting.strength,
            share=setting.share,
            texts=len(items),
            success=_mean(seen.right),
            stayed=_mean(
                [same(item["identified"], self.prompts[item["prompt"]].language) for item in items]
            ),
            distinct=self._distinct(setting.label, items, plain),
            natural=_mean(seen.natural) if seen.natural else None,
            away=_mean(seen.away) if seen.away else None,
            relevance=_mean(seen.hits) / seen.found_unsteered if seen.hits else None,
            identified=dict(said.most_common()),
            examples=tuple(item["text"] for item in items[:_EXAMPLES]),
            candidate=self.candidate,
        )

    def intervals(self, setting: Setting) -> dict[str, tuple[float, float]]:
        """Return 95 % intervals of a setting's success, natural and relevance, where measured.

        That of relevance takes the share of the unsteered texts as it was found.
        """
        seen = self._observed(setting)
        shares = {"success": seen.right, "natural": seen.natural, "relevance": seen.hits}
        found = {name: wilson(_mean(each), len(each)) for name, each in shares.items() if each}
        if "relevance" in found:
            low, high = found["relevance"]
            found["relevance"] = (low / seen.found_unsteered, high / seen.found_unsteered)
        return found

    def _observed(self, setting: Setting) -> _Observed:
        seen = _Observed()
        for block in range(len(self.blocks(setting.label))):
            if not self._has("texts", setting, block):
                continue
            own = self._get("texts", setting, block)
            seen.items += own
            seen.right += [same(item["identified"], setting.label) for item in own]
            if self._has("natural", setting, block):
                low, high = self.reference_range(setting.label)
                losses = self._get("natural", setting, block)
                far = [reference.outside(loss, low, high) for loss in losses]
                least = self._least_distinct(setting.label)
                n = reference.ngram_of(setting.label)
                # The loss is a mean: what repeats itself and what makes no sense can even out.
                seen.natural += [
                    distance == 0 and reference.distinct(item["text"], n) >= least
                    for item, distance in zip(own, far, strict=True)
                ]
                seen.away += far
            if self._has("retrieved", setting, block):
                for item, hit in zip(own, self._get("retrieved", setting, block), strict=True):
                    plain = self._get("retrieved", None, item["prompt"])
                    if hit is not None and plain is not None:
                        seen.hits.append(hit)
                        seen.unsteered.append(plain)
        return seen

    def _distinct(
        self, label: str, items: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]]
    ) -> float:
        """Return distinct n-grams relative to the reference, else to the unsteered texts."""
        known = self._references(label)
        n = reference.ngram_of(label) if known else NGRAM
        base = _mean([reference.distinct(each["text"], n) for each in known or plain])
        return (
            _mean([reference.distinct(each["text"], n) for each in items]) / base if base else 1.0
        )

    def unsteered(self) -> dict[str, Any]:
        """Return what is known about the model's own continuations."""
        known = [i for i in range(len(self.prompts)) if self._has("texts", None, i)]
        items = [self._get("texts", None, i) for i in known]
        found = [self._get("retrieved", None, i) for i in known if self._has("retrieved", None, i)]
        found = [hit for hit in found if hit is not None]
        return {
            "texts": len(items),
            "distinct": _mean([reference.distinct(item["text"], NGRAM) for item in items])
            if items
            else None,
            "retrieved": _mean(found) if found else None,
        }

    def _case(self, setting: Setting | None, part: int) -> tuple[str, tuple[str, ...]]:
        if setting is None:
            return _UNSTEERED, (str(part),)
        share = "" if setting.share is None else f"{setting.share:g}"
        return self.candidate or _STEERED, (
            share,
            setting.label,
            f"{setting.strength:g}",
            str(part),
        )

    def _has(self, task: str, setting: Setting | None, part: int) -> bool:
        return self.saved.get(task, *self._case(setting, part)) is not None

    def _get(self, task: str, setting: Setting | None, part: int) -> Any:
        kept: Any = self.saved.get(task, *self._case(setting, part))
        return kept["found"]

    def _put(self, task: str, setting: Setting | None, part: int, found: Any) -> None:
        self.saved.put(task, *self._case(setting, part), {"found": found})


def _target(setting: Setting | None) -> Schedule | None:
    return None if setting is None else Schedule(Point(0, setting.label, setting.strength))


def _mean(values: Sequence[float | bool]) -> float:
    return statistics.fmean(values)
