"""The model card of a neuron set, and the table shown in a terminal.

Both are made from `NeuronSet.summary()`, so this file needs no neuron set and no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from rich.table import Table

# Written into every generated card: a README without it belongs to somebody else.
MARK = "<!-- made by neuronsteer; delete this line to keep your own text on saving -->"

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
        return MARK in path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return True
    except OSError:
        return False


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
    summary: Mapping[str, Any], repo_id: str | None = None, license: str | None = None
) -> str:
    """Return the text of `README.md`: YAML front matter and Markdown.

    Args:
        summary: `NeuronSet.summary()`.
        repo_id: Where the set will be published, for the usage block.
        license: Licence identifier of the Hub; default `apache-2.0`, this package's.
    """
    from huggingface_hub import ModelCardData

    base = hub_id(summary["base_model"])
    facts: dict[str, Any] = {
        "library_name": "neuronsteer",
        "pipeline_tag": "text-generation",
        "license": license or "apache-2.0",
        "tags": ["neuronsteer", "steering", f"method:{summary['method']['name']}"],
        "language": languages(summary["labels"]) or None,
    }
    if base:
        facts |= {"base_model": base, "base_model_relation": "adapter"}
        facts["tags"].append(f"base_model:adapter:{base}")
    peaks = {
        label: max(range(len(counts)), key=counts.__getitem__) if any(counts) else None
        for label, counts in summary["layers"].items()
    }
    # The label of the usage block must have neurons, or the first thing a reader tries fails.
    example = next((label for label, n in summary["counts"].items() if n), summary["labels"][0])
    return _template().render(
        s=summary,
        yaml=ModelCardData(**facts).to_yaml().strip(),
        mark=MARK,
        base=base,
        repo_id=repo_id or "path/to/this/folder",
        example=example,
        profiles={label: profile(counts) for label, counts in summary["layers"].items()},
        peaks=peaks,
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    text = files(__package__ or "neuronsteer").joinpath("card_template.md").read_text("utf-8")
    # Markdown, not HTML: escaping would show entities. Table cells are cleaned by `cell`.
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["cell"] = lambda text: re.sub(r"\s+", " ", str(text)).replace("|", r"\|")
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
