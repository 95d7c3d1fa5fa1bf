"""`neuronsteer collect`: from texts to statistics."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ParameterError, TextError
from ..hub import check_output
from . import console, options
from .commands import command

if TYPE_CHECKING:
    from ..stats import Stats

_HUB = "hf://"


@command(
    "collect",
    examples="""
    neuronsteer collect MODEL --texts corpus/ -o stats
    neuronsteer collect MODEL --texts fr=fr.txt --texts en=en.jsonl.gz --max-tokens 1000000 -o stats
    neuronsteer collect MODEL --texts fr=hf://wikimedia/wikipedia/20231101.fr:train -o stats
    neuronsteer collect CHAT_MODEL --answers prompts/ -o stats
    torchrun --nproc-per-node 4 -m neuronsteer.cli collect MODEL --texts corpus/ -o stats --resume
    """,
    resume="Work up to the last checkpoint is kept; continue with the same command and --resume.",
)
def collect(
    model: options.Model,
    texts: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder with one file per label (fr.txt, ja.jsonl.gz …); or LABEL=FILE or "
            "LABEL=hf://owner/dataset/config:split, once per label."
        ),
    ] = None,
    *,
    answers: Annotated[
        Path | None,
        typer.Option(
            metavar="PROMPTS",
            help="Instead of texts: a folder with prompts, one file per label. The model answers "
            "them, answers in the language of their prompt are kept (in STATS.answers), and "
            "counted. For chat models, whose answers are not like plain text.",
        ),
    ] = None,
    answer_tokens: Annotated[
        int, typer.Option(min=4, help="Length of these answers, in tokens.")
    ] = 64,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="STATS", help="Folder to write.")],
    method: Annotated[
        str | None,
        typer.Option(help="Collect what this detector needs; by default enough for lape."),
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Sparse autoencoders, for methods about their features."),
    ] = None,
    parameters: options.Parameters = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Stop each label after so many tokens.")
    ] = None,
    max_texts: Annotated[
        int | None, typer.Option(min=1, help="Stop each label after so many texts.")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Cut longer texts; by default at 1024 tokens.")
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(min=2, help="Pack texts end to end into blocks, as the LAPE paper does."),
    ] = None,
    response_only: Annotated[
        bool, typer.Option("--response-only", help="Count responses of prompt/response pairs only.")
    ] = False,
    text_field: Annotated[str, typer.Option(help="Where the text is in JSON records.")] = "text",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Texts per batch; chosen automatically if not given.")
    ] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    loading: options.LoadOptions,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run texts through a model and keep statistics of every neuron per label.

    Memory does not grow with the corpus. Under torchrun or accelerate launch the texts are split
    over the processes.
    """
    if (texts is None) == (answers is None):
        raise ParameterError("Give --texts, or --answers for a model to write them itself.")
    # Beside the result, so that a folder with statistics is always finished.
    checkpoint, kept = out.with_name(out.name + ".partial"), out.with_name(out.name + ".answers")
    beside = [checkpoint] if answers is None else [checkpoint, kept]
    check_output(
        out,
        "statistics",
        lambda folder: (folder / "stats.json").is_file(),
        overwrite=overwrite,
        resume=resume,
        beside=beside,
    )
    corpora = None if texts is None else read_corpora(texts)
    policy: dict[str, Any] = {
        "max_tokens": max_tokens,
        "max_texts": max_texts,
        "max_length": max_length,
        "block_size": block_size,
        "response_only": response_only,
    }
    from ..detectors import DETECTORS, detector
    from ..stats import Stats
    from ..stats import collect as run

    chosen = None
    if method is not None:
        given = options.read_parameters(parameters or [], {method: DETECTORS.get(method)})
        chosen = detector(method, **given)
    elif parameters:
        raise ParameterError("--set is about a detector; name it with --method.")
    if resume and not overwrite and (out / "stats.json").is_file() and not checkpoint.exists():
        if os.environ.get("RANK", "0") == "0":
            console.note(f"{out} is finished; --overwrite collects anew.", quiet=quiet)
            _report(Stats.load(out), out, as_json=as_json, quiet=quiet)
        return
    loaded, tokenizer = loading.load(model)
    if answers is not None:
        if not resume:
            shutil.rmtree(kept, ignore_errors=True)
        corpora = _answers(loaded, tokenizer, answers, answer_tokens, kept, quiet)
        policy["response_only"] = True
        # The chat template has written them.
        policy["add_special_tokens"] = False if getattr(tokenizer, "chat_template", None) else None
    stats = run(
        loaded,
        tokenizer,
        corpora,
        needs=chosen,
        codec=codec,
        policy={name: value for name, value in policy.items() if value is not None},
        text_field=text_field,
        batch_size="auto" if batch_size is None else batch_size,
        # Saved before the checkpoint is deleted, so that the work is on disk at every moment.
        out=out,
        checkpoint=checkpoint,
        resume=resume,
        progress=not quiet,
    )
    if os.environ.get("RANK", "0") != "0":
        return
    _report(stats, out, as_json=as_json, quiet=quiet)
    console.note(f"Wrote {out}. Next: neuronsteer detect {out} -o neurons", quiet=quiet)


