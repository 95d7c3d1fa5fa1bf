"""`neuronsteer detect` and `convert`: neuron sets from statistics, and from published files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ParameterError
from . import console, options
from .commands import command
from .models import model_path
from .output import check_set_folder
from .tune import PANEL, TuneOptions, report

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet


@command(
    "detect",
    examples="""
    neuronsteer detect stats -o neurons
    neuronsteer detect stats --method lape --rate 0.02 -o neurons
    neuronsteer detect stats --set per_label=400 --set exclusive=true -o neurons
    neuronsteer detect stats -o neurons --tune MODEL --prompts en.txt --texts heldout/ --budget 20m
    neuronsteer detect stats -o neurons --tune MODEL --method effect,lape --layers early,all
    """,
    resume="Tuning goes on with: neuronsteer tune MODEL SET -o SET --resume, and the same options; "
    "where several sets were tried, SET SET … are the folders in SET.candidates.",
)
def detect(
    stats: Annotated[
        str,
        typer.Argument(
            metavar="STATS", help="Folder written by 'neuronsteer collect', or Hub id of one."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="Folder to write.")],
    method: Annotated[
        str,
        typer.Option(
            help="A detector: diffmean steers, effect selects neurons to steer with, lape "
            "those active for one label only; 'neuronsteer methods' lists all. With --tune, give "
            "several (diffmean,effect) and the best is kept."
        ),
    ] = "diffmean",
    rate: Annotated[
        float | None, typer.Option(help="Share of all neurons to select, where the method does.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to select from: early, middle, late (thirds), all, or such as 0-8. With "
            "--tune, several (early,0-8,all): the best are kept."
        ),
    ] = None,
    parameters: options.Parameters = None,
    overwrite: options.Overwrite = False,
    labels: Annotated[
        str | None, typer.Option(help="Use only these labels, comma-separated.")
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            rich_help_panel=PANEL,
            help="Also find how strongly to steer this model to each label, as 'neuronsteer tune' "
            "does; the other options here are about that.",
        ),
    ] = None,
    *,
    tuning: TuneOptions,
    loading: options.LoadOptions,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find the neurons of each label in statistics, and write them as a neuron set.

    Without --method the set steers, and selects nothing: it adds a part of the difference between
    the labels' means to the model's state. Statistics stay as they are: detecting again with other
    parameters or another method costs seconds.
    """
    if tune is None and (tuning != TuneOptions() or loading != options.LoadOptions()):
        raise ParameterError(
            "Options of tuning and of loading a model were given without --tune MODEL."
        )
    check_set_folder(out, overwrite)
    # Read now, not after detecting.
    tuning.seconds()
    from ..detectors import DETECTORS
    from ..detectors import detect as run
    from ..stats import Stats

    methods, parts = options.read_list(method) or [method], options.read_list(layers) or []
    if tune is None and max(len(methods), len(parts)) > 1:
        raise ParameterError(
            "Several methods or layers are sets to choose from, which needs --tune MODEL. For one "
            "set with neurons of several ranges of layers, use --set layers=0-3,8."
        )
    given = options.read_parameters(
        parameters or [], {each: DETECTORS.get(each) for each in methods}
    )
    if rate is not None:
        for each in methods:
            if "rate" not in {field.name for field in dataclasses.fields(DETECTORS.get(each))}:
                raise ParameterError(
                    f"--rate {rate:g}: the method {each} selects no share of the neurons. Use "
                    "--method effect to steer with few of them, or --method lape to describe."
                )
        given["rate"] = rate
    with console.working(f"detect {method}", quiet=quiet):
        loaded = Stats.from_pretrained(stats)
        if names := options.read_list(labels):
            loaded = loaded.only(*names)
        sets = {
            name: run(loaded, method=each, **own)
            for name, (each, own) in _candidates(methods, parts, given).items()
        }
    several = len(sets) > 1
    for name, neurons in sets.items():
        neurons.save_pretrained(_kept(out) / name if several else out)
        empty = [label for label, count in neurons.counts.items() if count == 0]
        if empty:
            console.note(
                f"{f'{name}: n' if several else 'N'}o neuron was found for {', '.join(empty)}: "
                "more text, a higher rate or a lower bar may help.",
                quiet=quiet,
            )
    neurons = next(iter(sets.values()))
    if tune is not None:
        rows = sets if several else neurons
        found = tuning.run(*loading.load(tune), rows, out=out, progress=not quiet)
        neurons = found.neurons
        report(found, out=out, plot=None, as_json=False, quiet=quiet or as_json)
    if several:
        console.note(f"The sets that were tried are in {_kept(out)}.", quiet=quiet)
    if as_json:
        console.dump(neurons.summary())
    elif not quiet:
        console.out().print(neurons.table())
    console.note(f"Wrote {out}. Next: neuronsteer show {out}", quiet=quiet)


