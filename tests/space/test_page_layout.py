"""What a visitor has in view: at the size of a laptop, and of a phone."""

from __future__ import annotations

import pytest

from .conftest import PROMPT
from .test_access import PHONE

pytest_plugins = ("tests.space.browsing",)

SIZES = {"laptop": {"viewport": {"width": 1280, "height": 800}}, "phone": PHONE}
DOCK = ("#go", "#languages .language", ".follows")


@pytest.fixture(params=list(SIZES))
def size(request: pytest.FixtureRequest) -> dict:
    return SIZES[request.param]


def test_text_languages_and_stop_are_in_view_while_it_writes(visit, size, pause):
    pause.at(60)
    one = visit(**size).open(prompt=PROMPT, schedule="en,20:fr", tokens=120)
    assert one.out_of_view(*DOCK) == []
    one.start(pace=64)
    one.wait_tokens(60)
    assert one.out_of_view("#steered .caret", *DOCK) == []
    # The languages are directly under the text: nothing is between them, and nothing overlaps.
    text, dock = one.box("#text"), one.box("#dock")
    assert text["y"] + text["height"] == pytest.approx(dock["y"], abs=1)
    caret, languages = one.box("#steered .caret"), one.box("#languages")
    assert caret["y"] + caret["height"] <= dock["y"] <= languages["y"]
    # Whoever reads further down or up can still switch and stop.
    for place in ("document.documentElement.scrollHeight", "0"):
        one.page.evaluate(f"scrollTo(0, {place})")
        assert one.out_of_view(*DOCK) == [], place
    one.press("ja")
    one.page.click("#go")
    one.finish()
    assert one.out_of_view(*DOCK) == []


def test_errors_are_where_the_eye_is(visit, size):
    one = visit(**size).open(prompt=PROMPT, schedule="en", tokens=30)
    one.page.click("#list summary")
    one.page.locator("#written").fill("en,5:xx")
    one.page.keyboard.press("Tab")
    one.page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    one.page.click("#go")
    one.page.wait_for_selector("#error:not([hidden])")
    assert "xx" in one.page.locator("#error").text_content()
    assert one.out_of_view("#error", *DOCK) == []


def test_nothing_can_be_pressed_before_the_model_is_there(visit, size):
    one = visit(**size)
    loaded = False

    def answer(route) -> None:
        given = route.fetch()
        route.fulfill(response=given, json={**given.json(), "ready": loaded})

    one.page.route("**/welcome", answer)
    with one.page.expect_response("**/welcome"):
        one.page.goto(f"{one.url}/")
    with one.page.expect_response("**/welcome"):  # it asks again
        pass
    assert one.page.locator("#go").is_disabled() and one.page.locator("#prompt").is_disabled()
    assert one.page.locator("#go-label").text_content() == "Loading model…"
    assert one.out_of_view("#go") == []
    one.page.keyboard.press("Control+Enter")
    one.page.keyboard.press("1")
    assert one.page.locator("body.writing").count() == 0
    loaded = True
    one.page.wait_for_selector("body[data-ready]")
    assert one.page.locator("#go-label").text_content() == "Generate"
    one.start(pace=64)
    one.page.click("#go")
    one.finish()


def test_what_the_model_is_stands_beside_its_text(visit):
    one = visit().open(prompt=PROMPT, schedule="en", tokens=30)
    told = one.page.locator("#text #nature").text_content()
    assert "Demo of" in told and "million parameters" in told
    assert "a few tokens after the switch" in one.page.locator("#dock").text_content()


def test_the_request_cannot_be_changed_while_it_is_followed(visit, pause):
    """Text, link and program belong together."""
    pause.at(5)
    one = visit().open(prompt=PROMPT, schedule="en", tokens=40)
    one.set_range("pace", 64)
    one.page.locator("#prompt").focus()
    one.page.keyboard.press("Control+Enter")
    one.wait_tokens(5)
    for place in ("#prompt", "#seed", "#written", "#examples button >> nth=0"):
        assert one.page.locator(place).is_disabled(), place
    # Whoever started it from the prompt can switch with the keys at once.
    with one.switching():
        one.page.keyboard.press("3")
    pause.resume()
    one.finish()
    assert one.page.locator("#prompt").is_enabled() and one.schedule.startswith("en,5:")


def test_the_address_can_set_the_colours(visit):
    one = visit(color_scheme="light").open(__theme="dark", prompt=PROMPT)

    def dark() -> bool:
        colour = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour[4:-1].split(","))) < 120

    assert dark() and "__theme=dark" in one.address
    assert "__theme" not in one.page.locator("#link").text_content()
    # The visitor's own choice is not changed by it, and comes first once it is made.
    assert one.page.evaluate("localStorage.getItem('theme')") is None
    one.page.click("#theme")
    assert not dark() and "__theme" not in one.address


def test_there_are_links_to_what_it_is_about(visit):
    one = visit().open(prompt=PROMPT)
    links = one.page.locator("footer a").evaluate_all("all => all.map(each => each.href)")
    assert "https://arxiv.org/abs/2402.16438" in links
    assert any(link.startswith("https://huggingface.co/models?") for link in links)
    assert "pip install neuronsteer" in one.page.locator("footer").text_content()
