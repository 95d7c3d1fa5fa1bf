"""Nothing that an earlier command wrote is lost by accident; long work says that it goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

import neuronsteer as ns
from neuronsteer.stats import progress

from .conftest import Disk, Result

Call = Callable[..., Result]


def test_a_set_is_replaced_only_when_asked(call: Call, disk: Disk, tmp_path: Path):
    out = tmp_path / "n"
    (out / ".git").mkdir(parents=True)  # a repository of the Hub, just cloned
    (out / ".gitattributes").touch()
    line = ("detect", disk.stats, "--method", "lape", "--rate", "0.2", "-o", str(out), "-q")
    assert call(*line).code == 0
    first = ns.NeuronSet.from_pretrained(out)
    other = ("detect", disk.stats, "--method", "lape", "--rate", "0.1", "-o", str(out), "-q")
    assert call(*other).code == 2
    assert ns.NeuronSet.from_pretrained(out) == first
    assert call(*other, "--overwrite").code == 0
    assert ns.NeuronSet.from_pretrained(out) != first


def test_finished_statistics_are_not_collected_again(call: Call, disk: Disk, tmp_path: Path):
    out = tmp_path / "s"
    line = ("collect", disk.model, "--texts", disk.texts, "-o", str(out), "--max-texts", "4")
    assert call(*line).code == 0
    before = (out / "stats.json").read_bytes()
    done = call("collect", "./no-model", *line[2:], "--resume", "--json")
    assert done.code == 0 and "is finished; --overwrite collects anew" in done.err
    assert '"en"' in done.out and (out / "stats.json").read_bytes() == before
    assert call(*line, "--overwrite", "-q").code == 0
    assert (out / "stats.json").read_bytes() != before  # every save has a number of its own


def test_unfinished_work_is_not_thrown_away(call: Call, disk: Disk, tmp_path: Path):
    (tmp_path / "s.partial").mkdir()
    (tmp_path / "s.partial" / "plan.json").write_text("{}")
    for line in (
        ("collect", disk.model, "--texts", disk.texts),
        ("evaluate", disk.model, disk.set),
        ("tune", disk.model, disk.set),
    ):
        done = call(*line, "-o", str(tmp_path / "s"))
        assert done.code == 2 and "--resume goes on with it; --overwrite starts anew" in done.err
        assert (tmp_path / "s.partial" / "plan.json").exists()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What progress is shown of."""
    found: list[str] = []

    @contextmanager
    def show(what: str, *, stays: bool = True):
        found.append(what)
        yield lambda what, done, detail: found.append(f"{what} {done} {detail}")

    monkeypatch.setattr(progress, "shown_on_stderr", show)
    return found


def test_long_commands_show_progress(call: Call, disk: Disk, tmp_path: Path, shown: list[str]):
    zero = ("--to", "fr", "--operation", "zero")
    for line, what in (
        (("detect", disk.stats, "-o", str(tmp_path / "n")), "detect diffmean"),
        (("bake", disk.model, disk.set, *zero, "-o", str(tmp_path / "b")), "bake to"),
        (
            ("export", disk.set, "--model", disk.model, *zero, "-o", str(tmp_path / "e")),
            "export to",
        ),
        (("analyze", disk.set, "--what", "layers"), "layers"),
        (("collect", disk.model, "--texts", disk.texts, "-o", str(tmp_path / "s")), "collect"),
    ):
        shown.clear()
        assert call(*line).code == 0, line
        assert shown[0].startswith(what)
        shown.clear()
        again = [each.replace(str(tmp_path), str(tmp_path / "quiet")) for each in line]
        assert call(*again, "-q").code == 0 and not shown


def test_answers_show_progress(call: Call, disk: Disk, tmp_path: Path, shown: list[str]):
    pytest.importorskip("lingua")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "fr.txt").write_text("Le chat\nLe chien\n", encoding="utf-8")
    line = ("collect", disk.model, "--answers", str(tmp_path / "prompts"), "--answer-tokens", "4")
    call(*line, "-o", str(tmp_path / "s"))  # its answers are in no language
    assert "answers (fr) 1.0 2 of 2 prompts" in shown


@pytest.mark.parametrize("given", [None, "64", "96"])
def test_a_schedule_is_followed_to_its_end_or_the_rest_is_said(
    call: Call, disk: Disk, given: str | None
):
    line = ["generate", disk.model, disk.set, "--schedule", "en,24:fr,64:ja", "--prompt", "x"]
    line += [] if given is None else ["--max-new-tokens", given]
    done = call(*line)
    assert done.code == 0, done.err
    missed = "switch at token 64 (ja) is never reached: there are at most 64 new tokens. Try"
    assert (missed in done.err) == (given == "64")
    assert call(*line, "-q").err == ""