def _candidates(
    methods: Sequence[str], layers: Sequence[str], given: Mapping[str, Any]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return name → method and its parameters, for every method at every choice of layers.

    Of several methods each takes the parameters that it has.
    """
    from ..detectors import DETECTORS

    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for method in dict.fromkeys(methods):
        own, parts = dict(given), list(layers)
        if len(methods) > 1:
            fields = {field.name for field in dataclasses.fields(DETECTORS.get(method))}
            own = {name: value for name, value in given.items() if name in fields}
            parts = parts if "layers" in fields else []
        for part in parts:
            name = method if len(parts) == 1 else f"{method}-{part}"
            found[name] = (method, {**own, "layers": part})
        if not parts:
            found[method] = (method, own)
    return found


def _kept(out: Path) -> Path:
    return out.with_name(out.name + ".candidates")


@command(
    "convert",
    examples="""
    neuronsteer convert llama.pth --labels en,zh,fr --base meta-llama/Llama-2-7b-hf -o neurons
    neuronsteer convert mask.pth --labels en,fr --width 11008 --model-type llama -o neurons
    neuronsteer convert vector.en.pt vector.fr.pt --labels en,fr --base ID -o directions
    """,
    arguments={"base_model": "base", "num_layers": "layers"},
)
def convert(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A .pth file of masks, of LAPE or of a fork of it; or CLaS-Bench's files of mean "
            "states, one per language.",
        ),
    ],
    labels: Annotated[
        str,
        typer.Option(help="Names of the languages in the order of the file, or of the files."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="Folder to write.")],
    base: Annotated[
        str | None,
        typer.Option(help="Hub id or folder of the model that the files were made for."),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Neurons per layer, if the model's config cannot be read."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Layers the file must have; checked if given.")
    ] = None,
    model_type: Annotated[
        str | None, typer.Option(help="Model family, if the model's config cannot be read.")
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Import what papers published with torch.save: masks, or the mean states of languages.

    Masks are lists of neurons, per language and layer. Mean states, one file per language, become
    what 'detect --method diffmean' makes of them. Only tensors are read; code in a file is refused.
    Such files carry no language names, so give them in order. A file with more or fewer lists than
    names is refused.
    """
    names = [name.strip() for name in labels.split(",")]
    if not all(names):
        raise ParameterError(f"--labels {labels!r} has an empty name between commas.")
    check_set_folder(out, overwrite)
    from ..neuron_set.paper_masks import load_mask
    from ..stats.published import holds_means

    model = None if base is None else model_path(base)
    means = len(files) > 1 or (files[0].is_file() and holds_means(files[0]))
    if means:
        neurons = _directions(files, names, model, model_type, layers, width)
    else:
        neurons = load_mask(
            files[0],
            names,
            num_layers=layers,
            width=width,
            model_type=model_type,
            base_model=model,
        )
    neurons.save_pretrained(out)
    if as_json:
        console.dump(neurons.summary())
    elif not quiet:
        console.out().print(neurons.table())
    console.note(
        f"Wrote {out}. It adds the difference of two languages' means."
        if means
        else f"Wrote {out}. The masks hold no statistics, so these neurons can be zeroed, scaled "
        "or set to a number.",
        quiet=quiet,
    )


def _directions(
    files: Sequence[Path],
    names: Sequence[str],
    base: str | None,
    model_type: str | None,
    layers: int | None,
    width: int | None,
) -> NeuronSet:
    """Return the directions between the mean states in files, one per language."""
    from ..detectors import detect
    from ..hub import public_name
    from ..stats import Stats

    if len(files) != len(names):
        raise ParameterError(
            f"There are {len(files)} files of mean states, one per language, but {len(names)} "
            f"name{'s' * (len(names) != 1)} in --labels ({', '.join(names)})."
        )
    stats = Stats.from_mean_files(
        dict(zip(names, files, strict=True)), base_model=public_name(base), model_type=model_type
    )
    for what, given, found in (
        ("--layers", layers, stats.num_layers),
        ("--width", width, stats.width),
    ):
        if given not in (None, found):
            raise ParameterError(
                f"{what} {given}: the files have {found}. The width of mean states is the model's "
                "hidden size."
            )
    return detect(stats, "diffmean")
