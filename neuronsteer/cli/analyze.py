"""`neuronsteer analyze`: where labels are, what they share, what each layer would predict."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import MissingExtraError, NeuronSteerError, ParameterError
from ..hub import check_output, kinds_in
from . import console, options
from .collect import read_corpora
from .commands import command

if TYPE_CHECKING:
    from ..analysis import Result


@command(
    "analyze",
    examples="""
    neuronsteer analyze demo
    neuronsteer analyze neurons --what layers,overlap -o analysis
    neuronsteer analyze stats -o analysis
    neuronsteer analyze --model demo --texts corpus/ --what logit_lens --set top=5 -o analysis
    neuronsteer analyze neurons --model MODEL --texts fr=fr.txt --texts en=en.txt -o analysis
    neuronsteer analyze before after --what compare
    neuronsteer analyze --list
    """,
)
def analyze(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET|STATS]...",
            help="Neuron sets, or folders written by 'neuronsteer collect'. Two of a kind are also "
            "compared: before and after.",
        ),
    ] = None,
    *,
    what: Annotated[
        list[str] | None,
        typer.Option(
            help="Analyses, comma-separated; by default every one for which the inputs are there."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of the model, for analyses that run it; or 'demo'."),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option(help="A folder with one file per label, or LABEL=FILE once per label."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder for JSON, PNG and SVG of each analysis."
        ),
    ] = None,
    parameters: options.Parameters = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw PNG and SVG.")] = True,
    listing: Annotated[bool, typer.Option("--list", help="List the analyses.")] = False,
    overwrite: options.Overwrite = False,
    loading: options.LoadOptions,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Analyse neuron sets, statistics, and the model behind them.

    Sets give layers, overlap and sharing; statistics the four parts of the model; a model with
    texts the logit lens, the language ratio and the stability of what is found; all of them how
    well neurons tell languages.
    """
    from ..analysis import ANALYSES, Analysis, analysis
    from ..analysis import analyze as run

    if listing:
        _list(as_json)
        return
    if bool(model) != bool(texts):
        raise ParameterError(
            "Analyses that run the model need both --model and --texts; got only "
            + ("--model." if model else "--texts.")
        )
    wanted = [name.strip() for each in what or () for name in each.split(",") if name.strip()]
    kinds = {name: ANALYSES.get(name) for name in wanted}
    material = _material(sources or [])
    available = {name for name, found in material.items() if found is not None}
    available |= {"model", "tokenizer", "texts"} if model else set()
    if not kinds:
        kinds = {name: kind for name, kind in ANALYSES.items() if set(kind.needs) <= available}
        if "stats" in available:
            # Statistics are compared as they are, but have no neurons to count yet.
            kinds = {n: k for n, k in kinds.items() if "neurons" not in k.needs or n == "compare"}
    for name, kind in kinds.items():
        missing = [each for each in kind.needs if each not in available]
        if missing:
            raise ParameterError(f"The analysis {name!r} lacks {_wanting(missing)}.")
    if not kinds:
        raise ParameterError(
            "There is nothing to analyse: give a neuron set, statistics, or --model and --texts. "
            "'neuronsteer analyze --list' says what each analysis needs."
        )
    if out is not None:
        _check_folder(out, list(kinds), overwrite)
    given = options.read_parameters(parameters or [], kinds)
    # Parameters are checked before a large model is loaded.
    chosen: dict[str, Analysis] = {
        name: analysis(name, **{k: v for k, v in given.items() if k in _fields(kind)})
        for name, kind in kinds.items()
    }
    if model and any("model" in kind.needs for kind in kinds.values()):
        loaded, tokenizer = loading.load(model)
        material |= {"model": loaded, "tokenizer": tokenizer, "texts": read_corpora(texts or [])}
    found: list[Result] = []
    failed: NeuronSteerError | None = None
    for name, each in chosen.items():
        console.note(f"{name} …", quiet=quiet)
        try:
            with console.working(name, quiet=quiet):
                result = run(each, *(material[need] for need in kinds[name].needs))
        except (ParameterError, MissingExtraError) as error:
            if wanted:
                raise
            # It was not asked for by name.
            failed = error
            console.note(f"Left out {name}: {error}", quiet=quiet)
            continue
        found.append(result)
        if out is not None:
            files = result.save(out, plot=plots)
            console.note("Wrote " + ", ".join(map(str, files)), quiet=quiet)
        if not as_json and not quiet:
            console.out().print(result.table())
    if failed is not None and not found:
        raise failed
    if as_json:
        console.dump({result.analysis: result.to_dict() for result in found})


def _check_folder(out: Path, wanted: list[str], overwrite: bool) -> None:
    """Raise unless the analyses can be written; other files may stand beside them."""
    there = any((out.expanduser() / f"{name}.json").exists() for name in wanted)
    check_output(
        out,
        "analyses",
        lambda folder: folder.is_dir() and not kinds_in(folder),
        overwrite=overwrite or not there,
    )


def _material(sources: list[str]) -> dict[str, Any]:
    """Return the sets or statistics by the names that analyses know them by."""
    from ..stats import Stats
    from .models import load_set

    loaded: dict[str, Any] = {}
    for source in sources:
        is_stats = (Path(source) / "stats.json").is_file()
        loaded[source] = Stats.load(source) if is_stats else load_set(source)
    if not loaded:
        return {}
    if len(loaded) < len(sources):
        raise ParameterError(f"The same source was given twice: {', '.join(sources)}.")
    if len({type(each) for each in loaded.values()}) > 1:
        raise ParameterError(
            "Sets and statistics were given together; analyse one kind of them at a time."
        )
    first, *rest = loaded.values()
    stats = first if hasattr(first, "arrays") else None
    return {
        "neurons": first if stats is None or len(rest) == 1 else None,
        "other": rest[0] if len(rest) == 1 else None,
        "stats": stats,
        "parts": {_short(name): each for name, each in loaded.items()} if rest else None,
    }


def _short(source: str) -> str:
    return Path(source).name or source


def _wanting(missing: list[str]) -> str:
    from ..analysis import INPUTS

    return ", ".join(f"{name} ({INPUTS[name]})" for name in missing)


def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _list(as_json: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..analysis import ANALYSES

    if as_json:
        console.dump(
            {
                name: {
                    "question": kind.question,
                    "needs": list(kind.needs),
                    "parameters": list(_fields(kind)),
                    "paper": kind.paper,
                }
                for name, kind in ANALYSES.items()
            }
        )
        return
    table = Table("analysis", "question", "needs", "parameters (--set)")
    for name, kind in ANALYSES.items():
        row = (name, kind.question, ", ".join(kind.needs), ", ".join(_fields(kind)))
        table.add_row(*map(escape, row))
    console.out().print(table)
