"""README.md of an export: what it is, how to load it, and that it needs no neuronsteer."""

from __future__ import annotations

from typing import Any

from ..neuron_set.card import hub_id, languages
from ..neuron_set.storage import package_version
from ._edits import Recipe

CARD = "README.md"
# Only folders with this line in their card are ever replaced.
MARK = "<!-- exported by neuronsteer -->"


def render_card(
    recipe: Recipe,
    *,
    relation: str,
    library: str,
    usage: str,
    notes: list[str],
    loading: str = "Loading needs no neuronsteer:",
    exact: bool = True,
) -> str:
    """Return the text of the card.

    Args:
        recipe: What was exported.
        relation: `base_model_relation` of the Hub: `"finetune"` or `"adapter"`.
        library: `library_name` of the Hub.
        usage: Code or commands that load it.
        notes: What else a reader should know.
        loading: What is said before the code.
        exact: Whether the export does all of what steering with hooks does.
    """
    from huggingface_hub import ModelCardData

    base = hub_id(recipe.source.hub_id or recipe.sets[0].base_model)
    label = recipe.state.label
    facts: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["neuronsteer", "steering", "language-neurons"],
        "language": (languages([label]) if label else None) or None,
    }
    if base:
        facts |= {"base_model": base, "base_model_relation": relation}
    method = recipe.sets[0].method["name"]
    neurons = sum(len(change.columns) for change in recipe.changes)
    layers = len({change.tap.layer for change in recipe.changes})
    remarks = "".join(f"- {note}\n" for note in notes)
    if exact:
        remarks += (
            "- Exact up to rounding: the same as steering with hooks, measured by neuronsteer's\n"
            "  `benchmarks/export_equality.py`.\n"
        )
    return f"""---
{ModelCardData(**facts).to_yaml().strip()}
---

{MARK}
# {base or recipe.model_type}: {recipe.text}

{neurons:,} MLP neurons in {layers} layers are changed; nothing else is. They were found with the
method `{method}`. {loading}

{usage}

{remarks}- The licence of the base model applies.
- Written by neuronsteer {package_version()}. Set fingerprint: `{recipe.sets[0].fingerprint[:16]}`.
"""


def python_block(code: str) -> str:
    """Return a fenced block of Python."""
    return f"```python\n{code.strip()}\n```"
