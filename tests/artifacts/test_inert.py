"""Cards and reports show any text as it is: nothing in it runs, breaks out or becomes markup."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from neuronsteer.evaluation.reports import Report
from neuronsteer.neuron_set import NeuronSet, card
from neuronsteer.neuron_set.markdown_text import code, fenced, inline, one_line, string_literal

from ..evaluation.reports.test_reports import data as report_data
from .mutations import EVIL_TEXTS

pytest_plugins = ("tests.space.browsing",)

HOSTILE = (
    'fr")\n```\n<img src=x onerror=alert(1)>\n```python\nimport os; os.system("id',
    "<script>alert(1)</script>",
    "</pre></code><svg onload=alert(1)>",
    "`` ``` ```` <b onclick=alert(1)>",
    "\\`<img src=x onerror=alert(1)>\\`",
    "[click](javascript:alert(1)) <javascript:alert(1)> ![x](x)",
    "a | b\n|---|\n| <u>",
    "---\nlicense: mit\n---",
    "# h\n- [ ] *x* _y_ ~~z~~",
    "&lt;img src=x onerror=alert(1)&gt; &#60;script&#62;",
    "<!-- made by neuronsteer -->",
    "{{ 7 * 7 }}{% raw %}",
    *(text for text in EVIL_TEXTS if text.strip() and len(text) < 1_000),
)
#: What a card is made of; anything else would be somebody's markup.
OWN_TAGS = {
    *("h1", "h2", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"),
    *("ul", "li", "strong", "blockquote", "a", "img"),
}


class Page(HTMLParser):
    """The tags, links, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def html_of(markdown: str, tables: bool = True) -> str:
    """Markdown as a renderer shows it that lets HTML through."""
    body = re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)
    renderer = MarkdownIt("commonmark", {"html": True})
    return (renderer.enable("table") if tables else renderer).render(body)


def hostile_set(text: str) -> NeuronSet:
    """A set with the text in every place that may hold any."""
    return NeuronSet.from_rows(
        [text, "fr"], [0, 0, 1], [0, 1, 1], [3, 4, 4],
        values={f"{one_line(text)}.x": [1.0, 2.0, 3.0]}, site=text, num_layers=4, width=32,
        model_type=text, base_model=text, base_revision=text, means_of=(text, "fr"), source=text,
        method={"name": text, "parameters": {text: text, "n": [text]}},
        calibration={text: {"corpus": text}}, operation={"name": text, "value": text},
        strengths={text: 0.5}, schedule=text,
        evaluation={
            "results": [
                {"task": text, "label": text, "metric": text, "value": 0.5, "dataset": text,
                 "controls": {text: 0.1}},
            ]
        },
    )  # fmt: skip


def hostile_report(text: str) -> Report:
    """A report with the text in place of every text."""

    def replaced(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: replaced(each, k) for k, each in value.items()}
        if isinstance(value, list):
            return [replaced(each) for each in value]
        fixed = key in ("kind", "name", "primary", "unit", "fingerprint", "sha256")
        return text if isinstance(value, str) and not fixed else value

    found = replaced(report_data())
    found["subject"]["set"]["method"]["name"] = found["subject"]["model"]["name"] = text
    found["tasks"][0]["treatments"]["neurons"]["labels"] = {text: {"value": 0.5}}
    found["environment"] = {text: text}
    found["settings"][text] = text
    return Report.from_dict(found)