def _report(stats: Stats, out: Path, *, as_json: bool, quiet: bool) -> None:
    """Say what was counted."""
    if as_json:
        console.dump(
            {
                "labels": list(stats.labels),
                "tokens": {label: int(stats.tokens[label]) for label in stats.labels},
                "texts": {label: int(stats.texts[label]) for label in stats.labels},
                "out": str(out),
            }
        )
    elif not quiet:
        for label in stats.labels:
            size = f"{int(stats.tokens[label]):,} tokens of {int(stats.texts[label]):,} texts"
            console.out().print(f"{label}: {size}", markup=False)


def _answers(
    model: Any, tokenizer: Any, folder: Path, tokens: int, kept: Path, quiet: bool
) -> dict[str, list[tuple[str, str]]]:
    """Return the model's answers to the prompts in a folder, kept beside the statistics."""
    from ..evaluation.own_answers import own_answers
    from ..stats.texts import read_sources

    prompts = {
        source.label: [item if isinstance(item, str) else item[0] for item in source.read()]
        for source in read_sources(folder, "prompt")
    }
    labels = list(prompts)
    with console.working("answers", quiet=quiet) as show:
        found = own_answers(
            model,
            tokenizer,
            prompts,
            max_new_tokens=tokens,
            out=kept,
            progress=lambda label, done, of: show(
                f"answers ({label})",
                (labels.index(label) + done / of) / len(labels),
                f"{done} of {of} prompts",
            ),
        )
    for label, pairs in found.items():
        share = f"{len(pairs)} of {len(prompts[label])} answers are in the language"
        console.note(f"{label}: {share}", quiet=quiet)
    return found


def read_corpora(given: list[str]) -> Any:
    """Return what `collect` of the package takes: one folder, or a mapping of labels."""
    found = options.read_sources(given, "--texts", "LABEL=FILE")
    if isinstance(found, Path):
        return found
    return {
        label: _dataset(source) if source.startswith(_HUB) else Path(source)
        for label, source in found.items()
    }


def _dataset(address: str) -> Any:
    """Return a streamed dataset of the Hub for `hf://owner/name[/config][:split]`."""
    from ..errors import require

    path, _, split = address.removeprefix(_HUB).partition(":")
    owner, _, rest = path.partition("/")
    name, _, config = rest.partition("/")
    if not owner or not name:
        raise ParameterError(
            f"Cannot read {address!r}; expected hf://owner/dataset[/config][:split]."
        )
    datasets: Any = require("datasets", "eval", "Reading texts from the Hub")
    try:
        return datasets.load_dataset(
            f"{owner}/{name}", config or None, split=split or "train", streaming=True
        )
    except Exception as error:  # whatever the Hub has there, it was the user who named it
        raise TextError(f"Cannot open {address!r}: {console.first_line(error)}") from error
