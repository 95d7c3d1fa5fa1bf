"""The model card of a neuron set, and the table shown in a terminal.

Both are made from `NeuronSet.summary()`, so this file needs no neuron set and no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import results as evaluation

if TYPE_CHECKING:
    from jinja2 import Template
    from rich.table import Table

# Written into every generated card: a README without it belongs to somebody else.
MARK = "<!-- made by neuronsteer; delete this line to keep your own text on saving -->"

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
    """Return the ISO 639-1 codes in `labels`, or nothing if some label is no language code."""
    known = set(_LANGUAGES.split())
    codes = [re.split("[-_]", label, maxsplit=1)[0].lower() for label in labels]
    return list(dict.fromkeys(codes)) if all(code in known for code in codes) else []


def hub_id(base_model: str | None) -> str | None:
    """Return `base_model` if it can be a Hub id; a local path is nobody else's business."""
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
        license: Licence identifier of the Hub; default `apache-2.0`, this package's.
        subfolder: Folder in that repository.
        revision: Branch in that repository, if it is not the default one.
        picture: Whether `layer_profile.png` lies beside the card.
    """
    base = hub_id(summary["base_model"])
    facts = _facts(summary, base, license)
    results = evaluation.results(summary["evaluation"])
    if results:
        from huggingface_hub import EvalResult

        facts["model_name"] = (repo_id or "neuron set").rpartition("/")[2]
        facts["eval_results"] = [EvalResult(**each) for each in evaluation.index(results)]
    peaks = {
        label: max(range(len(counts)), key=counts.__getitem__) if any(counts) else None
        for label, counts in summary["layers"].items()
    }
    # The label of the usage block must have neurons, or the first thing a reader tries fails.
    example = next((label for label, n in summary["counts"].items() if n), summary["labels"][0])
    return _template("card_template.md").render(
        s=summary,
        yaml=_front_matter(facts),
        mark=MARK,
        base=base,
        source=_arguments(repo_id or "path/to/this/folder", subfolder, revision),
        example=example,
        profiles={label: profile(counts) for label, counts in summary["layers"].items()},
        peaks=peaks,
        picture=picture,
        results=results,
        controls=evaluation.controls(results),
        evaluated=summary["evaluation"],
        languages=bool(facts["language"]),
    )


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
        yaml=_front_matter(facts), mark=MARK, base=base, repo_id=repo_id, sets=sets
    )


def _facts(summary: Mapping[str, Any], base: str | None, license: str | None) -> dict[str, Any]:
    method = summary["method"]["name"]
    facts: dict[str, Any] = {
        "library_name": "neuronsteer",
        "pipeline_tag": "text-generation",
        "license": license or "apache-2.0",
        "tags": ["neuronsteer", "steering", *([f"method:{method}"] if method else [])],
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
    parts = [json.dumps(repo_id, ensure_ascii=False)]
    parts += [
        f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in named.items() if value
    ]
    return ", ".join(parts)


@lru_cache
def _template(name: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    text = files(__package__ or "neuronsteer").joinpath(name).read_text("utf-8")
    # Markdown, not HTML: escaping would show entities. Table cells are cleaned by `cell`.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda text: re.sub(r"\s+", " ", str(text)).replace("|", r"\|")
    environment.filters["number"] = lambda value: f"{value:.4g}"
    return environment.from_string(text)


def rich_table(summary: Mapping[str, Any], exclusive: Mapping[str, int]) -> Table:
    """Return a Rich table with one line per label.

    Args:
        summary: `NeuronSet.summary()`.
        exclusive: Per label the number of neurons that no other label owns.
    """
    from rich.markup import escape
    from rich.table import Table

    method, model = summary["method"]["name"], summary["base_model"] or summary["model_type"]
    shape = f"{summary['num_layers']} layers x {summary['d_ff']}"
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
