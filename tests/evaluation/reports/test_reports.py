"""The report: kept, shown, compared, and made block of a card."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml

from neuronsteer.errors import ArtifactError, HubError, NeuronSteerError, UnknownNameError
from neuronsteer.evaluation.reports import Report, blocks, formatting
from neuronsteer.neuron_set import card
from neuronsteer.neuron_set.card import evaluation_results

from ...steering.sets import toy_set
from ...tiny_models import tiny_model

EVIL = "<script>alert(1)</script> | *x* ` #"


def number(value, least=None, most=None, **more):
    return {"value": value, "interval": None if least is None else [least, most], **more}


def data(**changes: Any) -> dict[str, Any]:
    """Return a report as `evaluate` writes it."""
    matrix = blocks.matrix(
        "Matrix", ["en", "fr"], ["en", "fr"], [[1.0, 0.5], [None, 0.0]], row_name="prompt",
        column_name="steered to",
    )  # fmt: skip
    shown = [
        matrix,
        blocks.matrix(
            "Nats",
            ["en"],
            ["en"],
            [[-0.5]],
            row_name="a",
            column_name="b",
            unit="nats",
            diverging=True,
        ),
        blocks.histogram("Delay", [1, 3, 4], bins=[0, 2, 4], x_name="tokens"),
        blocks.scatter(
            "Frontier",
            [
                {"x": 0.5, "y": 0.9, "label": "add × 1", "group": "add", "best": True},
                {"x": 0.9, "y": 0.5, "label": "add × 2", "group": "add", "best": True},
                {"x": 0.4, "y": 0.4, "label": "set", "group": "set", "best": False},
            ],
            x_name="success",
            y_name="fluency",
        ),
        blocks.table("Table", ["a", "b"], [["x", 0.5], [EVIL, None]]),
        blocks.samples(
            "Said",
            [{"prompt": EVIL, "text": "سلام", "label": "ar", "identified": "ar", "good": True}],
        ),
    ]
    task = {
        "name": "forcing", "title": "Forcing", "question": "Q?", "definition": "D.", "paper": "P",
        "primary": "fluent_success", "higher_is_better": True, "unit": "share", "units": {},
        "reads": ["prompts"], "parameters": {"items": 2}, "not_applicable": ["diffmean"],
        "seconds": 1.0,
        "treatments": {
            "neurons": {
                "seeds": 1, "n": 20,
                "values": {"fluent_success": number(0.8, 0.7, 0.9), "degeneration": number(0.0)},
                "labels": {"en": number(0.9, 0.8, 1.0, n=10), "fr": number(0.7, 0.5, 0.8, n=10)},
                "blocks": shown, "settings": {},
            },
            "none": {
                "seeds": 1, "n": 20,
                "values": {"fluent_success": number(0.1, 0.0, 0.2), "degeneration": number(0.0)},
                "labels": {"en": number(0.1), "fr": number(None)}, "blocks": [], "settings": {},
            },
            "random": {
                "seeds": 3, "n": 60,
                "values": {
                    "fluent_success": number(0.05, 0.0, 0.1, seeds=3, low=0.0, high=0.12),
                    "degeneration": number(0.0),
                },
                "labels": {"en": number(0.05, 0.0, 0.1), "fr": number(0.05, 0.0, 0.1)},
                "blocks": [matrix], "settings": {},
            },
        },
    }  # fmt: skip
    fields: dict[str, Any] = {
        "format": 1,
        "subject": {
            "model": {
                "name": "user/model", "type": "llama", "parameters": 1234, "dtype": "float32",
                "weights_sha256": "w" * 64,
            },
            "set": {
                "fingerprint": "f" * 64, "method": {"name": "lape", "parameters": {}},
                "operation": {"name": "set", "value": "mean"}, "site": "mlp.act",
                "labels": ["en", "fr"], "counts": {"en": 2, "fr": 2}, "neurons": 4,
                "base_model": "user/model",
            },
        },
        "settings": {"seed": 0, "identifier": "lingua", "controls": ["none", "random:3"]},
        "environment": {"torch": "2.0"},
        "data": {
            "prompts": {"source": "heldout", "sha256": "d" * 64, "items": {"en": 2, "fr": 2}}
        },
        "tasks": [task],
        "notes": [],
        "created": "2026-01-01T00:00:00+00:00",
        "seconds": 2.0,
    }  # fmt: skip
    return {**fields, **changes}


@pytest.fixture
def report() -> Report:
    return Report.from_dict(data())


def without_controls() -> Report:
    found = data()
    treatments = found["tasks"][0]["treatments"]
    found["tasks"][0]["treatments"] = {"neurons": treatments["neurons"]}
    return Report.from_dict(found)


def test_numbers_are_found_by_name(report):
    assert report.value("forcing") == 0.8
    assert report.value("forcing", treatment="random") == 0.05
    assert report.value("forcing", label="fr") == 0.7
    assert report.value("forcing", "degeneration") == 0
    assert report.controls == ("none", "random")
    for arguments in (("lss",), ("forcing", "x"), ("forcing", None)):
        with pytest.raises(UnknownNameError):
            report.value(*arguments, **({"treatment": "diffmean"} if None in arguments else {}))


def test_it_is_kept(report, tmp_path):
    where = report.save(tmp_path / "r")
    assert {path.name for path in where.iterdir()} == {"report.json", "report.md", "report.html"}
    for path in (where, where / "report.json"):
        assert Report.load(path).to_dict() == report.to_dict()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format"),
        ({"format": None}, "format"),
        ({"subject": []}, "'subject'"),
        ({"tasks": {}}, "'tasks'"),
        ({"tasks": [{"name": "x"}]}, r"'tasks\[0\].title'"),
    ],
)
def test_what_is_no_report_is_told(change, said):
    with pytest.raises(ArtifactError, match=said):
        Report.from_dict(data(**change))


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(HubError, match="neuronsteer evaluate"):
        Report.load(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ArtifactError, match="not readable JSON"):
        Report.load(tmp_path)


class _Page(HTMLParser):
    """What a browser would fetch, and whether tags are closed."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "poster"):
                self.fetched.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()


