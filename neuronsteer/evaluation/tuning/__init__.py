"""Tuning: with which set and how strongly to steer, so that texts are in the language and good."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import ParameterError, unknown_label
from ...languages import same
from ...models import inspect
from ...models.special_tokens import unwritten_tokens
from ...neuron_set import NeuronSet
from ...operations import operation
from ...stats.identity import model_identity, tokenizer_identity
from ..candidates import identifier_among
from ..experiments._saved_cases import SavedCases
from ..metrics.langid import Identifier, IdentifierLike
from ..run_log import Log, RunLog, check_log, logged_run
from .budget import Budget, BudgetSpentError, Clock, seconds_of
from .candidate_sets import GivenSets, candidate_sets, combined
from .cells import Cell
from .choice import candidates, choose, search_all
from .measurements import Measurements, Prompt, Setting, TuningSettings
from .meter import OnProgress, metered
from .result import Tuning, notes_of
from .search import GRID, Search

__all__ = ["Tuning", "tune"]

Prompts = Sequence[str] | Mapping[str, Sequence[str]]
_LEAST_PROMPTS = 2
#: What a tracker is told about a strength.
_LOGGED = (
    "candidate", "share", "label", "strength", "texts",
    "success", "distinct", "natural", "relevance", "score",
)  # fmt: skip


def tune(
    model: Any,
    tokenizer: Any,
    neurons: GivenSets,
    prompts: Prompts,
    texts: Mapping[str, Sequence[str]] | None = None,
    *,
    labels: Sequence[str] | None = None,
    budget: float | str | None = None,
    strengths: Sequence[float] = GRID,
    shares: Sequence[float] | None = None,
    reference_prompts: Mapping[str, Sequence[str]] | None = None,
    source: str | Sequence[str] | None = None,
    max_new_tokens: int = 32,
    temperature: float = 0.8,
    suppress_tokens: Sequence[str | int] | None = None,
    first: int = 8,
    batch_size: int = 32,
    chat: bool | None = None,
    identifier: IdentifierLike = "lingua",
    languages: Sequence[str] | str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | OnProgress = False,
    log: str | RunLog | None = None,
    clock: Clock = time.monotonic,
) -> Tuning:
    """Find how strongly to steer to every label, and return the set with these strengths.

    The set's own operation is applied at several strengths to development prompts: a coarse grid
    first, then the neighbourhood of the best strength, then the two best on more prompts. Strengths
    are compared by success × fluency × relevance; see `docs/evaluation.md` for the definitions.

    Several sets, say of other methods or layers, are searched side by side; those that are clearly
    behind after the first look are given up. Of sets with the same site and operation every label
    gets the neurons that are best for it; otherwise the result is the set that is best on average.

    Args:
        model: The model, a causal LM of transformers.
        tokenizer: Its tokenizer.
        neurons: The set, or where it is. Or several to choose from, by name or as a list.
        prompts: Beginnings of texts in a language that is left, or label → beginnings: then every
            label is tuned on the prompts of all others.
        texts: Label → natural texts. What the unsteered model makes of their beginnings is the
            reference for fluency. Without those of a label, broken text may win there.
        labels: What to tune; default: all labels with neurons that are not the prompts' language.
        budget: How long it may take, in seconds or as text (`"20m"`, `"1h"`). When it is over, the
            best so far is the result.
        strengths: The coarse grid. Operations that are complete at 1 are tried up to 1 only.
        shares: Also try the best so many neurons per label, as shares of all units; as if they
            were further sets.
        reference_prompts: Of a chat model: label → prompts in that language. The unsteered answers
            that are in the language are the reference for fluency in place of what `texts` give,
            where there are enough. Default: if `prompts` are by label, the label's own ones.
        source: What is left, as `steer.to` takes it; default: what the set says.
        max_new_tokens: New tokens per prompt.
        temperature: Of sampling, among the 50 likeliest tokens; 0 is greedy.
        suppress_tokens: Tokens, or ids, that are never generated. Default: of a model that only
            continues texts, the special tokens that do not end one.
        first: Prompts per strength in the first round; only the best strengths see more of them.
        batch_size: Rows that are generated together.
        chat: Whether prompts go through the chat template; default: if the tokenizer has one.
        identifier: What identifies the language of a text, see `neuronsteer.evaluation.metrics`.
        languages: What it chooses from: `auto` (the labels, languages that are easily taken for
            them, and the built-in ones), `all`, or a list.
        seed: Of everything that is drawn.
        out: Folder for the tuned set, and `tuning.json` with everything measured. Beside it,
            what was measured so far is kept until the search has come to its end.
        resume: Go on with what was kept by a run into the same folder that was interrupted, or
            whose budget was spent.
        progress: Show it on stderr, or call this.
        log: An experiment tracker that is told every strength when it is measured: `"trackio"`,
            `"wandb"`, or a run of your own with `log()`.
        clock: What tells the time.

    Returns:
        The tuned set, and everything that was measured; with `out`, also written there.

    Example:
        >>> tuning = ns.tune(model, tok, neurons, prompts, texts, budget="20m")  # doctest: +SKIP
        >>> tuning.neurons.save_pretrained("tuned")  # doctest: +SKIP
    """
    limit = Budget(seconds_of(budget), clock)
    check_log(log)
    given = candidate_sets(neurons)
    # Strength 1 must mean the operation itself while the strengths are measured.
    sets = {name: each.replace(strengths={}) for name, each in given.items()}
    folder = None if out is None else Path(out).expanduser()
    if resume and folder is None:
        raise ParameterError("resume=True needs out=FOLDER, beside which the state was kept.")
    if folder is not None and folder.is_file():
        raise ParameterError(f"{str(folder)!r} is a file; a set is a folder: choose another name.")
    _check(strengths, shares, first, batch_size, max_new_tokens, temperature)
    able = _able(sets)
    identify = identifier_among(identifier, [*able, *(texts or {})], languages)
    found = _prompts(prompts, identify)
    wanted = _labels(labels, sets, able, found)
    natural = {k: list(v) for k, v in (texts or {}).items() if k in wanted and v}
    settings = TuningSettings(
        seed=seed,
        max_new_tokens=max_new_tokens,
        temperature=float(temperature),
        suppress_tokens=tuple(unwritten_tokens(model, tokenizer))
        if suppress_tokens is None
        else _token_ids(tokenizer, suppress_tokens),
        source=source if source is None or isinstance(source, str) else tuple(source),
        chat=bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat,
        first=first,
    )
    asked = _reference_prompts(reference_prompts, prompts, wanted, settings.chat)
    kept = None if folder is None else folder.with_name(folder.name + ".partial")
    plan = _plan(model, tokenizer, sets, found, texts or {}, asked, identify, settings)
    saved = SavedCases(kept, plan, resume)
    searches = [
        Search(
            Measurements(
                model,
                tokenizer,
                each,
                found,
                natural,
                identify,
                settings,
                saved,
                limit,
                batch_size,
                reference_prompts=asked,
                candidate=name,
            ),
            [label for label in wanted if each.counts.get(label)],
            tuple(strengths),
            operation(each.operation).unbounded,
            share,
        )
        for name, each in sets.items()
        for share in (None, *(shares or ()))
    ]
    with logged_run(log, "tune", plan) as tell:
        finished = _run(searches, wanted, limit, progress, tell)
        chosen, winners = choose(searches, wanted)
        winners = {label: _with_intervals(cell, searches) for label, cell in winners.items()}
        for label, cell in winners.items():
            tell({f"best/{label}/{name}": getattr(cell, name) for name in ("strength", "score")})
    where = {_setting(cell): cell for cell in winners.values()}
    cells = [where.get(_setting(cell), cell) for each in searches for cell in each.cells()]
    about = {
        **plan["settings"],
        "identifier": plan["identifier"],
        "prompts": len(found),
        "texts": {label: len(some) for label, some in natural.items()},
        "references": chosen.measured.references(),
        "budget": limit.seconds,
    }
    tuning = Tuning(
        neurons=chosen.measured.neurons,
        best=winners,
        cells=tuple(cells),
        unsteered=chosen.measured.unsteered(),
        settings=about,
        finished=finished,
        notes=(*_spent(finished, folder, searches), *notes_of(winners, about)),
        seconds=round(limit.elapsed, 1),
        candidates=candidates(searches, wanted, winners),
    )
    tuning = dataclasses.replace(tuning, neurons=_tuned(given, chosen.measured.candidate, tuning))
    if folder is not None:
        tuning.neurons.save_pretrained(folder)
        tuning.save_json(folder / "tuning.json")
        if finished:
            saved.close()
    return tuning


def _run(
    searches: Sequence[Search],
    labels: Sequence[str],
    limit: Budget,
    progress: bool | OnProgress,
    log: Log,
) -> bool:
    """Search until the end, or until the budget is spent; return which of them it was."""
    told: dict[tuple[str, Setting], Cell] = {}

    def tell() -> None:
        """Log what is new since the last stage."""
        for cell in (each for search in searches for each in search.cells()):
            if told.get(_setting(cell)) != cell:
                told[_setting(cell)] = cell
                log({name: getattr(cell, name) for name in _LOGGED})

    with metered(progress, limit) as meter:

        def before(search: Search, done: int, count: int) -> None:
            tell()
            meter.candidate(search.name, done, count)
            search.on_stage = meter.stage
            search.measured.tell = meter.rows

        try:
            search_all(searches, labels, before)
        except BudgetSpentError:
            return False
        finally:
            tell()
    return True


def _tuned(sets: Mapping[str, NeuronSet], base: str, tuning: Tuning) -> NeuronSet:
    """Return the set with the neurons, and the strengths, that won."""
    chosen = combined(sets, tuning.best, base)
    before = {k: v for k, v in sets[base].strengths.items() if k not in tuning.best}
    record = tuning.evaluation()
    earlier = dict(sets[base].evaluation or {})
    listed = earlier.get("results")
    others = [each for each in listed if _task(each) != "tune"] if isinstance(listed, list) else []
    return chosen.replace(
        strengths={**before, **tuning.strengths},
        evaluation={**earlier, **record, "results": [*others, *record["results"]]},
    )


def _setting(cell: Cell) -> tuple[str, Setting]:
    return cell.candidate, Setting(cell.label, cell.strength, cell.share)


def _with_intervals(cell: Cell, searches: Sequence[Search]) -> Cell:
    name, setting = _setting(cell)
    measured = next(each.measured for each in searches if each.measured.candidate == name)
    return dataclasses.replace(cell, intervals=measured.intervals(setting))


def _task(result: Any) -> Any:
    return result.get("task") if isinstance(result, Mapping) else None


def _spent(finished: bool, out: Path | None, searches: Sequence[Search]) -> list[str]:
    if finished:
        return []
    how = (
        "with out=FOLDER it can be resumed" if out is None else "the same call with resume goes on"
    )
    found = [f"The budget was spent before the search ended, so this is the best so far; {how}."]
    untried = [each.name for each in searches if not each.cells()] if len(searches) > 1 else []
    if untried:
        found.append(f"There was no time for {', '.join(untried)}.")
    return found


def _check(
    strengths: Sequence[float],
    shares: Sequence[float] | None,
    first: int,
    batch_size: int,
    max_new_tokens: int,
    temperature: float,
) -> None:
    if not strengths or not all(0 < strength < 100 for strength in strengths):
        raise ParameterError(
            f"strengths={tuple(strengths)}: expected numbers above 0, such as 0.5, 1 and 2."
        )
    if not all(0 < share <= 1 for share in shares or ()):
        raise ParameterError(f"shares={shares}: expected shares of all units, above 0 to 1.")
    for name, value in (("first", first), ("batch_size", batch_size)):
        if value < 1:
            raise ParameterError(f"{name}={value}: expected at least 1.")
    if max_new_tokens < 4:
        raise ParameterError(
            f"max_new_tokens={max_new_tokens}: expected at least 4; shorter texts have no language."
        )
    if not 0 <= temperature < 100:
        raise ParameterError(f"temperature={temperature}: expected 0 (greedy) or more.")


def _prompts(given: Prompts, identify: Identifier) -> list[Prompt]:
    if isinstance(given, str):
        raise ParameterError("prompts is one text; expected a list of them, or label → list.")
    if isinstance(given, Mapping):
        identify.identify(["text"])  # it loads what it needs before the first step is timed
        queues = {label: list(some) for label, some in given.items()}
        found: list[Prompt] = []
        # In turn, so that the first round has prompts of every label.
        for i in range(max(map(len, queues.values()), default=0)):
            found += [Prompt(some[i], label) for label, some in queues.items() if i < len(some)]
    else:
        guesses = identify.identify(list(given))
        said = [guess.label for guess in guesses if guess.label is not None]
        # A few words are easily taken for another language; the list is in one.
        language = max(dict.fromkeys(said), key=said.count, default=None)
        found = [Prompt(text, language) for text in given]
    found = [prompt for prompt in found if prompt.text.strip()]
    if len(found) < _LEAST_PROMPTS:
        raise ParameterError(
            f"There are {len(found)} prompts; expected at least {_LEAST_PROMPTS}, better 16 or "
            "more: they are what the strengths are tuned on."
        )
    return list(dict.fromkeys(found))


def _reference_prompts(
    given: Mapping[str, Sequence[str]] | None,
    prompts: Prompts,
    labels: Sequence[str],
    chat: bool,
) -> dict[str, list[str]]:
    if given is not None and not chat:
        raise ParameterError(
            "reference_prompts are answered in a chat, and prompts do not go through a chat "
            "template here. Give natural texts instead; what the model makes of their beginnings "
            "is then the reference."
        )
    if given is None:
        given = prompts if chat and isinstance(prompts, Mapping) else {}
    return {
        label: [text for name, some in given.items() if same(name, label) for text in some]
        for label in labels
        if any(same(name, label) for name in given)
    }


def _able(sets: Mapping[str, NeuronSet]) -> list[str]:
    """Return the labels that have neurons in any of the sets."""
    counted = [(label, count) for each in sets.values() for label, count in each.counts.items()]
    return list(dict.fromkeys(label for label, count in counted if count))


def _labels(
    given: Sequence[str] | None,
    sets: Mapping[str, NeuronSet],
    able: Sequence[str],
    prompts: Sequence[Prompt],
) -> list[str]:
    known = list(dict.fromkeys(label for each in sets.values() for label in each.labels))
    for label in given or ():
        if label not in known:
            raise unknown_label(label, known)
        if label not in able:
            raise ParameterError(f"The label {label!r} has no neurons, so nothing can be tuned.")
    wanted = [
        label
        for label in dict.fromkeys(given or able)
        if any(not same(prompt.language, label) for prompt in prompts)
    ]
    lost = [label for label in given or () if label not in wanted]
    if lost or not wanted:
        raise ParameterError(
            f"Nothing can be tuned for {', '.join(lost or able) or 'this set'}: "
            + (
                "all prompts are in that language already. Give prompts in another one."
                if able
                else "no label has neurons."
            )
        )
    return wanted


def _token_ids(tokenizer: Any, tokens: Sequence[str | int]) -> tuple[int, ...]:
    if isinstance(tokens, str):
        tokens = [tokens]
    found: list[int] = []
    known = tokenizer.get_vocab() if any(isinstance(token, str) for token in tokens) else {}
    for token in tokens:
        if isinstance(token, str) and token not in known:
            raise ParameterError(f"suppress_tokens: the tokenizer has no token {token!r}.")
        found.append(known[token] if isinstance(token, str) else int(token))
    return tuple(found)


def _plan(
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, NeuronSet],
    prompts: Sequence[Prompt],
    texts: Mapping[str, Sequence[str]],
    asked: Mapping[str, Sequence[str]],
    identify: Identifier,
    settings: TuningSettings,
) -> dict[str, Any]:
    """Return what measurements depend on; a run can be resumed only with the same plan."""
    return {
        "sets": {
            name: [each.fingerprint, dict(each.operation), each.source]
            for name, each in sets.items()
        },
        "model": model_identity(inspect(model)),
        "tokenizer": tokenizer_identity(tokenizer),
        "prompts": _digest([(prompt.text, prompt.language) for prompt in prompts]),
        "texts": _digest({label: list(some) for label, some in texts.items()}),
        "reference prompts": _digest(asked),
        "identifier": identify.name,
        "settings": {**vars(settings), "suppress_tokens": list(settings.suppress_tokens)},
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
