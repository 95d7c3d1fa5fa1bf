"""`evaluate`: experiments, treatments and cases, measured in order and saved one by one."""

from __future__ import annotations

import datetime
import math
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, HubError, NeuronSteerError, ParameterError
from ...neuron_set import NeuronSet
from ...stats import Stats
from ...stats.progress import shown_on_stderr
from ..metrics.langid import IdentifierLike, identifier
from ..readers import EvaluationData
from ..reports import Report
from ..run_log import Log, RunLog, check_log, logged_run
from . import EXPERIMENTS, Case, Experiment, Finding, experiment
from ._model_under_test import NONE, EvaluationSettings, ModelUnderTest, Treatment, candidates
from ._pooling import as_json, grouped
from ._provenance import environment, plan_of, subject_of
from ._saved_cases import SavedCases
from ._treatments import RANDOM, treatments

#: Default arguments for continuing text. Greedy decoding loops, with or without steering.
GENERATION: Mapping[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}

TaskLike = str | Experiment | Mapping[str, Any]
#: Called after every case with what was measured, how many cases are done, and how many there are.
OnProgress = Callable[[str, int, int], None]


def evaluate(
    model: Any,
    neurons: NeuronSet | str | PathLike[str],
    *,
    tokenizer: Any,
    tasks: Sequence[TaskLike] | str | None = None,
    controls: Sequence[str] | str = ("none", "random:3"),
    data: Mapping[str, Any] | str | Path | None = None,
    labels: Sequence[str] | None = None,
    limit: int | None = None,
    stats: Stats | str | PathLike[str] | None = None,
    identifier: IdentifierLike = "lingua",
    languages: Sequence[str] | str = "auto",
    floor: float = 0.0,
    generation: Mapping[str, Any] | None = None,
    strength: float = 1.0,
    source: str | Sequence[str] | None = None,
    chat: bool | None = None,
    batch_size: int = 64,
    seed: int = 0,
    out: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: bool | OnProgress = False,
    log: str | RunLog | None = None,
) -> Report:
    """Measure what a neuron set does to a model, and what its controls do.

    Args:
        model: The model, a causal LM of transformers.
        neurons: The set, or where it is.
        tokenizer: The model's tokenizer.
        tasks: Experiments: names, `{"name": …, parameters}`, or experiments; one string may hold
            several names, with commas. Default: all for which there is data, except `clas_bench`.
        controls: What the set is compared with: `none` (nothing attached), `random:N` (N sets of as
            many random neurons), `diffmean` (differences of means in the residual stream).
        data: Where texts and tasks come from, see `neuronsteer.evaluation.readers.EvaluationData`;
            without any, a few built-in sentences in 17 languages.
        labels: Only these labels of the set.
        limit: Items per label and experiment; default: each experiment's own, meant for a laptop.
        stats: Statistics for the `diffmean` control; default: collected from the given texts.
        identifier: What identifies the language of a text, see `neuronsteer.evaluation.metrics`.
        languages: What the identifier chooses from: `auto` (the labels and the built-in
            languages), `all`, or a list.
        floor: Confidence below which a language counts as unclear.
        generation: Arguments of `model.generate` for continuing text; default: sampling at
            temperature 0.8. Papers that force languages decode greedily with a repetition penalty
            of 1.1: `{"do_sample": False, "repetition_penalty": 1.1}`.
        strength: How much of the set's operation.
        source: What is left, as in `steer.to`; default: what the set's header says.
        chat: Whether prompts go through the chat template; default: if the tokenizer has one.
        batch_size: Rows per batch.
        seed: Of sampling and of bootstraps.
        out: Folder for the report. Finished cases are saved beside it until it is written.
        resume: Continue with the saved cases of an interrupted run into the same folder.
        progress: Show it on stderr, or call this after every case.
        log: An experiment tracker that is told every setting of a sweep when it is measured, and
            all results in the end: `"trackio"`, `"wandb"`, or a run of your own with `log()`.

    Returns:
        The report; with `out`, also written as JSON, Markdown and HTML.

    Example:
        >>> report = ns.evaluate(model, "user/neurons", tokenizer=tok)  # doctest: +SKIP
        >>> report.value("forcing"), report.value("forcing", treatment="random")  # doctest: +SKIP
    """
    started = time.monotonic()
    check_log(log)
    rows = neurons if isinstance(neurons, NeuronSet) else NeuronSet.from_pretrained(neurons)
    if labels is not None:
        rows = rows.only(*labels)
    able = [label for label, count in rows.counts.items() if count]
    if not able:
        raise ParameterError("No label of the set has neurons; there is nothing to evaluate.")
    sources = EvaluationData(data, able)
    chosen = _tasks(tasks, sources)
    where = None if out is None else Path(out).expanduser()
    _check_out(where)
    settings = EvaluationSettings(
        limit=_positive("limit", limit),
        seed=seed,
        batch_size=_positive("batch_size", batch_size) or 1,
        generation=dict(GENERATION if generation is None else generation),
        identifier=identifier,
        candidates=_candidates(languages, able),
        floor=floor,
        chat=bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat,
        strength=strength,
        source=source,
    )
    tested = ModelUnderTest(model, rows, tokenizer, able, sources, settings)
    chosen, left_out = _possible(chosen, tested, asked=tasks is not None)
    path = stats if stats is None or isinstance(stats, Stats) else fspath(stats)
    compared = treatments(tested, controls, path)
    compared += [Treatment(each, None, baseline=True) for each in _baselines(chosen)]
    plan = plan_of(tested, chosen, compared, controls)
    saved = SavedCases(
        None if where is None else where.with_name(where.name + ".partial"), plan, resume
    )
    subject = subject_of(model, tokenizer, rows)
    with logged_run(log, "evaluate", {"subject": subject, **plan}) as tell:
        seconds = _measure(tested, chosen, compared, saved, progress, tell)
        found = [_task(each, tested, compared, saved, seconds[each.name]) for each in chosen]
        tell(_results(found))
    report = Report(
        subject=subject,
        settings=plan["settings"] | {"controls": plan["controls"], "tasks": plan["tasks"]},
        environment=environment(),
        data=sources.used(),
        tasks=tuple(found),
        notes=tuple(left_out),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
    )
    if where is not None:
        report.save(where)
        saved.close()
    return report