def assert_inert(markdown: str) -> Page:
    # A renderer without tables has to be safe, too.
    for tables in (True, False):
        page = Page(html_of(markdown, tables))
        assert set(page.tags) <= OWN_TAGS, set(page.tags) - OWN_TAGS
        for name, value in page.attributes:
            assert name in ("href", "src", "alt", "class", "style"), name
            assert ":" not in (value or "") or name == "style", value
    return Page(html_of(markdown))


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_cards_are_inert(text):
    summary = hostile_set(text).summary()
    front = {}
    for written in (
        card.render(summary, "me/set"),
        card.render_index(["lape", one_line(text).strip("/") or "x"], summary, repo_id="me/set"),
    ):
        page = assert_inert(written)
        assert "a" not in page.tags or "lape" in page.text
        front = yaml.safe_load(written.split("\n---\n")[0])
        assert set(front) <= {
            "library_name", "pipeline_tag", "tags", "language", "model-index", "base_model",
            "base_model_relation",
        }  # fmt: skip
    assert front["tags"][:2] == ["neuronsteer", "steering"]
    written = card.render(summary, "me/set")
    blocks = re.findall(r"^```python\n(.*?)^```$", written, re.DOTALL | re.MULTILINE)
    (tree,) = [ast.parse(block) for block in blocks]
    steered = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "to"
    ]
    assert steered == [text]
    # It is still said: in the heading, as it is but for what cannot be seen.
    assert one_line(text) in " ".join(Page(html_of(written)).text.split())


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_reports_are_inert(text):
    report = hostile_report(text)
    assert_inert(report.to_markdown())
    assert_inert(report.to_card())
    assert_inert(report.compare(report).to_markdown())
    page = Page(report.to_html())
    assert not set(page.tags) & {"script", "img", "iframe", "object", "b", "u", "link", "base"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all((value or "").startswith("#") for name, value in page.attributes if name == "href")


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:30])
def test_the_parts_that_texts_go_through(text):
    assert Page(html_of(f"x {inline(text)}")).text.strip()[2:] == one_line(text)
    assert Page(html_of(f"x {code(text)}")).text.strip()[2:] == one_line(text).replace("|", r"\|")
    table = f"| a | b |\n|---|---|\n| {inline(text)} | {code(text)} |\n"
    cells = re.findall(r"<td>(.*?)</td>", html_of(table), re.DOTALL)
    assert [Page(cell).text.strip() for cell in cells] == [one_line(text)] * 2
    block = html_of(fenced(f"{text}\n{text}", "text"))
    assert Page(block).tags == ["pre", "code"]
    assert ast.literal_eval(string_literal(text)) == text
    assert string_literal(text).isprintable()


def hostile_pages() -> Iterator[str]:
    for text in HOSTILE:
        yield html_of(card.render(hostile_set(text).summary(), "me/set"))
        yield hostile_report(text).to_html()


def test_nothing_runs_in_a_browser(browser, tmp_path):  # noqa: F811
    """One page at a time, as a file, which a browser trusts more than a page of the internet."""
    context = browser.new_context()
    page = context.new_page()
    found: list[str] = []
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: found.append(request.url))
    file = tmp_path / "page.html"
    for html in hostile_pages():
        file.write_text(html, encoding="utf-8")
        page.goto(file.as_uri(), wait_until="load")
        assert page.evaluate("document.querySelectorAll('script, iframe, img').length") == 0
        watched = "[...document.querySelectorAll('*')].filter(e => [...e.attributes].some("
        handlers = page.evaluate(watched + "a => a.name.startsWith('on'))).length")
        assert handlers == 0
    context.close()
    assert set(found) == {file.as_uri()}


def test_the_browser_would_notice(browser, tmp_path):  # noqa: F811
    page = browser.new_page()
    found: list[str] = []
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))
    (tmp_path / "page.html").write_text("<img src=x onerror=alert(1)>")
    page.goto((tmp_path / "page.html").as_uri(), wait_until="load")
    page.wait_for_timeout(200)
    page.close()
    assert found == ["1"]


def test_json_in_a_card_can_be_read_again():
    text = HOSTILE[0]
    written = card.render(hostile_set(text).summary(), "me/set")
    (block,) = re.findall(r"^```json\n(.*?)^```$", written, re.DOTALL | re.MULTILINE)
    assert json.loads(block) == {text: {"corpus": text}}