def test_the_page_needs_nothing_else(report):
    page = _Page(report.to_html())
    assert page.open == []
    assert "script" not in page.tags and "link" not in page.tags
    assert all(each.startswith("#") and each[1:] in page.ids for each in page.fetched)
    assert not re.search(r"url\(|@import|https?://", report.to_html())


def test_texts_of_models_are_escaped(report):
    assert "<script>" not in report.to_html()
    assert "&lt;script&gt;" in report.to_html()
    lines = report.to_markdown().splitlines()
    row = next(line for line in lines if "alert" in line and "script" in line)
    assert "&lt;script&gt;" in row and r"\|" in row
    assert "<script>" not in report.to_markdown()


def test_the_page_shows_dark_mode_and_every_part(report):
    page = report.to_html()
    assert "prefers-color-scheme: dark" in page
    for block in ('class="heat"', "frontier", 'dir="auto"', "سلام", "polygon"):
        assert block in page
    assert "Better than every one of 3 random sets" in page
    assert "Not applicable here: diffmean" in page


def test_worse_than_random_is_said():
    found = data()
    found["tasks"][0]["treatments"]["random"]["values"]["fluent_success"]["high"] = 0.85
    assert "Not better than random" in formatting.beaten(found["tasks"][0])
    found["tasks"][0]["higher_is_better"] = False
    found["tasks"][0]["treatments"]["random"]["values"]["fluent_success"]["low"] = 0.9
    assert formatting.beaten(found["tasks"][0]).startswith("Better")


def test_a_report_without_controls_says_so_everywhere(report):
    bare = without_controls()
    for text in (bare.to_html(), bare.to_markdown(), bare.to_card()):
        assert "No controls" in text
    assert "No controls" not in report.to_html() + report.to_markdown() + report.to_card()
    assert "has no controls" in report.compare(bare).to_markdown()


def test_the_card_gets_table_and_model_index(report):
    neurons = toy_set(tiny_model(), base_model="user/model")
    found = neurons.replace(evaluation=report.to_evaluation())
    listed = evaluation_results(found.evaluation)
    assert [each["label"] for each in listed] == ["", "en", "fr"]
    assert listed[0]["controls"] == {"no steering": 0.1, "random neurons": 0.05}
    assert listed[0]["interval"] == [0.7, 0.9]
    # What is undefined is left out, not 0.
    assert listed[2]["controls"] == {"random neurons": 0.05}
    text = card.render(found.summary(), "user/set")
    front = yaml.safe_load(text.split("---")[1])
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert {each["name"] for each in metrics} >= {
        "fluent_success", "fluent_success (en)", "fluent_success, control: random neurons",
    }  # fmt: skip
    assert "random neurons" in text.split("---", 2)[2]


def test_the_section_of_a_card(report):
    text = report.to_card()
    assert text.startswith("## Evaluation")
    assert "80.0% (70.0% to 90.0%)" in text and "heldout" in text and "Seed 0" in text


def test_two_reports_side_by_side(report):
    other = copy.deepcopy(data())
    treatment = other["tasks"][0]["treatments"]["neurons"]
    treatment["values"]["fluent_success"] = number(0.5, 0.4, 0.6)
    treatment["labels"]["fr"] = number(0.75, 0.6, 0.9)
    other["data"]["prompts"]["sha256"] = "e" * 64
    other["settings"]["seed"] = 1
    comparison = report.compare(Report.from_dict(other))
    rows = {(row["task"], row["label"]): row for row in comparison.rows()}
    assert rows["forcing", ""]["difference"] == pytest.approx(-0.3)
    assert rows["forcing", ""]["apart"] is True and rows["forcing", ""]["better"] is False
    assert rows["forcing", "fr"]["apart"] is False and rows["forcing", "fr"]["better"] is True
    assert rows["forcing", "en"]["better"] is None
    assert comparison.differences == ["data (prompts)", "seed"]
    text = comparison.to_markdown()
    assert "Different settings: data (prompts), seed" in text and "-0.3" in text
    assert comparison.to_dict()["only_left"] == []


def test_reports_without_a_common_task(report):
    other = data()
    other["tasks"][0]["name"] = "lss"
    comparison = report.compare(Report.from_dict(other))
    assert comparison.rows() == [] and comparison.to_dict()["only_right"] == ["lss"]


def test_numbers_are_written_alike():
    assert formatting.number(0.5, "share") == "50.0%"
    assert formatting.number(None) == "–"
    assert formatting.number(-0.25, "change of share") == "-0.250"
    assert formatting.interval(number(0.5, 0.4, 0.6), "share") == "40.0% to 60.0%"
    assert formatting.treatment("random", {"seeds": 10}) == "random neurons (mean of 10)"


def test_a_histogram_counts_its_last_edge():
    block = blocks.histogram("x", [0, 1.9, 2, 4], bins=[0, 2, 4], x_name="n")
    assert block["counts"] == [2, 2]


def test_errors_are_ours():
    assert issubclass(ArtifactError, NeuronSteerError)
