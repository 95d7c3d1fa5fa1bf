"""What is shown of long work, on a terminal and in the log of a batch job."""

from __future__ import annotations

import time

import pytest

from neuronsteer.stats import progress
from neuronsteer.stats.progress import Progress, reporting, shown_on_stderr


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def err(monkeypatch, capsys):
    """Return everything that was printed on stderr, which is no terminal here."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    seen = []

    def read():
        seen.append(capsys.readouterr().err)
        return "".join(seen)

    return read


def test_a_batch_job_prints_a_line_now_and_then(err, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    with reporting(True, first=True) as report:
        wait_for(lambda: "collect" in err())  # before the first batch is done
        report(Progress("en", 0, 2, 1234, 2.0, 0.25, 8))
        report(Progress("en", 0, 2, 2468, 4.0, 0.5, 8))
        # One slow batch does not silence it.
        wait_for(lambda: err().count("en (1/2)  50%  2,468 tokens, 617/s") >= 2)
    assert "left" in err() and "\x1b" not in err()
    after = err()
    time.sleep(0.1)
    assert err() == after, "nothing is printed once the work is done"


def test_short_work_prints_nothing(err):
    with shown_on_stderr("evaluate") as show:
        show("forcing", 0.5, "1/2")
    assert err() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_long_work_says_once_how_long_it_takes(err, monkeypatch, terminal):
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "LONG", 0.0)
    with shown_on_stderr("evaluate") as show:
        show("forcing", 0.0, "0/200")
        assert "This will take" not in err()  # nothing is known yet
        show("forcing", 0.005, "1/200")
        show("forcing", 0.5, "100/200")
    assert err().count("This will take about") == 1
    assert "judging by the first 0.5%" in err()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(75.4, "75 seconds"), (754, "13 minutes"), (9000, "2.5 hours")],
)
def test_times_are_said_in_words(seconds, words):
    assert progress._in_words(seconds) == words


def test_an_exception_ends_the_lines(err, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with pytest.raises(KeyboardInterrupt), shown_on_stderr("evaluate"):
        raise KeyboardInterrupt
    after = err()
    time.sleep(0.05)
    assert err() == after


def test_a_terminal_gets_a_bar(err, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with shown_on_stderr("evaluate") as show:
        show("forcing [x]", 0.5, "1/2")
    assert "━" in err() and "50%" in err() and "forcing [x]" in err()


def test_one_process_reports_or_nobody(err):
    seen = []
    for wanted, first in ((False, True), (seen.append, False)):
        with reporting(wanted, first) as report:
            report(Progress("en", 0, 1, 1, 1.0, None, 1))
    assert seen == [] and err() == ""
    with reporting(seen.append, True) as report:
        report(Progress("en", 0, 1, 1, 1.0, None, 1))
    assert len(seen) == 1
