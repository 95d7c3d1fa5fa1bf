"""The page for everybody: labels, order, contrast (axe), small screens, dark mode."""

from __future__ import annotations

import pytest

from .conftest import PROMPT

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs extra dev")

pytest_plugins = ("tests.space.browsing",)

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
TABS = ("play", "neurons", "load", "code")


def violations(page) -> list[str]:
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, scheme):
    one = visit(color_scheme=scheme).open(
        prompt=PROMPT, schedule="en,4:de,8:fr,12:es,16:zh,20:ja,24:ru,28:ar", tokens=36
    )
    one.page.click("#list summary")
    one.page.click("#tuning summary")
    assert violations(one.page) == []
    one.start(pace=64)
    one.finish()
    for tab in TABS:
        one.page.click(f"#tab-{tab}")
        assert violations(one.page) == [], tab


def test_axe_finds_nothing_while_it_writes_on_a_phone(visit, pause):
    pause.at(14)
    one = visit(**PHONE).open(prompt=PROMPT, schedule="en,10:fr", tokens=60)
    one.start(pace=64)
    one.wait_tokens(14)
    assert violations(one.page) == []
    one.page.click("#go")
    one.finish()


@pytest.mark.parametrize("width", [390, 320, 768])
def test_nothing_sticks_out_on_a_small_screen(visit, width):
    one = visit(viewport={"width": width, "height": 844}).open(
        prompt=PROMPT, schedule="en,10:ja,20:ar", tokens=36
    )
    one.start(pace=64)
    one.finish()
    one.page.click("#list summary")
    one.page.click("#tuning summary")
    for tab in TABS:
        one.page.click(f"#tab-{tab}")
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width, tab


def test_buttons_are_large_enough_for_fingers(visit, pause):
    pause.at(5)
    one = visit(**PHONE).open(prompt=PROMPT, schedule="en", tokens=72)
    for button in one.page.locator("#languages .language").all():
        box = button.bounding_box()
        assert box["height"] >= 40 and box["width"] >= 60
    assert one.page.locator("#go").bounding_box()["height"] >= 44
    one.set_range("pace", 64)
    one.page.tap("#go")
    one.wait_tokens(5)
    with one.switching():
        one.page.tap('.language[data-label="fr"]')
    pause.resume()
    one.finish()
    assert [label for label, _ in one.spans] == ["en", "fr"]


def test_dark_follows_the_system_and_the_button(visit):
    one = visit(color_scheme="dark").open(prompt=PROMPT, schedule="en", tokens=36)

    def lightness() -> int:
        colour = one.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour[4:-1].split(",")))

    assert lightness() < 120
    one.page.click("#theme")  # auto → light
    assert lightness() > 600
    one.page.reload()
    one.page.wait_for_selector("body[data-ready]")
    assert lightness() > 600
    one.page.click("#theme")  # dark
    assert lightness() < 120


def test_the_order_of_focus_is_that_of_the_page(visit):
    one = visit().open(prompt=PROMPT, schedule="en,10:fr", tokens=36)
    seen = []
    for _ in range(60):
        one.page.keyboard.press("Tab")
        name = one.page.evaluate(
            "document.activeElement.id || document.activeElement.className.split(' ')[0]"
        )
        if seen and name == seen[0]:
            break
        if not seen or seen[-1] != name:
            seen.append(name)
    wanted = ["skip", "brand", "tab-play", "theme", "prompt", "go", "language", "handle"]
    places = [seen.index(name) for name in wanted]
    assert places == sorted(places), seen
    # Only the chosen tab is a stop; arrows lead to the others.
    assert "tab-neurons" not in seen
    one.page.locator("#tab-play").focus()
    one.page.keyboard.press("ArrowRight")
    assert one.page.evaluate("document.activeElement.id") == "tab-neurons"
    assert one.page.locator("#neurons").is_visible()


def test_colour_is_never_the_only_signal(visit):
    one = visit().open(prompt=PROMPT, schedule="en,8:de,16:fr,24:ja", tokens=36)
    one.start(pace=64)
    one.finish()
    marks = one.page.locator("#steered .mark")
    told = [mark.text_content() for mark in marks.all()]
    assert [text[:2] for text in told] == ["en", "de", "fr", "ja"]
    assert "to French at token 16" in told[2]
    styles = one.page.locator("#steered .span").evaluate_all(
        "all => all.map(each => getComputedStyle(each))"
        ".map(style => style.textDecorationStyle + style.textDecorationThickness)"
    )
    assert len(set(styles)) == len(styles)


def test_screen_readers_are_told_what_changes(visit, pause):
    pause.at(4)
    one = visit().open(prompt=PROMPT, schedule="en", tokens=60)
    one.start(pace=64)
    one.wait_tokens(4)
    one.press("fr")
    assert "French" in one.page.locator("#news").text_content()
    pause.resume()
    one.finish()
    assert "Done after 60 tokens" in one.page.locator("#news").text_content()


def test_reduced_motion_means_no_motion(visit, pause):
    pause.at(6)
    one = visit(reduced_motion="reduce").open(prompt=PROMPT, schedule="en", tokens=60)
    one.start(pace=64)
    # Found and read in one call: every token replaces the caret, and a replaced one has no style.
    moving = "getComputedStyle(document.querySelector('#steered .caret')).animationName"
    assert one.page.evaluate(moving) == "none"
    one.page.click("#go")
    one.finish()
