"""The table of families comes from the registry."""

import importlib.util
from pathlib import Path

import pytest

from tests.tiny_models import ALL_FAMILIES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "architecture_table.py"
    spec = importlib.util.spec_from_file_location("architecture_table", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_family_has_a_line(tool):
    lines = tool.table().splitlines()[2:]
    assert {line.split("|")[1].strip() for line in lines} == set(ALL_FAMILIES)
    assert all(line.count("|") == 7 for line in lines)
    assert "| llama | `mlp.down_proj` | `gate_proj` | separate | `mlp_bias=True` |  |" in lines


def test_write_then_check(tool, tmp_path, capsys):
    file = tmp_path / "README.md"
    file.write_text(f"before\n{tool.START}\nold\n{tool.END}\nafter\n", encoding="utf-8")
    assert tool.main(["--check", str(file)]) == 1
    assert "out of date" in capsys.readouterr().err
    assert tool.main([str(file)]) == 0
    assert tool.main(["--check", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| gpt_oss |" in text


def test_missing_markers_are_an_error(tool, tmp_path, capsys):
    file = tmp_path / "README.md"
    file.write_text("nothing", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        tool.main([str(file)])
    assert stop.value.code == 2
    assert tool.START in capsys.readouterr().err


def test_the_page_is_up_to_date(tool):
    page = ROOT / "docs" / "models.md"
    assert tool.START in page.read_text(encoding="utf-8")
    assert tool.main(["--check", str(page)]) == 0
