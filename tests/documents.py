"""What README, CONTRIBUTING and docs/ hold: code, commands and links, read from them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from neuronsteer.cli.commands import app
from neuronsteer.demo import model_folder, sentences
from neuronsteer.demo.language_identifier import language_identifier

ROOT = Path(__file__).resolve().parents[1]
#: The demo model stands in for the real one: what is pasted must steer.
MODEL = "Qwen/Qwen3-0.6B"
LANGUAGES = ("en", "fr", "de")
#: Why a block may stay unrun, said in a comment before it: `<!-- not run: needs vLLM -->`.
REASONS = ("needs the Hub", "needs vLLM", "needs a running server", "needs a GPU")
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<shown>.*?)^```)?",
    re.MULTILINE | re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: its code, what the page shows as its output, and why it is not run."""

    language: str
    code: str
    shown: str | None
    reason: str | None


def read(name: str) -> str:
    """Return a document of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def documents() -> list[str]:
    """Return README, CONTRIBUTING and every page."""
    pages = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", "CONTRIBUTING.md", *pages]


def fenced(text: str) -> list[Block]:
    """Return the fenced blocks of a document, each with the output that is shown below it."""
    return [
        Block(found["language"], found["code"], found["shown"], found["reason"])
        for found in _BLOCK.finditer(text)
    ]


def blocks(text: str, language: str) -> list[str]:
    """Return the code of all fenced blocks of a language that are to be run."""
    found = fenced(text)
    return [each.code for each in found if each.language == language and each.reason is None]


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what documents take for granted: a model, here without chance, and texts."""
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


def run(code: str, names: dict[str, Any], page: str) -> str:
    """Run a block as a reader would, after those before it, and return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace(f'"{MODEL}"', '"model"'), page, "exec"), names)
    return printed.getvalue()


def alike(shown: str, printed: str) -> float:
    """Return how much of an output is as a page shows it, 0 to 1."""
    return difflib.SequenceMatcher(None, shown, printed, autojunk=False).ratio()


def commands(text: str) -> list[str]:
    """Return the command lines in a document's shell blocks and in its running text."""
    found: list[str] = []
    for each in fenced(text):
        if each.language in ("bash", ""):
            found += each.code.replace("\\\n", " ").splitlines()
    found = [line.strip() for line in found if line.strip() and not line.startswith("#")]
    inline = re.findall(r"`((?:neuronsteer|make) [a-z][^`]*)`", text)
    return found + [" ".join(line.split()) for line in inline]


@functools.cache
def _subcommands() -> dict[str, Any]:
    import neuronsteer.cli.app  # noqa: F401  (registers the commands)

    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def wrong_with(line: str) -> str | None:
    """Return what a command line asks for that does not exist, or `None`."""
    words = shlex.split(line, comments=True)
    if not words:
        return None
    for start in range(len(words)):
        if words[start] in ("neuronsteer", "neuronsteer.cli"):
            return _wrong_command(words[start + 1 :])
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE)
        return next((each for each in words[1:] if "=" not in each and each not in targets), None)
    if words[:2] == ["pip", "install"]:
        _, _, declared = read("pyproject.toml").partition("[project.optional-dependencies]")
        extras = re.findall(r"^(\w+) = \[", declared.partition("\n[")[0], re.MULTILINE)
        named = ",".join(re.findall(r"\[(.*?)\]", line)).split(",")
        return next((each for each in named if each and each not in extras), None)
    scripts = [each for each in words if re.fullmatch(r"[\w./]+/[\w.]+\.(?:py|sh)", each)]
    return next((each for each in scripts if not (ROOT / each).exists()), None)


def _wrong_command(words: list[str]) -> str | None:
    known = _subcommands()
    if not words or words[0].startswith("-"):
        return None
    if words[0] not in known:
        return words[0]
    command = known[words[0]]
    if command.context_settings.get("ignore_unknown_options"):
        return None  # the rest belongs to vLLM or to lm-evaluation-harness
    options = {"--help", "-h", *(name for each in command.params for name in each.opts)}
    given = {word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)}
    return ", ".join(sorted(given - options)) or None


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    plain = (re.sub(r"[`*]|\[(.*?)\]\(.*?\)", r"\1", each).lower() for each in headings)
    return {re.sub(r"[^\w\- ]", "", each).replace(" ", "-") for each in plain}


def links(text: str) -> list[str]:
    """Return the relative links of a document, code left out."""
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [each for each in found if not re.match(r"\w+:", each)]
