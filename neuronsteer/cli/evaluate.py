"""`neuronsteer evaluate`, `report` and `lm-eval`: what a set does, beside its controls."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ParameterError
from ..hub import check_output
from . import console, options
from .commands import command

if TYPE_CHECKING:
    from ..evaluation.reports import Report

_DEMO_ARGUMENT = re.compile(r"(?<![^,])(pretrained|neurons)=demo(?![^,])")


@command(
    "evaluate",
    examples="""
    neuronsteer evaluate demo demo -o report
    neuronsteer evaluate MODEL SET --tasks forcing,lss --controls random:10,none -o report
    neuronsteer evaluate MODEL SET --data texts=heldout/ --data xcopa=xcopa/ --limit 50 -o report
    neuronsteer evaluate MODEL SET --data 'xquad=hf://google/xquad/xquad.{label}:validation' -o r
    neuronsteer evaluate MODEL SET --tasks confusion --data lcb=benchmark/ --identifier lid.176 -o r
    neuronsteer evaluate MODEL SET --tasks translation --data pairs=parallel/ -o report
    neuronsteer evaluate MODEL SET --tasks clas_bench --data prompts=questions/ --judge MODEL2 -o r
    neuronsteer evaluate MODEL SET --task '{"name": "sweep", "strengths": [1, 2, 3]}' -o report
    """,
    resume="Every finished case is saved; continue with the same command and --resume.",
)
def evaluate(
    model: options.Model,
    neurons: options.NeuronSet,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="REPORT", help="Folder to write.")],
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Experiments, comma-separated; by default all for which there is data, except "
            "clas_bench. 'neuronsteer methods' lists them."
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="JSON", help="One more experiment, with parameters, as JSON; repeatable."
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A chat model that rates the answers of clas_bench; without one, relevance is "
            "the share of answers whose question can be told from them.",
        ),
    ] = None,
    controls: Annotated[
        str,
        typer.Option(
            help="What the set is compared with, comma-separated: none, random:SEEDS, "
            "diffmean[:FACTOR]; '' for no controls."
        ),
    ] = "none,random:3",
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=SOURCE",
            help="Texts and tasks: a folder of folders, or KIND=FOLDER or "
            "KIND=hf://owner/dataset/{label}:split, repeatable. Kinds: texts, prompts, facts, "
            "pairs, lcb, xcopa, mgsm, xquad, xwinograd, xnli, belebele, include, relations. "
            "Without any, a few built-in sentences.",
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Only these labels of the set, comma-separated.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Items per label and experiment; by default each one's own."),
    ] = None,
    stats: Annotated[
        Path | None,
        typer.Option(help="Statistics for diffmean ('collect --method diffmean')."),
    ] = None,
    identifier: Annotated[
        str,
        typer.Option(
            help="What identifies languages: lingua, lid.176, or a fastText or GlotLID model file."
        ),
    ] = "lingua",
    languages: Annotated[
        str,
        typer.Option(
            help="What it chooses from: auto (the labels and 17 common languages), all, or a list."
        ),
    ] = "auto",
    greedy: Annotated[
        bool,
        typer.Option(
            "--greedy", help="Decode greedily with a repetition penalty of 1.1, as papers do."
        ),
    ] = False,
    strength: Annotated[float, typer.Option(help="How much of the set's operation.")] = 1,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="What is left, where a difference of means is added: labels, 'others', or "
            "'prompt'; by default what the set says.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 64,
    seed: Annotated[int, typer.Option(help="Of sampling and bootstraps.")] = 0,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="TRACKER",
            help="Also send the numbers to a tracker, a sweep's as they are measured: trackio or "
            "wandb.",
        ),
    ] = None,
    loading: options.LoadOptions,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure what a neuron set does to a model, beside controls, and write a report.

    REPORT gets report.html to read, report.md to paste and report.json to compute with.
    """
    given = _tasks(tasks, task or [])
    if judge is not None and not any(map(_is_rated, given or [])):
        raise ParameterError("--judge rates the answers of clas_bench: add --tasks clas_bench.")
    check_output(
        out,
        "a report",
        lambda folder: (folder / "report.json").is_file(),
        overwrite=overwrite,
        resume=resume,
        beside=[out.with_name(out.name + ".partial")],
    )
    sources = options.read_sources(data, "--data", "KIND=SOURCE") if data else None
    from ..evaluation.experiments.run import evaluate as run
    from ..evaluation.run_log import check_log
    from .models import load_set

    check_log(log)
    rows = load_set(neurons)
    loaded, tokenizer = loading.load(model)
    if judge is not None and given is not None:
        # The revision is one of the model's repository.
        both = dataclasses.replace(loading, revision=None).load(judge)
        given = [
            {**({"name": each} if isinstance(each, str) else each), "judge": both}
            if _is_rated(each)
            else each
            for each in given
        ]
    chosen = languages if languages in ("auto", "all") else options.read_list(languages) or "auto"
    report = run(
        loaded,
        rows,
        tokenizer=tokenizer,
        tasks=given,
        controls=controls,
        data=sources,
        labels=options.read_list(labels),
        limit=limit,
        stats=stats,
        identifier=identifier,
        languages=chosen,
        generation={"do_sample": False, "repetition_penalty": 1.1} if greedy else None,
        strength=strength,
        source=options.read_list(source),
        batch_size=batch_size,
        seed=seed,
        out=out,
        resume=resume,
        progress=not quiet,
        log=log,
    )
    if as_json:
        console.dump(report.to_dict())
    elif not quiet:
        _print_report(report)
    console.note(f"Wrote {out}. Read {out / 'report.html'} in a browser.", quiet=quiet)


