"""Chromium for the page's tests, and what they do with it again and again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from .conftest import PATIENCE, wait_until

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


# Not for the session: while it runs, its event loop is that of the thread, and tests elsewhere that
# run one of their own would find one running.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, or a skip that says what is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra dev)")
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium in the PATH: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """One visitor: a page, and every error on it."""

    def __init__(self, browser: Any, url: str, tab_of: Visit | None = None, **context: Any) -> None:
        self._whole = tab_of is None
        self.context = (
            browser.new_context(**{"reduced_motion": "reduce", **context})
            if tab_of is None
            else tab_of.context
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.problems: list[str] = []
        self._forgiven: tuple[str, ...] = ()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        self.page.on(
            "requestfailed", lambda request: self.problems.append(f"failed: {request.url}")
        )
        self.url = url

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def open(self, **query: Any) -> Visit:
        """Go to the page, with a state in its address."""
        self.page.goto(f"{self.url}/?{urlencode(query)}")
        self.page.wait_for_selector("body[data-ready]")
        return self

    def set_range(self, name: str, value: float) -> None:
        """Move a slider, wherever it is."""
        self.page.locator(f"#{name}").evaluate(
            "(each, value) => { each.value = value; each.dispatchEvent(new Event('input')); }",
            value,
        )

    def start(self, *, pace: float | None = None) -> None:
        """Press Generate and wait for the first token."""
        if pace is not None:
            self.set_range("pace", pace)
        self.page.click("#go")
        self.page.wait_for_selector("#steered .span")

    def wait_tokens(self, count: int) -> None:
        """Wait until so many tokens are there."""
        wait_until(lambda: self.tokens >= count, f"{count} tokens on the page")

    def finish(self) -> None:
        """Wait until nothing is being generated."""
        self.page.wait_for_selector("#go:not(.busy)")

    def out_of_view(self, *selectors: str) -> list[str]:
        """Which of all these elements are not wholly inside the window, as it is scrolled now."""
        read = """selectors => selectors.flatMap(selector => {
            const all = [...document.querySelectorAll(selector)];
            if (!all.length) return [`${selector}: not there`];
            return all.map(each => [each, each.getBoundingClientRect()])
                .filter(([, box]) => !box.height || box.top < 0 || box.left < 0
                    || box.bottom > innerHeight + 0.5 || box.right > innerWidth + 0.5)
                .map(([each, box]) => `${selector} ${each.textContent}: ${JSON.stringify(box)}`);
        })"""
        return list(self.page.evaluate(read, list(selectors)))

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is in the window."""
        # Found and read in one call: every token replaces parts of the page.
        read = "selector => document.querySelector(selector).getBoundingClientRect().toJSON()"
        return dict(self.page.evaluate(read, selector))

    @property
    def tokens(self) -> int:
        """How many tokens the page shows."""
        return int(self.page.locator("#timeline").get_attribute("data-tokens") or 0)

    @property
    def address(self) -> str:
        """The page's address now. (`page.url` follows it when the browser gets round to tell.)"""
        return str(self.page.evaluate("location.href"))

    @property
    def text(self) -> str:
        """The generated text, without marks."""
        return "".join(self.page.locator("#steered .span").all_text_contents())

    @property
    def spans(self) -> list[tuple[str, int]]:
        """Label and first token of every span."""
        # One call reads all of them: the page replaces them at every token.
        read = "all => all.map(each => [each.dataset.label, Number(each.dataset.start)])"
        script = f"({read})([...document.querySelectorAll('#steered .span')])"
        return [(label, start) for label, start in self.page.evaluate(script)]

    @property
    def schedule(self) -> str:
        """The timeline as the page writes it."""
        return str(self.page.locator("#written").input_value())

    def press(self, label: str) -> None:
        """Press a language, and wait until the server has taken it."""
        with self.switching():
            self.page.click(f'#languages .language[data-label="{label}"]')

    @contextmanager
    def switching(self) -> Iterator[None]:
        """Do something that switches, and wait until the server has taken it."""
        with self.page.expect_response("**/run/switch"):
            yield

    def forgive_lost_requests(self) -> None:
        """Let requests fail, which the browser itself writes to the console, sooner or later."""
        self._forgiven = ("failed:", "net::ERR")

    def close(self) -> None:
        """Leave; a page with errors on its console fails the test."""
        if self._whole:
            self.context.close()
        found = [x for x in self.problems if not any(part in x for part in self._forgiven)]
        assert found == []


@pytest.fixture
def visit(browser: Any, server: Any) -> Iterator[Any]:
    """Make visitors: `visit(color_scheme="dark").open(prompt=…)`."""
    made: list[Visit] = []

    def start(url: str = server.url, **context: Any) -> Visit:
        made.append(Visit(browser, url, **context))
        return made[-1]

    yield start
    for each in made:
        each.close()
