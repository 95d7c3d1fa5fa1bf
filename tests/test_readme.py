"""What the README and CONTRIBUTING show really runs, and tests that docs name are there."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neuronsteer.detectors import DETECTORS
from neuronsteer.operations import OPERATIONS

from .cli.conftest import Result, call
from .documents import (
    LANGUAGES,
    MODEL,
    ROOT,
    blocks,
    languages,
    newcomer,
    read,
    run,
)
from .tiny_models import tiny_model, tiny_tokenizer

__all__ = ["call", "newcomer"]

README, CONTRIBUTING = read("README.md"), read("CONTRIBUTING.md")


def test_python_blocks_run_in_order_and_the_first_one_steers(newcomer: Path):
    demo, first, *rest = blocks(README, "python")
    names: dict[str, Any] = {}
    assert languages([run(demo, names, "README.md")]) == ["fr"]
    run(first, names, "README.md")
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
        run(block, names, "README.md")


def test_the_shell_block_steers(newcomer: Path, call: Callable[..., Result]):
    found = next(each for each in blocks(README, "bash") if each.startswith("neuronsteer collect"))
    lines = found.strip().splitlines()
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
        run(blocks(CONTRIBUTING, "python")[0], names, "CONTRIBUTING.md")
        model, tokenizer = tiny_model("llama"), tiny_tokenizer()
        stats = ns.collect(model, tokenizer, "texts", progress=False, max_texts=5)
        neurons = ns.detect(stats, method="most-active", count=3)
        assert neurons.counts == dict.fromkeys(LANGUAGES, 3)
    finally:
        DETECTORS._items.pop("most-active", None)


def test_the_page_of_methods_is_up_to_date():
    path = ROOT / "tools" / "methods_table.py"
    spec = importlib.util.spec_from_file_location("methods_table", path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (ROOT / tool.DOCUMENT).read_text(encoding="utf-8")
    assert page == tool.document(), "run: make style"
    for name, kind in DETECTORS.items():
        told = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert kind.paper in told and kind.cost in told and "differs from its code.** " in told
        for field in dataclasses.fields(kind):
            # Every parameter is explained, also those of presets.
            assert re.search(rf"^\| `{field.name}` \| `.*` \| \S", told, re.MULTILINE), field.name


@pytest.mark.parametrize("name", OPERATIONS.names())
def test_every_operation_is_in_the_guide(name: str):
    assert f"| `{name}` |" in read("docs/steer.md"), f"docs/steer.md has no row for {name}"


def test_readme_is_a_page_and_has_the_two_commands():
    assert len(README.split()) <= 1200
    lines = README.splitlines()
    assert any(line.startswith("make demo") for line in lines)
    assert any(line.startswith("make test") for line in lines)


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
