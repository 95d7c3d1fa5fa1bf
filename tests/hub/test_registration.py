"""What is to be submitted to huggingface.js fits the library: names, files, and code that runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from neuronsteer.neuron_set import card
from tests.sharing import make_set, make_stats
from tests.tiny_models import tiny_model, tiny_tokenizer

pytest_plugins = ("tests.hub_server.fixtures",)

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "hub_registration"
ENTRY = (FOLDER / "model-libraries.ts").read_text("utf-8")
SNIPPETS = (FOLDER / "model-libraries-snippets.ts").read_text("utf-8")


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    monkeypatch.setattr(card, "draw_layers", lambda _layers: b"\x89PNG\0")


def filled(template: str, repo_id: str, base: str) -> str:
    """Return a snippet as the Hub shows it on a repository's page."""
    text = template.replace("${model.id}", repo_id)
    return text.replace("${get_base_diffusers_model(model)}", base)


def test_snippets_run_as_the_hub_shows_them(hub, tmp_path):
    model, tokenizer = tiny_model("llama", layers=4, intermediate_size=32), tiny_tokenizer()
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path)
    HfApi().create_repo("ann/base")
    HfApi().upload_folder(repo_id="ann/base", folder_path=tmp_path)
    make_set(base_model="ann/base").push_to_hub("ann/set")
    make_stats().push_to_hub("ann/stats")
    # What `model.cardData.base_model` and `model.tags` are on the Hub.
    data = ModelCard(hub.repo("ann/set").files()["README.md"].decode()).data
    assert data.base_model == "ann/base"
    of_statistics, of_sets = re.findall(r"`(.*?)`", SNIPPETS.split("=>", 1)[1], re.DOTALL)
    (tag,) = re.findall(r'tags\.includes\("(.*?)"\)', SNIPPETS)
    assert tag == card.STATISTICS and tag not in data.tags
    hub.fresh_cache()
    hub.login(None)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(filled(of_statistics, "ann/stats", ""), "snippet", "exec"), {})
        exec(compile(filled(of_sets, "ann/set", "ann/base"), "snippet", "exec"), {})
    assert out.getvalue().startswith("Stats(") and "Hello" in out.getvalue()


def test_the_entry_fits_the_cards_and_the_files(hub):
    make_set(base_model="org/base").push_to_hub("ann/set")
    make_stats().push_to_hub("ann/stats")
    (key,) = re.findall(r"^\t(\w+): \{$", ENTRY, re.MULTILINE)
    (function,) = re.findall(r"snippets\.(\w+)", ENTRY)
    assert f"export const {function} = " in SNIPPETS
    counted = re.findall(r'path:"(.*?)"', ENTRY)
    for name in ("ann/set", "ann/stats"):
        files = hub.repo(name).files()
        assert ModelCard(files["README.md"].decode()).data.library_name == key
        # More than one would count a download twice.
        assert len([path for path in files if path in counted]) == 1, name
    # An address that does not exist would be worse than none.
    assert "repoUrl:" not in ENTRY and "http" not in ENTRY + SNIPPETS
