"""What the pages of docs/ show really runs, steers, and is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import neuronsteer

from .documents import (
    REASONS,
    ROOT,
    alike,
    anchors,
    commands,
    documents,
    fenced,
    languages,
    links,
    newcomer,
    read,
    run,
    wrong_with,
)
from .space.conftest import server

__all__ = ["newcomer", "server"]

#: Texts that a page generates, and the languages that they have to be in.
STEERED = {
    "docs/index.md": {"french": ["fr"]},
    "docs/get-started.md": {"german": ["de"], "unsteered": ["en"], "french": ["fr"]},
    "docs/steer.md": {
        "french": ["fr"] * 3,
        "mixed": ["fr", "de", "en"],
        "german": ["de"] * 3,
        "from_english": ["fr"] * 3,
    },
    "docs/keep-a-language.md": {"answer": ["en"]},
    "docs/share.md": {"mixed": ["fr", "de", "en"]},
}
#: Needs a server, which another test has.
PAGE = "docs/space.md"


def _runs(name: str) -> bool:
    return any(each.language == "python" and not each.reason for each in fenced(read(name)))


@pytest.mark.usefixtures("newcomer")
@pytest.mark.parametrize(
    "name", [n for n in documents() if n.startswith("docs/") and n != PAGE and _runs(n)]
)
def test_python_blocks_run_in_order_and_print_what_is_shown(name: str):
    names: dict[str, Any] = {}
    for block in fenced(read(name)):
        if block.language != "python" or block.reason:
            continue
        printed = run(block.code, names, name)
        if block.shown is not None:
            # On another processor, sums are rounded differently, and a text may take another word.
            assert alike(block.shown, printed) > 0.7, f"{name} should show:\n{printed}"
    for made, expected in STEERED.get(name, {}).items():
        texts = names["tok"].batch_decode(names[made], skip_special_tokens=True)
        assert languages(texts) == expected, texts


def test_every_page_that_generates_is_looked_at():
    generating = {n for n in documents()[2:] if n != PAGE and "generate(" in _code(n)}
    assert generating == set(STEERED)


def _code(name: str) -> str:
    found = [b.code for b in fenced(read(name)) if b.language == "python" and not b.reason]
    return "\n".join(found)


def test_the_program_that_calls_the_page_runs(server: Any):
    pytest.importorskip("gradio_client", reason="needs the extra space")
    (code,) = [each.code for each in fenced(read(PAGE)) if each.language == "python"]
    assert "http://127.0.0.1:7860" in code and "pace=8" in code
    code = code.replace("http://127.0.0.1:7860", server.url).replace("pace=8", "pace=40")
    names: dict[str, Any] = {}
    assert "import neuronsteer" in run(code, names, PAGE)
    assert names["seen"]["state"] == "done"


@pytest.mark.parametrize("name", documents())
def test_only_what_cannot_run_here_is_left_out(name: str):
    reasons = [each.reason for each in fenced(read(name)) if each.reason is not None]
    assert set(reasons) <= set(REASONS)
    marks = re.findall(r"^<!-- not run", read(name), re.MULTILINE)
    assert len(reasons) == len(marks), "a mark without a block after it"


def test_shell_lines_name_commands_and_options_that_exist():
    lines = {name: commands(read(name)) for name in documents()}
    assert sum(map(len, lines.values())) > 80
    wrong = {line: f"{name}: {wrong_with(line)}" for name in lines for line in lines[name]}
    assert not {line: told for line, told in wrong.items() if not told.endswith(": None")}


def test_the_check_of_shell_lines_finds_mistakes():
    assert wrong_with("neuronsteer generat demo demo --to fr") == "generat"
    assert wrong_with("neuronsteer generate demo demo --too fr") == "--too"
    assert wrong_with("torchrun -m neuronsteer.cli collect M --text t -o s") == "--text"
    assert wrong_with("make tests") == "tests"
    assert wrong_with("pip install 'neuronsteer[pefft]'") == "pefft"
    assert wrong_with("python examples/99_none.py") == "examples/99_none.py"
    assert wrong_with("neuronsteer serve M S --max-model-len 8") is None


def test_every_public_name_is_in_the_reference_once():
    pages = [name for name in documents() if name.startswith("docs/reference/")]
    found = [each for name in pages for each in re.findall(r"^::: (\S+)$", read(name), re.M)]
    assert sorted(found) == sorted(set(found))
    missing = {f"neuronsteer.{name}" for name in neuronsteer.__all__} - set(found)
    assert not missing, f"docs/reference/ lacks {', '.join(sorted(missing))}"


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere_in_the_repository(name: str):
    """As on GitHub; `make docs` checks them for the site."""
    here = (ROOT / name).parent
    for link in links(read(name)):
        path, _, anchor = link.partition("#")
        target = (here / path).resolve() if path else ROOT / name
        assert target.exists(), f"{name} links to {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{name}: {link}"


def test_messages_that_are_quoted_are_those_of_the_code():
    told = _messages()
    page = read("docs/troubleshooting.md")
    quoted = [each.code for each in fenced(page) if each.language == "text"]
    assert len(quoted) > 20
    for each in quoted:
        parts = [re.sub(r"\s+", " ", part).strip() for part in each.split("…")]
        wanted = r"[^\n]*?".join(re.escape(part) for part in parts)
        assert re.search(wanted, told), f"no message of the code says: {each}"


def _messages() -> str:
    """Return every text in the package, one a line, with `…` for what is filled in."""
    files = Path(neuronsteer.__file__).parent.rglob("*.py")
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in files)
    found = (_text(node) for tree in trees for node in ast.walk(tree))
    return "\n".join(re.sub(r"\s+", " ", each) for each in found if each)


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(each) or "…" for each in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return f"{_text(node.left) or '…'}{_text(node.right) or '…'}"
    return None
