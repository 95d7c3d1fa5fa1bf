"""`neuronsteer tune`: with which set, and how strongly, to steer to each label."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ParameterError, TextError
from ..hub import check_output
from . import console, options
from .commands import command
from .models import DEMO
from .output import check_set_folder

if TYPE_CHECKING:
    from ..evaluation.tuning import Tuning
    from ..neuron_set import NeuronSet

#: Where these options stand in the help.
PANEL = "Tuning"
#: Sentences of the demo's grammars: prompts, their words, and texts per language.
_PROMPTS, _WORDS, _TEXTS = 16, 5, 40


@dataclasses.dataclass(frozen=True)
class TuneOptions:
    """What strengths are tuned on, and for how long."""

    prompts: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="FILE_OR_DIR",
            help="Beginnings of texts, one per line, in the language that is left; or a folder "
            "with a file per label (en.txt …): then each label is tuned on the prompts of the "
            "others. Without it, built-in sentences in 17 languages, a few words of them.",
        ),
    ] = None
    texts: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="DIR",
            help="Natural texts, a file per label. What the unsteered model makes of their "
            "beginnings is what steered texts are compared with. Without it, the built-in "
            "sentences.",
        ),
    ] = None
    reference_prompts: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="DIR",
            help="Of a chat model: prompts in the language of each label, a file per label. Its "
            "unsteered answers in that language are what steered texts are compared with. Default: "
            "the label's own file in the folder of --prompts.",
        ),
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL, help="How long it may take at most, such as 90s, 20m or 1h30m."
        ),
    ] = None
    source: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="LABELS",
            help="What is left where a difference of means is added; default: what the set says.",
        ),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(rich_help_panel=PANEL, min=2, help="Use only so many prompts per label."),
    ] = None
    strengths: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL, help="Strengths of the first look (0.25,0.5,0.75,1,1.5,2)."
        ),
    ] = None
    shares: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            help="Also try only the best so many neurons of each label, as shares of all: "
            "0.01,0.03.",
        ),
    ] = None
    max_new_tokens: Annotated[
        int, typer.Option(rich_help_panel=PANEL, min=4, help="New tokens per prompt.")
    ] = 32
    temperature: Annotated[
        float, typer.Option(rich_help_panel=PANEL, min=0, help="0 takes the likeliest token.")
    ] = 0.8
    suppress: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="TOKEN",
            help="A token that is never generated; repeatable.",
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(rich_help_panel=PANEL, min=1, help="Rows per batch.")
    ] = 32
    identifier: Annotated[
        str,
        typer.Option(
            rich_help_panel=PANEL,
            help="What identifies languages: lingua, or a fastText or GlotLID model file.",
        ),
    ] = "lingua"
    seed: Annotated[
        int, typer.Option(rich_help_panel=PANEL, help="Of everything that is drawn.")
    ] = 0
    log: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PANEL,
            metavar="TRACKER",
            help="Also send the numbers, as they are measured, to a tracker: trackio or wandb.",
        ),
    ] = None

    def seconds(self) -> float | None:
        """Return the budget in seconds; raise if that, or the tracker, cannot be used."""
        from ..evaluation.run_log import check_log
        from ..evaluation.tuning.budget import seconds_of

        check_log(self.log)
        return seconds_of(self.budget)

    def run(
        self,
        loaded: Any,
        tokenizer: Any,
        rows: NeuronSet | Mapping[str, NeuronSet],
        *,
        demo: bool = False,
        **more: Any,
    ) -> Tuning:
        """Tune a set, or choose among several.

        Args:
            loaded: The model.
            tokenizer: Its tokenizer.
            rows: The set, or sets by name.
            demo: Whether it is the embedded set, for which there are sentences.
            **more: Further arguments of `tune`; they win over the options.
        """
        from ..evaluation.tuning import tune

        sets = rows.values() if isinstance(rows, Mapping) else [rows]
        counts = [(label, count) for each in sets for label, count in each.counts.items()]
        labels = list(dict.fromkeys(label for label, count in counts if count))
        if demo and self.prompts is None and self.texts is None:
            prompts, texts = _demo_texts(self.limit)
            more["labels"] = more.get("labels") or [each for each in texts if each != "en"]
        else:
            prompts, texts = self._data(labels)
        given: dict[str, Any] = {"budget": self.seconds(), **more}
        for name in ("strengths", "shares"):
            if (listed := options.read_list(getattr(self, name))) is not None:
                given[name] = [_number(text, name) for text in listed]
        if self.reference_prompts is not None:
            given["reference_prompts"] = self._by_label(self.reference_prompts, labels)
        return tune(
            loaded,
            tokenizer,
            rows,
            prompts,
            texts,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            suppress_tokens=self.suppress,
            source=options.read_list(self.source),
            batch_size=self.batch_size,
            identifier=self.identifier,
            seed=self.seed,
            log=self.log,
            **given,
        )

    def _data(self, labels: list[str]) -> tuple[Any, dict[str, list[str]]]:
        """Return prompts and natural texts: what was given, else built-in sentences."""
        from ..evaluation.readers import EvaluationData, thinned
        from ..evaluation.readers.files import read_rows

        given = {"prompts": self.prompts, "texts": self.texts}
        files = {kind: path for kind, path in given.items() if path is not None}
        if self.prompts is not None and self.prompts.is_file():
            files.pop("prompts")
        data = EvaluationData(files, labels)
        if self.prompts is not None and self.prompts.is_file():
            prompts: Any = thinned([_text(row) for row in read_rows(self.prompts)], self.limit)
        else:
            items = data.get("prompts").items
            prompts = {label: thinned(list(some), self.limit) for label, some in items.items()}
        texts = data.get("texts").items if data.has("texts") else {}
        return prompts, {label: list(some) for label, some in texts.items()}

    def _by_label(self, folder: Path, labels: list[str]) -> dict[str, list[str]]:
        from ..evaluation.readers import EvaluationData

        items = EvaluationData({"prompts": folder}, labels).get("prompts").items
        return {label: list(some) for label, some in items.items()}


@command(
    "tune",
    examples="""
    neuronsteer tune demo demo --budget 1m
    neuronsteer tune MODEL SET --prompts en.txt --texts heldout/ --budget 20m -o tuned
    neuronsteer tune MODEL SET --prompts prompts/ --texts heldout/ --labels fr,de -o tuned --resume
    neuronsteer tune MODEL SET --prompts en.txt --texts heldout/ -o tuned --plot tuned.png
    neuronsteer tune MODEL SET_A SET_B --shares 0.01,0.03 --prompts en.txt --texts heldout/ -o tuned
    """,
    resume="What was measured is kept; with --out, continue with the same command and --resume.",
)
def tune(
    model: options.Model,
    neurons: Annotated[
        list[str],
        typer.Argument(
            metavar="SET...",
            help="Folder or Hub id of a neuron set, or of several to choose from; 'demo' is the "
            "embedded one.",
        ),
    ],
    *,
    tuning: TuneOptions,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="SET", help="Folder to write the tuned set to."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Tune only these labels, comma-separated.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw success against fluency, by strength."),
    ] = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    loading: options.LoadOptions,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Find how strongly to steer to each label, and write a set that steers so by default.

    The set's own operation is tried at several strengths: too weak, and texts stay in the language
    of the prompt; too strong, and they repeat themselves or say nothing. A strength is worth its
    success (texts in the language) times what is left of fluency (different words, and as likely as
    what the model itself writes in that language) and of relevance (from the text one can tell its
    own prompt from others).

    Several sets, and the --shares of their neurons, are searched side by side; what is clearly
    behind after the first look is given up. Sets with the same site and operation are mixed, label
    by label; otherwise the one that is best on average is written.

    Afterwards strength 1 means the strength that was found. When the budget is spent, the best so
    far is written. Use prompts and texts that the set is not evaluated on later.
    """
    began = time.monotonic()
    from .models import load_set

    seconds = tuning.seconds()
    if resume and out is None:
        raise ParameterError("--resume needs --out SET, beside which the state was kept.")
    if out is not None:
        beside = (out.with_name(out.name + ".partial"),)
        check_set_folder(out, overwrite, resume=resume, beside=beside)
    if plot is not None:
        check_output(plot, "a plot", Path.is_file, overwrite=overwrite, resume=resume)
    rows = {Path(name).name: load_set(name) for name in neurons}
    if len(rows) < len(neurons):
        raise ParameterError(
            f"Two of the sets have the same name ({', '.join(Path(name).name for name in neurons)})"
            "; rename a folder, so that they can be told from each other."
        )
    loaded, tokenizer = loading.load(model)
    if seconds is not None:
        # Loading took a part of it.
        seconds = max(seconds - (time.monotonic() - began), 0.001)
    found = tuning.run(
        loaded,
        tokenizer,
        rows if len(rows) > 1 else rows.popitem()[1],
        demo=neurons == [DEMO],
        labels=options.read_list(labels),
        budget=seconds,
        out=out,
        resume=resume,
        progress=not quiet,
    )
    report(found, out=out, plot=plot, as_json=as_json, quiet=quiet)