def _measure(
    tested: ModelUnderTest,
    tasks: Sequence[Experiment],
    compared: Sequence[Treatment],
    saved: SavedCases,
    progress: bool | OnProgress,
    log: Log,
) -> dict[str, float]:
    """Measure every case that is not saved yet; return how long each experiment took."""
    seconds = {task.name: 0.0 for task in tasks}
    todo: list[tuple[Treatment, list[tuple[Experiment, Case]]]] = []
    total = done = 0
    for treatment in compared:
        own: list[tuple[Experiment, Case]] = []
        for task in tasks:
            if not _takes_part(task, treatment):
                continue
            cases = task.cases_of_treatment(tested, treatment.name)
            total += len(cases)
            missing = [c for c in cases if saved.get(task.name, treatment.name, c) is None]
            done += len(cases) - len(missing)
            own += [(task, case) for case in missing]
        if own:
            todo.append((treatment, own))
    with _progress(progress, total, done) as tell:
        for treatment, own in todo:
            # Hooks go on and off once per treatment, not once per case.
            with tested.under(treatment):
                for task, case in own:
                    began = time.monotonic()
                    tell(f"{task.name} · {treatment.name} · {'→'.join(case)}", 0)
                    observed = task.run(tested, case)
                    saved.put(task.name, treatment.name, case, observed)
                    numbers = task.case_numbers(case, observed)
                    if numbers:
                        log({"treatment": treatment.name} | _under(task.name, numbers))
                    seconds[task.name] += time.monotonic() - began
                    tell(f"{task.name} · {treatment.name}", 1)
    return seconds


@contextmanager
def _progress(
    progress: bool | OnProgress, total: int, done: int
) -> Generator[Callable[[str, int], None], None, None]:
    """Return a callback: what is being measured, and how many cases were finished since."""
    if progress is False:
        yield lambda _what, _more: None
        return
    count = done

    def call(what: str, more: int) -> None:
        nonlocal count
        count += more
        if more and callable(progress):
            progress(what, count, total)

    if callable(progress):
        yield call
        return
    with shown_on_stderr("evaluate") as show:

        def draw(what: str, more: int) -> None:
            call(what, more)
            show(what, count / total if total else None, f"{count}/{total} cases")

        yield draw


def _task(
    task: Experiment,
    tested: ModelUnderTest,
    compared: Sequence[Treatment],
    saved: SavedCases,
    seconds: float,
) -> dict[str, Any]:
    taking = [treatment for treatment in compared if _takes_part(task, treatment)]
    findings: dict[str, Finding] = {}
    for treatment in taking:
        seen = saved.of(task.name, treatment.name)
        # In the order in which they are measured, wherever they were read from.
        cases = task.cases_of_treatment(tested, treatment.name)
        findings[treatment.name] = task.score(tested, {case: seen[case] for case in cases})
    # A baseline of another experiment is not missing here.
    absent = {treatment.name.split(":")[0] for treatment in compared if not treatment.baseline} - {
        a.name.split(":")[0] for a in taking
    }
    return {
        "name": task.name,
        "title": task.title,
        "question": task.question,
        "definition": task.definition,
        "paper": task.paper,
        "primary": task.primary,
        "higher_is_better": task.higher_is_better,
        "unit": task.units.get(task.primary, "share"),
        "units": dict(task.units),
        "reads": list(task.kinds(tested.data)),
        "parameters": task.parameters() | {"items": task.count(tested)},
        "treatments": {name: as_json(several) for name, several in grouped(findings).items()},
        "not_applicable": sorted(absent),
        "seconds": round(seconds, 1),
    }


