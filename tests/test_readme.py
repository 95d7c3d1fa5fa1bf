"""What the README and CONTRIBUTING show really runs, and tests that docs name are there."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from neuronsteer.cli.commands import app
from neuronsteer.demo import model_folder, sentences
from neuronsteer.demo.language_identifier import language_identifier
from neuronsteer.detectors import DETECTORS
from neuronsteer.operations import OPERATIONS

from .cli.conftest import Result, call
from .tiny_models import tiny_model, tiny_tokenizer

__all__ = ["call"]

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
#: The demo model stands in for the real one: what is pasted must steer.
MODEL = "Qwen/Qwen3-0.6B"
LANGUAGES = ("en", "fr", "de")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the README takes for granted: a model, here without chance, and texts."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_folder(), "model")
    # The likeliest token, and no end before the last one.
    options = {"do_sample": False, "bos_token_id": 0, "pad_token_id": 2}
    Path("model", "generation_config.json").write_text(json.dumps(options), encoding="utf-8")
    Path("texts").mkdir()
    for label in LANGUAGES:
        found = sentences.texts(label, 100, 3, seed=7)
        Path("texts", f"{label}.txt").write_text("\n".join(found), encoding="utf-8")
    return tmp_path


def languages(texts: list[str]) -> list[str | None]:
    """Return what an identifier says about texts."""
    identify = language_identifier(LANGUAGES)
    assert identify is not None
    return [identify(text) for text in texts]


def test_python_blocks_run_in_order_and_the_first_one_steers(newcomer: Path):
    first, *rest = (block.replace(f'"{MODEL}"', '"model"') for block in blocks(README, "python"))
    names: dict[str, Any] = {}
    exec(compile(first, "README.md", "exec"), names)
    assert (newcomer / "language-neurons" / "neurons.safetensors").exists()

    def written(name: str, part: slice = slice(None)) -> list[str | None]:
        new = names[name][:, names["prompts"]["input_ids"].shape[1] :]
        return languages(names["tok"].batch_decode(new[:, part], skip_special_tokens=True))

    assert written("french") == ["fr"] * 3
    assert written("mixed") == ["fr", "de", "en"]
    # The text follows a few tokens after the switch.
    assert written("switching", slice(24)) == ["en"] * 3
    assert written("switching", slice(34, 64)) == ["fr"] * 3
    assert written("switching", slice(74, None)) == ["de"] * 3
    for block in rest:
        exec(compile(block, "README.md", "exec"), names)


def test_the_shell_block_steers(newcomer: Path, call: Callable[..., Result]):
    lines = blocks(README, "bash")[0].strip().splitlines()
    for line in lines:
        done = call(*shlex.split(line.replace(MODEL, "model"), comments=True)[1:])
        assert done.code == 0, done.err
    assert lines[-1].startswith("neuronsteer generate")
    _, english, french, german = re.split("⟦(?:en|fr|de)⟧", done.out)
    assert languages([english, french, german]) == ["en", "fr", "de"], done.out


@pytest.mark.usefixtures("newcomer")
def test_the_detector_of_contributing_runs():
    import neuronsteer as ns

    names: dict[str, Any] = {}
    try:
        exec(compile(blocks(CONTRIBUTING, "python")[0], "CONTRIBUTING.md", "exec"), names)
        model, tokenizer = tiny_model("llama"), tiny_tokenizer()
        stats = ns.collect(model, tokenizer, "texts", progress=False, max_texts=5)
        neurons = ns.detect(stats, method="most-active", count=3)
        assert neurons.counts == dict.fromkeys(LANGUAGES, 3)
    finally:
        DETECTORS._items.pop("most-active", None)


def test_shell_lines_name_commands_and_options_that_exist():
    import neuronsteer.cli.app  # noqa: F401  (registers the commands)

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [
        line
        for language in ("bash", "")
        for block in blocks(README, language)
        for line in block.splitlines()
        if line.startswith("neuronsteer ")
    ]
    lines += re.findall(r"`(neuronsteer [a-z].*?)`", README)
    assert len(lines) > 5
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        assert words[0] in commands, line
        known = {name for option in commands[words[0]].params for name in option.opts}
        assert {word for word in words[1:] if re.match(r"--?[a-z]", word)} <= known, line


def test_the_table_of_methods_is_up_to_date():
    path = ROOT / "tools" / "methods_table.py"
    spec = importlib.util.spec_from_file_location("methods_table", path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.filled(README) == README, "run: make style"
    page = (ROOT / tool.DOCUMENT).read_text(encoding="utf-8")
    assert page == tool.document(), "run: make style"
    for name, kind in DETECTORS.items():
        told = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert kind.paper in told and kind.cost in told and "differs from its code.** " in told
        for field in dataclasses.fields(kind):
            # Every parameter is explained, also those of presets.
            assert re.search(rf"^\| `{field.name}` \| `.*` \| \S", told, re.MULTILINE), field.name


@pytest.mark.parametrize("name", OPERATIONS.names())
def test_every_operation_is_in_the_readme(name: str):
    assert f"`{name}`" in README, f"README.md does not mention {name}; add it to its table"


def test_first_screen_is_the_two_commands():
    first = README.splitlines()[:8]
    assert any(line.startswith("make demo") for line in first)
    assert any(line.startswith("make test") for line in first)


def test_local_files_that_are_named_exist():
    for document in (README, CONTRIBUTING):
        named = set(re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:md|py|txt|yaml))`", document))
        for name in named:
            generic = re.search(r"/x\.py$|^texts/|^Qwen/|^language-neurons", name)
            # Files of the package may be named by their place in it.
            places = (ROOT / name, ROOT / "neuronsteer" / name)
            if not generic and "/" in name and name.split("/")[0] in _folders():
                assert any(place.exists() for place in places), name


def _folders() -> set[str]:
    return {entry.name for entry in (*ROOT.iterdir(), *(ROOT / "neuronsteer").iterdir())}


def test_tests_that_docs_name_exist():
    """A promise in docs/guarantees.md is worth what its test is worth, so none may go away."""
    found: set[str] = set()
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        files = set(re.findall(r"(?<![\w./])tests(?:_vllm)?/[\w/.-]+\.py", text))
        found |= files | set(re.findall(r"(?<![\w./])tests(?:_vllm)?/[\w/.-]+\.py::[\w:]+", text))
    assert sum("::" in each for each in found) > 80
    missing: list[str] = []
    for each in sorted(found):
        name, *path = each.split("::")
        file = ROOT / name
        body = ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else None
        for part in path:
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            named = [n for n in body or () if isinstance(n, kinds) and n.name == part]
            body = named[0].body if named else None
        if body is None or (path and not path[-1].startswith(("test_", "Test"))):
            missing.append(each)
    assert not missing, f"docs name tests that do not exist: {', '.join(missing)}"


def test_every_promise_names_a_test():
    page = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    promises, _, rest = page.partition("## Not held by a test")
    rows = [line for line in promises.splitlines() if re.match(r"\| (?!promise)", line)]
    assert len(rows) > 30 and rest.strip()
    assert not [row for row in rows if "::test_" not in row.split(" | ")[1]]