def report(
    found: Tuning, *, out: Path | None, plot: Path | None, as_json: bool, quiet: bool
) -> None:
    """Show what tuning found, and draw it."""
    if plot is not None:
        from .. import plots

        plots.save(found.plot(), plot)
    if as_json:
        console.dump(found.to_dict())
    elif not quiet:
        if len(found.candidates) > 1:
            console.out().print(found.candidate_table())
            console.out().print()
        console.out().print(found.table())
    for line in found.notes:
        console.note(line, quiet=quiet)
    if plot is not None:
        console.note(f"Wrote {plot}.", quiet=quiet)
    if out is not None:
        console.note(f"Wrote {out}, and everything measured in {out / 'tuning.json'}.", quiet=quiet)
    else:
        console.note("Nothing was written; -o SET writes the tuned set.", quiet=quiet)


def _demo_texts(limit: int | None) -> tuple[list[str], dict[str, list[str]]]:
    """Return English prompts and texts in the four languages of the demo's grammars."""
    from ..demo import sentences

    texts = {label: sentences.texts(label, _TEXTS, 4, 0) for label in sentences.LANGUAGES}
    # Other sentences than the texts.
    english = sentences.texts("en", limit or _PROMPTS, 1, 1)
    return [" ".join(text.split()[:_WORDS]) for text in english], texts


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ParameterError(
            f"Cannot read --{option} {text!r}; expected numbers such as 0.5,1."
        ) from None


def _text(row: dict[str, Any]) -> str:
    for name in ("prompt", "text", "question"):
        if isinstance(row.get(name), str):
            return str(row[name])
    raise TextError(f"A row of the prompts has no 'prompt' or 'text'; it has {', '.join(row)}.")
