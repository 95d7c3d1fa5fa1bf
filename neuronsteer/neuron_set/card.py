"""The cards of neuron sets and statistics, a set's picture, and the table shown in a terminal.

All are made from what `summary()` returns, so this file needs no neuron set and no torch.
"""

from __future__ import annotations

import importlib.util
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .markdown_text import code, fenced, inline, one_line, string_literal

if TYPE_CHECKING:
    from jinja2 import Template
    from rich.table import Table

# Written into every generated card: a README without it was written by hand.
MARK = "<!-- made by neuronsteer; delete this line to keep your own text on saving -->"

#: The picture's file, beside the card.
PICTURE = "layer_profile.png"

#: The tag by which the Hub's code snippet tells statistics from neuron sets.
STATISTICS = "neuron-statistics"

# More rows than this cannot be read in a picture.
_DRAWN_LABELS = 40
_BODY = re.compile(r"\s*(?:---[ \t]*\r?\n.*?\r?\n?---[ \t]*(?:\r?\n|$))?(.*)", re.DOTALL)
_BARS = " ▁▂▃▄▅▆▇█"
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
# ISO 639-1. The Hub refuses a card whose `language` is not a language, and labels can be anything.
_LANGUAGES = """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy
    da de dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy
    hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li
    ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa
    pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th
    ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""


def languages(labels: Sequence[str]) -> list[str]:
    """Return the ISO 639-1 codes in `labels`, or nothing if some label is not a language code."""
    known = set(_LANGUAGES.split())
    codes = [re.split("[-_]", label, maxsplit=1)[0].lower() for label in labels]
    return list(dict.fromkeys(codes)) if all(code in known for code in codes) else []


def hub_id(base_model: str | None) -> str | None:
    """Return `base_model` if it can be a Hub id; a local path means nothing to others."""
    if base_model and _REPO_ID.fullmatch(base_model) and not base_model.startswith("."):
        return base_model
    return None


def may_write(path: Path) -> bool:
    """Return whether `path` is free or holds a generated card."""
    try:
        return is_ours(path.read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def is_ours(text: str) -> bool:
    """Return whether a card was generated here, or says nothing below its front matter."""
    body = _BODY.fullmatch(text)
    return MARK in text or (body is not None and not body[1].strip())


def license_of(text: str | None) -> str | None:
    """Return the licence in a card's front matter: its owner may have chosen another one."""
    if not (text or "").lstrip().startswith("---"):
        return None
    from huggingface_hub import ModelCard

    try:
        found = ModelCard(text or "", ignore_metadata_errors=True).data.get("license")
    except Exception:  # the file may be anything, and then it names no licence
        return None
    return found if isinstance(found, str) else None


