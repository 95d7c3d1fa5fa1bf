"""The notebooks run from the first cell to the last, offline, and show what they say."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from .documents import ROOT, anchors, languages, links, read, run

FOLDER = ROOT / "examples" / "notebooks"
NAMES = [path.stem for path in sorted(FOLDER.glob("*.ipynb"))]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "tools" / "docs_site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> dict[str, Any]:
    """What a notebook's cells define, run in order; `printed` has what each printed."""
    pytest.importorskip("lingua", reason="needs a language identifier")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    code = [each for each in cells(request.param) if each["cell_type"] == "code"]
    # Plain Python: `%pip` and `!ls` would not run here.
    printed = [run("".join(each["source"]), found, request.param) for each in code]
    return found | {"printed": printed}


def written(names: dict[str, Any], ids: torch.Tensor) -> list[str | None]:
    """Return the languages of texts."""
    return languages(names["tok"].batch_decode(ids, skip_special_tokens=True))


@pytest.mark.parametrize("names", ["find"], indirect=True)
def test_what_is_found_steers_and_random_neurons_do_not(names: dict[str, Any], tmp_path: Path):
    share = names["in_french"]
    assert min(share["diffmean"], share["effect"]) > 0.5 > max(share["unsteered"], share["random"])
    assert names["again"].labels == ("en", "fr", "de")
    assert (tmp_path / "language-neurons" / "neurons.safetensors").is_file()


@pytest.mark.parametrize("names", ["steer_and_switch"], indirect=True)
def test_rows_have_their_languages_and_texts_switch(names: dict[str, Any]):
    assert written(names, names["french"]) == ["fr"] * 3
    assert written(names, names["mixed"]) == ["fr", "de", "en"]
    assert written(names, names["unsteered"]) == ["en"] * 3
    start = names["one"]["input_ids"].shape[1]
    # The text follows a few tokens after the switch.
    planned, pressed = names["planned"][:, start:], names["pressed"][:, start:]
    ends = [planned[:, :16], planned[:, 26:], pressed[:, :16], pressed[:, 40:]]
    assert [written(names, each)[0] for each in ends] == ["en", "fr", "en", "fr"]


@pytest.mark.parametrize("names", ["wrong_language"], indirect=True)
def test_foreign_letters_are_held_back_and_steering_changes_the_language(names: dict[str, Any]):
    def foreign(ids: torch.Tensor) -> int:
        return len(re.findall(r"[а-яё]", names["tok"].decode(ids[0]).lower()))

    quoted = len(re.findall(r"[а-яё]", names["prompt"].lower()))
    assert foreign(names["slipped"]) > quoted + 20 and foreign(names["answer"]) == quoted
    assert written(names, names["answer"][:, -16:]) == ["en"]
    assert names["refused"] and torch.equal(names["plain"], names["unchanged"])
    assert written(names, names["french"]) == ["fr"]
    assert foreign(names["both"]) > 20


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_committed_without_outputs(name: str):
    book = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    identifiers = [each["id"] for each in book["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for each in book["cells"]:
        if each["cell_type"] == "code":
            assert each["outputs"] == [] and each["execution_count"] is None


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_short_and_linked(name: str):
    code = ["".join(each["source"]) for each in cells(name) if each["cell_type"] == "code"]
    assert sum(len(each.splitlines()) for each in code) <= 100
    for page in ("README.md", "docs/index.md", "docs/get-started.md"):
        assert f"examples/notebooks/{name}.ipynb" in read(page), page
    assert f"notebooks/{name}.md" in read("mkdocs.yml")


@pytest.mark.parametrize("name", NAMES)
def test_links_of_notebooks_lead_somewhere(name: str):
    told = ["".join(each["source"]) for each in cells(name) if each["cell_type"] == "markdown"]
    for link in links("\n".join(told)):
        path, _, anchor = link.partition("#")
        target = (FOLDER / path).resolve()
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", NAMES)
def test_the_site_shows_a_notebook_and_links_to_colab_from_an_address(
    name: str, site: ModuleType, tmp_path: Path
):
    page = site.notebook_page(FOLDER / f"{name}.ipynb")
    assert page.startswith("# ") and "colab" not in page
    assert page.count("```python\n") == sum(e["cell_type"] == "code" for e in cells(name))
    # From notebooks/NAME.md on the site, guides are one folder up.
    assert not re.search(r"\]\((?:\.\./\.\./|\w+\.ipynb)", page)
    public = site.notebook_page(FOLDER / f"{name}.ipynb", "https://github.com/some/where")
    address = "https://colab.research.google.com/github/some/where/blob/main"
    assert f"({address}/examples/notebooks/{name}.ipynb)" in public
    assert site.notebook_page(FOLDER / f"{name}.ipynb", "https://example.org/a/b") == page
    project = tmp_path / "pyproject.toml"
    project.write_text('[project.urls]\nRepository = "https://github.com/some/where"\n')
    assert site.repository(project) == "https://github.com/some/where"