@command(
    "report",
    examples="""
    neuronsteer report lape-report
    neuronsteer report lape-report effect-report
    neuronsteer report effect-report --card >> README.md
    """,
)
def report(
    left: Annotated[str, typer.Argument(metavar="REPORT", help="Folder of 'evaluate', or JSON.")],
    right: Annotated[
        str | None, typer.Argument(metavar="[OTHER]", help="Another one, to compare with.")
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Print the section of a model card instead.")
    ] = False,
    attach: Annotated[
        str | None,
        typer.Option(
            metavar="SET", help="Write the results into this set's folder: its header and card."
        ),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show a report, or two side by side."""
    from ..evaluation.reports import Report

    first = Report.load(left)
    if right is not None:
        if card or attach:
            raise ParameterError("--card and --attach take one report, not two.")
        comparison = first.compare(Report.load(right))
        if as_json:
            console.dump(comparison.to_dict())
        else:
            typer.echo(comparison.to_markdown())
        return
    if attach is not None:
        _attach(first, attach)
        console.note(f"Wrote the results into {attach}.", quiet=quiet)
    if card:
        typer.echo(first.to_card())
    elif as_json:
        console.dump(first.to_dict())
    elif attach is None:
        typer.echo(first.to_markdown())


@command(
    "lm-eval",
    examples="""
    neuronsteer lm-eval run --model neuronsteer --model_args pretrained=ID,neurons=SET,to=fr --tasks xnli_fr
    neuronsteer lm-eval run --model neuronsteer --model_args pretrained=demo,neurons=demo,to=none --tasks T --include_path tasks/
    neuronsteer lm-eval ls tasks
    """,  # noqa: E501  # shell lines are shown as they are typed
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness with --model neuronsteer: any of its tasks on a steered model.

    All arguments are the harness's own. --model_args takes those of its hf model, and neurons=SET,
    to=LABEL, operation=, value=, strength=, away_from=A+B, source=A, site=.
    """
    from ..integrations.lm_eval import main

    main([_DEMO_ARGUMENT.sub(_demo_folder, argument) for argument in context.args])


def _demo_folder(found: re.Match[str]) -> str:
    from ..demo import model_folder, set_folder

    return f"{found[1]}={model_folder() if found[1] == 'pretrained' else set_folder()}"


def _tasks(tasks: str | None, more: list[str]) -> list[Any] | None:
    found: list[Any] = options.read_list(tasks) or []
    for text in more:
        try:
            spec = json.loads(text)
        except ValueError:
            spec = text
        if not isinstance(spec, str | dict):
            raise ParameterError(
                f"Cannot read --task {text!r}; expected an object such as "
                '{"name": "forcing", "tokens": 64}.'
            )
        found.append(spec)
    return found or None


def _is_rated(task: str | dict[str, Any]) -> bool:
    return (task if isinstance(task, str) else task.get("name")) == "clas_bench"


def _print_report(report: Report) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..evaluation.reports import formatting

    treatments = report.treatments
    table = Table(title=escape(report.title), box=None, padding=(0, 2, 0, 0))
    table.title_justify = "left"
    table.add_column("experiment")
    table.add_column("headline", style="dim")
    for name in treatments:
        table.add_column(formatting.TREATMENTS[name], justify="right")
    for task in report.tasks:
        unit = str(task["unit"])
        cells = [
            formatting.number(found["value"], unit) if found else ""
            for name in treatments
            for found in [task["treatments"].get(name, {}).get("values", {}).get(task["primary"])]
        ]
        table.add_row(escape(task["title"]), formatting.title(task["primary"]), *cells)
    console.out().print(table)
    if not report.controls:
        console.note(formatting.NO_CONTROLS)
    for note in report.notes:
        console.note(note)


def _attach(report: Report, name: str) -> None:
    """Write results into the header of a set in a local folder."""
    from .models import load_set

    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ParameterError(f"--attach writes into a local folder; there is none at {name!r}.")
    rows = load_set(name)
    if rows.fingerprint != report.subject["set"]["fingerprint"]:
        raise ParameterError(
            f"The report is about another set than {name!r}: its fingerprint is "
            f"{report.subject['set']['fingerprint'][:12]}…, the folder's is "
            f"{rows.fingerprint[:12]}…. Evaluate this set, or name the other one."
        )
    rows.replace(evaluation=report.to_evaluation()).save_pretrained(folder)