def _under(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}/{key}": value for key, value in numbers.items()}


def _results(tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return every number of a report, as `experiment/treatment/number`."""
    return {
        f"{task['name']}/{treatment}/{name}": value["value"]
        for task in tasks
        for treatment, found in task["treatments"].items()
        for name, value in found["values"].items()
        if value is not None
    }


def _baselines(tasks: Sequence[Experiment]) -> list[str]:
    return list(dict.fromkeys(name for task in tasks for name in task.baselines))


def _takes_part(task: Experiment, treatment: Treatment) -> bool:
    if treatment.baseline:
        return treatment.name in task.baselines
    if treatment.name == NONE:
        return task.unsteered
    if treatment.direction:
        return task.directions
    kind, _, seed = treatment.name.partition(":")
    return kind != RANDOM or task.seeds is None or int(seed) < task.seeds


def _tasks(tasks: Sequence[TaskLike] | str | None, data: EvaluationData) -> list[Experiment]:
    if tasks is None:
        given: list[TaskLike] = [
            name
            for name in EXPERIMENTS.names()
            if EXPERIMENTS.get(name).by_default and all(map(data.has, experiment(name).kinds(data)))
        ]
        given.sort(key=_order)
    elif isinstance(tasks, str):
        given = [name.strip() for name in tasks.split(",") if name.strip()]
    else:
        given = list(tasks)
    chosen = [experiment(each) for each in given]
    names = [each.name for each in chosen]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice or not chosen:
        raise ParameterError(
            f"The task {twice!r} is given twice." if twice else "There is no task to run."
        )
    for each in chosen:
        for kind in each.kinds(data):
            if not data.has(kind):
                data.get(kind)  # raises with what to give
    return chosen


def _order(name: TaskLike) -> tuple[int, str]:
    """Put experiments about success first, then side effects, and data sets last."""
    first = ("forcing", "switch", "lss", "deactivation", "perplexity", "fallback", "confusion")
    then = (*first, "side_effects", "sweep", "translation")
    return (then.index(str(name)) if name in then else len(then), str(name))


def _possible(
    tasks: list[Experiment], tested: ModelUnderTest, *, asked: bool
) -> tuple[list[Experiment], list[str]]:
    """Leave out what cannot be measured and was not asked for, and add a note."""
    who, notes = tested.settings.identifier, list[str]()
    try:
        if any(task.identifies for task in tasks):
            identifier(who, tested.settings.candidates)
    except ParameterError as error:
        if asked:
            raise
        left = [task.name for task in tasks if task.identifies]
        notes.append(f"Left out, because no language can be identified: {', '.join(left)}. {error}")
        tasks = [task for task in tasks if not task.identifies]
    able: list[Experiment] = []
    for task in tasks:
        try:
            task.check(tested)
            able.append(task)
        except NeuronSteerError as error:
            if asked:
                raise
            notes.append(f"Left out: {task.name}. {error}")
    return able, notes


def _candidates(languages: Sequence[str] | str, labels: Sequence[str]) -> tuple[str, ...] | None:
    if isinstance(languages, str):
        if languages not in ("auto", "all"):
            raise ParameterError(
                f"languages={languages!r}: expected 'auto', 'all', or a list of languages."
            )
        return candidates(labels) if languages == "auto" else None
    return tuple(languages)


def _check_out(where: Path | None) -> None:
    """Raise before the work if its result could not be written."""
    if where is None:
        return
    if where.is_file():
        raise ParameterError(
            f"{str(where)!r} is a file; a report is a folder, so choose another name."
        )
    if where.is_dir() and any(where.iterdir()):
        try:
            Report.load(where)
        except (ArtifactError, HubError):
            raise ParameterError(
                f"The folder {str(where)!r} holds something else than a report; choose another."
            ) from None
    usage = shutil.disk_usage(next(p for p in (where, *where.absolute().parents) if p.exists()))
    if usage.free < 10_000_000:
        raise ParameterError(f"There are only {usage.free} bytes left for {str(where)!r}.")


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and (not math.isfinite(value) or value < 1):
        raise ParameterError(f"{name} must be at least 1; got {value}.")
    return value
