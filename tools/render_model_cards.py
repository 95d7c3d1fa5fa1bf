"""Render the cards in model_cards/ from their facts, by the code that makes every card.

    python tools/render_model_cards.py                      render all cards again
    python tools/render_model_cards.py --add SET --name NAME --repo OWNER/NAME [--license ID]
                                                            take the facts of a set, then render

A folder holds `facts.json` (the set's `summary()`, where it is published, its licence), and made
from it `README.md` and `layer_profile.png`. Facts are numbers and settings only: enough to render
the card again when its template changes, without the set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from neuronsteer.neuron_set import NeuronSet, card

CARDS = Path(__file__).resolve().parents[1] / "model_cards"


def facts_of(source: str, repo_id: str, license: str | None, subfolder: str | None) -> dict:
    """Return the facts of a set in a folder or repository."""
    summary = NeuronSet.from_pretrained(source).summary()
    if card.hub_id(summary["base_model"]) is None:
        summary["base_model"] = None  # a path on this machine
    return {"repo_id": repo_id, "subfolder": subfolder, "license": license, "summary": summary}


def render(facts: dict[str, Any]) -> str:
    """Return the card that `push_to_hub` writes for these facts."""
    return card.render(
        facts["summary"],
        facts["repo_id"],
        facts["license"],
        subfolder=facts["subfolder"],
        picture=True,
    )


def main() -> None:
    """Render, after adding facts if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--add", metavar="SET", help="folder or Hub id of a set to take facts from")
    parser.add_argument("--name", help="folder below model_cards/")
    parser.add_argument("--repo", help="where the set is published")
    parser.add_argument("--subfolder", help="folder in that repository")
    parser.add_argument("--license", help="licence of the set; default: none")
    options = parser.parse_args()
    if options.add:
        if not (options.name and options.repo):
            parser.error("--add needs --name and --repo")
        facts = facts_of(options.add, options.repo, options.license, options.subfolder)
        folder = CARDS / options.name
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        (folder / "facts.json").write_text(text + "\n", encoding="utf-8")
    for path in sorted(CARDS.glob("**/facts.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        text = render(facts)
        path.with_name("README.md").write_text(text, encoding="utf-8")
        print(path.parent)
        if card.PICTURE not in text:
            continue
        drawn = card.draw_layers(facts["summary"]["layers"])
        if drawn is None:
            print("matplotlib is missing: pictures stay as they are (pip install matplotlib)")
        else:
            path.with_name(card.PICTURE).write_bytes(drawn)


if __name__ == "__main__":
    main()
