"""What may go wrong around the page, and must not freeze it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from .conftest import PATIENCE, PROMPT, wait_until

pytest_plugins = ("tests.space.browsing",)

SERVE = """
import sys
from neuronsteer.space import launch
launch(port=int(sys.argv[1]) or None, on_ready=lambda url: print(url, flush=True))
"""


class OwnServer:
    """A server in a process of its own, that can be killed and started again."""

    def __init__(self) -> None:
        self.url = ""
        self.start()

    def start(self) -> None:
        """Start it, where it was before, and wait until its model is there."""
        port = self.url.rpartition(":")[2] or "0"
        ours = ("NEURONSTEER", "GRADIO", "SPACE_ID")
        env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, port], env=env, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:")
        wait_until(self._ready, "the model of a server of its own")

    def _ready(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/welcome", timeout=PATIENCE) as answer:
            return bool(json.loads(answer.read())["ready"])

    def kill(self) -> None:
        """End it at once, as a machine does that loses its power."""
        self._process.kill()
        self._process.wait(PATIENCE)


@pytest.fixture
def own_server() -> Iterator[OwnServer]:
    pytest.importorskip("gradio", reason="needs the extra space")
    server = OwnServer()
    yield server
    server.kill()


def test_two_seconds_of_latency(visit, pause):
    pause.at(8)
    one = visit()
    slow = one.context.new_cdp_session(one.page)
    slow.send("Network.enable")
    slow.send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 2000, "downloadThroughput": -1, "uploadThroughput": -1},
    )
    one.open(prompt=PROMPT, schedule="en", tokens=60)
    one.set_range("pace", 64)
    # Impatience starts nothing twice: the second press is a stop.
    one.page.click("#go")
    one.page.click("#go")
    one.finish()
    one.forgive_lost_requests()
    one.start(pace=64)
    one.wait_tokens(8)
    one.press("fr")
    pause.resume()
    one.finish()
    assert one.spans == [("en", 0), ("fr", 8)] and one.tokens == 60
    pause.at(5)
    one.start(pace=64)
    one.wait_tokens(5)
    one.page.click("#go")
    one.finish()
    assert one.tokens == 5 and one.page.locator("#error").is_hidden()


def test_a_server_that_is_killed_and_started_again(visit, own_server):
    one = visit(own_server.url).open(prompt=PROMPT, schedule="en", tokens=240, controls=0)
    one.start(pace=4)
    one.wait_tokens(3)
    own_server.kill()
    one.finish()
    # It is told, what came is kept, and the page is as it was.
    assert "connection" in one.page.locator("#error").text_content()
    assert one.out_of_view("#error", "#go") == []
    assert one.tokens >= 3 and one.text.strip()
    assert one.page.locator("#prompt").is_enabled()
    one.page.click("#go")
    one.page.wait_for_selector("#error:has-text('does not answer')")
    one.finish()
    own_server.start()
    one.start(pace=64)
    one.page.click("#go")
    one.finish()
    assert one.page.locator("#error").is_hidden()
    one.forgive_lost_requests()


def test_a_connection_that_falls_silent_is_given_up(visit, pause):
    pause.at(4)
    one = visit()
    one.page.clock.install()
    # As if a cable was pulled: nothing arrives, and nobody says so.
    one.page.add_init_script(
        "const read = ReadableStreamDefaultReader.prototype.read;"
        "ReadableStreamDefaultReader.prototype.read = function () {"
        "  return window.silent ? new Promise(() => {}) : read.call(this); };"
    )
    one.open(prompt=PROMPT, schedule="en", tokens=60)
    one.start(pace=64)
    one.page.evaluate("window.silent = true")
    # Reads that began before still end; the next one does not.
    while one.page.locator("#go.busy").count():
        one.page.clock.run_for(10_000)
    assert "connection" in one.page.locator("#error").text_content()
    assert one.page.locator("#go-label").text_content() == "Generate"
    one.forgive_lost_requests()


def test_stop_does_not_wait_for_a_server_that_does_not_answer(visit, pause):
    pause.at(4)
    one = visit().open(prompt=PROMPT, schedule="en", tokens=60)
    unanswered = []
    one.page.route("**/run/stop", lambda route: unanswered.append(route))
    one.start(pace=64)
    one.wait_tokens(4)
    one.page.click("#go")
    assert one.page.locator("#go-label").text_content() == "Stopping…"
    one.page.click("#go")
    one.finish()
    assert one.tokens == 4 and one.page.locator("#error").is_hidden()
    for request in unanswered:
        request.abort()
    assert one.page.locator("#go-label").text_content() == "Generate"
    one.forgive_lost_requests()


def test_two_tabs_of_one_visitor(visit, pause):
    pause.at(6)
    one = visit().open(prompt=PROMPT, schedule="en", tokens=40)
    other = visit(tab_of=one).open(prompt=PROMPT, schedule="de", tokens=40)
    # What is in the background goes on, but only what is in front can be pressed.
    for each in (one, other):
        each.page.bring_to_front()
        each.start(pace=64)
    for each in (one, other):
        each.wait_tokens(6)
    one.page.bring_to_front()
    one.press("ja")
    other.page.bring_to_front()
    other.page.click("#go")
    other.finish()
    pause.resume()
    one.page.bring_to_front()
    one.finish()
    assert one.spans == [("en", 0), ("ja", 6)] and one.tokens == 40
    assert other.spans == [("de", 0)] and other.tokens == 6


def test_a_paste_of_5000_characters(visit):
    one = visit().open(prompt="", schedule="en", tokens=16)
    one.page.locator("#prompt").fill("")
    one.page.locator("#prompt").focus()
    one.page.keyboard.insert_text("Überall 日本 " * 500)  # 11 characters each
    one.page.keyboard.press("Control+Enter")
    one.page.wait_for_selector("#error:not([hidden])")
    told = one.page.locator("#error").text_content()
    assert "5500 characters" in told and "2000" in told and one.out_of_view("#error", "#go") == []
    # It was not cut in silence; what fits is generated from.
    assert len(one.page.locator("#prompt").input_value()) == 5500
    one.page.locator("#prompt").fill("Überall 日本 " * 100)
    one.start(pace=64)
    one.finish()
    assert one.tokens == 16 and one.page.locator("#error").is_hidden()


def test_an_arabic_prompt_before_english_text(visit):
    prompt = "كان الرجل العجوز ينظر من النافذة"
    one = visit().open(prompt=prompt, schedule="en,8:ar", tokens=16)
    one.start(pace=64)
    one.finish()
    direction = "each => getComputedStyle(each).direction"
    assert one.page.locator("#prompt").evaluate(direction) == "rtl"
    assert one.page.locator("#steered .prompt").evaluate(direction) == "rtl"
    for span in one.page.locator("#steered .span").all():
        # What this model writes after a prompt that it cannot read is its own affair.
        letter = next(filter(str.isalpha, span.text_content()), "")
        arabic = span.get_attribute("data-label") == "ar" or "\u0590" <= letter <= "\u08ff"
        if letter:
            assert span.evaluate(direction) == ("rtl" if arabic else "ltr"), span.text_content()
    assert one.page.locator("#languages").evaluate(direction) == "ltr"
    assert one.spans == [("en", 0), ("ar", 8)]
