"""Files that a release needs agree with one another, and workflows run what a contributor runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*_*.yml"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("version", ROOT / "tools/release_version.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def version() -> str:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def load(file: Path) -> dict[Any, Any]:
    return yaml.safe_load(file.read_text("utf-8"))


def steps(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


def test_the_citation_is_of_this_version_and_invents_nothing():
    cited = load(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert cited["version"] == version() and cited["license"] == "Apache-2.0"
    # What is not known yet is left out; a person adds it before the first release.
    assert not {"doi", "url", "repository-code", "date-released"} & set(cited)


def test_the_changelog_has_the_headings_of_keep_a_changelog():
    versions = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    for heading in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading), heading
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= kinds


def test_a_release_needs_the_same_version_everywhere(tool: ModuleType, tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.0\n")
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("## [Unreleased]\n\n## [1.2.0] - 2030-01-31\n\n## [1.1.0] - 2029-01-31\n")
    assert tool.mistakes("1.2.0", tmp_path) == []
    assert len(tool.mistakes("1.1.0", tmp_path)) == 3
    changelog.write_text("## [Unreleased]\n")
    assert tool.mistakes("1.2.0", tmp_path) == [
        "CHANGELOG.md has no released version; expected 1.2.0. Correct it, or the tag."
    ]
    # What is written in this repository is found.
    assert not [each for each in tool.mistakes(version()) if "CHANGELOG" not in each]


def test_a_mistaken_tag_stops_the_release():
    command = [sys.executable, str(ROOT / "tools" / "release_version.py"), "999.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "pyproject.toml has" in done.stderr


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflows_are_pinned_and_may_read_only(file: Path):
    workflow = load(file)
    assert workflow["permissions"] == {"contents": "read"}
    # YAML 1.1 takes `on` for a boolean.
    assert workflow[True]
    for job in workflow["jobs"].values():
        called = job.get("uses")
        assert called is None or (ROOT / called).is_file(), called
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]
        # What others can write (titles, names of branches) must not become part of a command.
        assert "${{" not in step.get("run", ""), step["run"]
    assert "secrets." not in file.read_text("utf-8")


def test_workflows_run_what_contributors_run():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    run = [step.get("run", "") for file in WORKFLOWS for step in steps(load(file))]
    asked = set(re.findall(r"\bmake ([\w-]+)", "\n".join(run)))
    assert {"check", "test"} <= asked
    assert asked <= targets
    for name in re.findall(r"python (tools/\S+)", "\n".join(run)):
        assert (ROOT / name).is_file()


def test_only_a_tag_publishes():
    workflow = load(ROOT / ".github" / "workflows" / "publish.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    jobs = workflow["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build" and jobs["build"]["needs"] == "version"


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_issue_templates_are_forms(file: Path):
    form = load(file)
    assert form["name"] and form["description"] and form["body"]
    for part in form["body"]:
        kind, attributes = part["type"], part["attributes"]
        assert kind in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert attributes["value"] if kind == "markdown" else attributes["label"] and part["id"]
    identifiers = [part["id"] for part in form["body"] if "id" in part]
    assert len(identifiers) == len(set(identifiers))