def profile(counts: Sequence[int], width: int | None = None) -> str:
    """Return one bar per layer, scaled to the highest; at most `width` by adding neighbours."""
    step = -(-len(counts) // width) if width and counts else 1
    counts = [sum(counts[i : i + step]) for i in range(0, len(counts), step)]
    high = max(counts, default=0)
    if not high:
        return " " * len(counts)
    # Any neuron at all must be visible, hence the division rounded up.
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // high)] for count in counts)


def render(
    summary: Mapping[str, Any],
    repo_id: str | None = None,
    license: str | None = None,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    picture: bool = False,
) -> str:
    """Return the text of `README.md`: YAML front matter and Markdown.

    Args:
        summary: `NeuronSet.summary()`.
        repo_id: Where the set will be published, for the usage block.
        license: Licence identifier of the Hub; by default the card names none: it depends on the
            base model and the texts, which only the publisher knows.
        subfolder: Folder in that repository.
        revision: Branch in that repository, if it is not the default one.
        picture: Whether `layer_profile.png` lies beside the card.
    """
    base = hub_id(summary["base_model"])
    facts = _facts(summary, base, license)
    results = evaluation_results(summary["evaluation"])
    if results:
        from huggingface_hub import EvalResult

        facts["model_name"] = one_line((repo_id or "neuron set").rpartition("/")[2])
        facts["eval_results"] = [EvalResult(**each) for each in model_index(results)]
    peaks = {
        label: max(range(len(counts)), key=counts.__getitem__) if any(counts) else None
        for label, counts in summary["layers"].items()
    }
    parameters = summary["method"].get("parameters")
    # The label of the usage block must have neurons, or the first thing a reader tries fails.
    example = next((label for label, n in summary["counts"].items() if n), summary["labels"][0])
    return _template("card_template.md").render(
        s=summary,
        unit="coordinates of the residual stream" if summary["site"] == "resid" else "neurons",
        dense=_is_dense(summary),
        yaml=_front_matter(facts),
        mark=MARK,
        base=base,
        source=_arguments(repo_id or "path/to/this/folder", subfolder, revision),
        example=example,
        profile="\n".join(
            f"{one_line(label):<12} |{profile(counts)}|"
            for label, counts in summary["layers"].items()
        ),
        peaks=peaks,
        parameters=parameters if isinstance(parameters, Mapping) else {},
        picture=picture,
        results=results,
        controls=control_names(results),
        evaluated=summary["evaluation"],
        languages=bool(facts["language"]),
    )


def _is_dense(summary: Mapping[str, Any]) -> bool:
    """Return whether every label has every neuron of the set, so that none was chosen."""
    return len(summary["labels"]) > 1 and list(map(int, summary["sharing"])) == [
        len(summary["labels"])
    ]


def render_index(
    sets: Sequence[str],
    summary: Mapping[str, Any],
    *,
    repo_id: str,
    license: str | None = None,
) -> str:
    """Return the `README.md` of a repository whose sets are in subfolders.

    Args:
        sets: The subfolders.
        summary: `NeuronSet.summary()` of the one that was pushed last.
        repo_id: The repository.
        license: As in `render`.
    """
    base = hub_id(summary["base_model"])
    # What the sets have in common is not known here, so nothing is said about labels and methods.
    facts = _facts({**summary, "labels": ["?"], "method": {"name": None}}, base, license)
    return _template("card_index.md").render(
        yaml=_front_matter(facts),
        mark=MARK,
        base=base,
        sets={
            name: f"ns.NeuronSet.from_pretrained({_arguments(repo_id, name, None)})"
            for name in sets
        },
    )


def render_statistics(
    summary: Mapping[str, Any],
    *,
    repo_id: str,
    license: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
) -> str:
    """Return the `README.md` of statistics.

    Args:
        summary: `Stats.summary()`.
        repo_id: The repository.
        license: As in `render`.
        subfolder: Folder in that repository.
        revision: Branch in that repository, if it is not the default one.
    """
    # No `base_model`: the Hub would list the repository among the models made from that one.
    facts: dict[str, Any] = {
        "library_name": "neuronsteer",
        "license": license,
        "tags": ["neuronsteer", STATISTICS],
        "language": languages(summary["labels"]) or None,
    }
    return _template("card_statistics.md").render(
        s=summary,
        yaml=_front_matter(facts),
        mark=MARK,
        base=hub_id(summary["base_model"]),
        source=_arguments(repo_id, subfolder, revision),
    )


def _facts(summary: Mapping[str, Any], base: str | None, license: str | None) -> dict[str, Any]:
    method = summary["method"]["name"]
    facts: dict[str, Any] = {
        "library_name": "neuronsteer",
        "pipeline_tag": "text-generation",
        "license": license,
        "tags": ["neuronsteer", "steering", *([f"method:{one_line(method)}"] if method else [])],
        "language": languages(summary["labels"]) or None,
    }
    if base:
        facts |= {"base_model": base, "base_model_relation": "adapter"}
        facts["tags"].append(f"base_model:adapter:{base}")
    return facts


def _front_matter(facts: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(**facts).to_yaml().strip()


def _arguments(repo_id: str, subfolder: str | None, revision: str | None) -> str:
    """Return the arguments of `from_pretrained` as Python text."""
    named = {"subfolder": subfolder, "revision": None if revision == "main" else revision}
    parts = [string_literal(repo_id)]
    parts += [f"{name}={string_literal(value)}" for name, value in named.items() if value]
    return ", ".join(parts)


@lru_cache
def _template(name: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    text = files(__package__ or "neuronsteer").joinpath(name).read_text("utf-8")
    # Markdown, not HTML: texts from outside go through one of the filters below, or `tojson`.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    named: dict[str, Any] = {"inline": inline, "code": code, "fenced": fenced}
    environment.filters.update(named, string_literal=string_literal)
    environment.filters["number"] = lambda value: f"{value:.4g}"
    return environment.from_string(text)


def evaluation_results(evaluation: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the results that have a task, a metric and a value, all fields filled in.

    The header's field `evaluation` is free-form JSON. What has the shape below becomes a table with
    its controls and the Hub's `model-index`; anything else is shown as it is::

        {"results": [{"task": "language_forcing", "label": "fr", "metric": "fluent_success",
                      "value": 0.91, "interval": [0.88, 0.94],
                      "dataset": {"name": "flores", "type": "facebook/flores"},
                      "controls": {"no steering": 0.02, "random neurons": 0.03}}, …]}

    A data set that also has a `task_id` is a benchmark of the Hub; see `benchmark_results.py`.
    """
    listed: Any = (evaluation or {}).get("results")
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    return [_complete(each) for each in listed if isinstance(each, Mapping) and _is_result(each)]


def control_names(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the controls that occur, in order."""
    return list(dict.fromkeys(name for each in found for name in each["controls"]))


def model_index(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the arguments of one `EvalResult` per value, the controls' values included.

    A number without its controls says nothing about neurons, so they appear beside it.
    """
    for each in found:
        of = f"{each['metric']} ({each['label']})" if each["label"] else each["metric"]
        values = {of: each["value"]} | {
            f"{of}, control: {name}": value for name, value in each["controls"].items()
        }
        for name, value in values.items():
            yield {
                "task_type": "text-generation",
                "task_name": each["task"],
                "dataset_name": each["dataset"]["name"],
                "dataset_type": each["dataset"]["type"],
                "metric_type": each["metric"],
                "metric_name": name,
                "metric_value": value,
            }


def _is_result(each: Mapping[str, Any]) -> bool:
    named = all(isinstance(each.get(name), str) for name in ("task", "metric"))
    return named and _is_number(each.get("value"))


def _is_number(value: Any) -> bool:
    # Not `math.isfinite`, which cannot take a whole number of hundreds of digits.
    return isinstance(value, int | float) and type(value) is not bool and abs(value) < math.inf


def _complete(each: Mapping[str, Any]) -> dict[str, Any]:
    dataset = each.get("dataset")
    if isinstance(dataset, str):
        dataset = {"name": dataset}
    dataset = dict(dataset) if isinstance(dataset, Mapping) else {}
    name = str(dataset.get("name") or dataset.get("type") or "own data")
    given = each.get("controls")
    given = given if isinstance(given, Mapping) else {}
    interval = each.get("interval")
    valid = isinstance(interval, Sequence) and len(interval) == 2 and all(map(_is_number, interval))
    return {
        "task": each["task"],
        "metric": each["metric"],
        "value": each["value"],
        "label": str(each.get("label") or ""),
        "interval": list(interval) if valid and interval is not None else None,
        "dataset": {
            "name": name,
            "type": str(dataset.get("type") or name),
            **{key: str(dataset[key]) for key in ("task_id", "revision") if dataset.get(key)},
        },
        "controls": {str(key): value for key, value in given.items() if _is_number(value)},
    }


def draw_layers(layers: Mapping[str, Sequence[int]]) -> bytes | None:
    """Return a PNG of how many neurons each label has in each layer.

    `None` without matplotlib (extra `plots`).

    Args:
        layers: Per label the number of neurons in every layer.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    # Not pyplot: it keeps figures, and would choose a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    labels = list(layers)[:_DRAWN_LABELS]
    counts = [list(layers[label]) for label in labels]
    depth = max(map(len, counts), default=1)
    figure = Figure(
        figsize=(max(4.0, min(10.0, 2.0 + 0.22 * depth)), 1.1 + 0.32 * len(labels)),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    highest = max((max(row, default=0) for row in counts), default=0)
    image = axes.imshow(
        counts, aspect="auto", cmap="viridis", vmin=0, vmax=max(1, highest), interpolation="nearest"
    )
    # parse_math: a label with a dollar sign is a name, not a formula.
    axes.set_yticks(range(len(labels)), [label[:24] for label in labels], parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    bar = figure.colorbar(image, ax=axes, label="neurons")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    out = io.BytesIO()
    # Without the version of matplotlib in it, so that the same set gives the same bytes longer.
    with warnings.catch_warnings():
        # The font may lack the letters of a label; the text profile beside the picture has them.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def rich_table(summary: Mapping[str, Any], exclusive: Mapping[str, int]) -> Table:
    """Return a Rich table with one line per label.

    Args:
        summary: `NeuronSet.summary()`.
        exclusive: Per label the number of neurons that no other label owns.
    """
    from rich.markup import escape
    from rich.table import Table

    method, model = summary["method"]["name"], summary["base_model"] or summary["model_type"]
    shape = f"{summary['num_layers']} layers x {summary['width']}"
    table = Table(
        title=escape(f"{summary['neurons']} neurons at {summary['site']} ({method})"),
        caption=escape(f"{model or 'unknown model'}, {shape}; orphans: {summary['orphans']}"),
    )
    table.add_column("label", style="bold")
    for name in ("neurons", "exclusive", "shared"):
        table.add_column(name, justify="right")
    table.add_column(f"layers 0–{summary['num_layers'] - 1}", no_wrap=True)
    for label, count in summary["counts"].items():
        numbers = (count, exclusive[label], count - exclusive[label])
        table.add_row(escape(label), *map(str, numbers), profile(summary["layers"][label], 40))
    return table
