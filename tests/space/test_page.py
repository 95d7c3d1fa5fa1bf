"""The page in a browser: what a visitor does, with mouse and keyboard."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from neuronsteer.space.request import GenerationRequest

from .conftest import PROMPT, last, wait_until

pytest_plugins = ("tests.space.browsing",)

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)><b>bold</b>"
SHORT = {"prompt": PROMPT, "tokens": 30}


def test_generate(visit, server):
    one = visit().open(**SHORT, schedule="en,12:fr", seed=3)
    one.start(pace=64)
    one.finish()
    assert one.spans == [("en", 0), ("fr", 12)] and one.tokens == 30
    # What the page shows is what the endpoint gives.
    request = GenerationRequest(prompt=PROMPT, schedule="en,12:fr", max_new_tokens=30, seed=3)
    outputs = last(server.service.generate(request))["outputs"]
    assert PROMPT + one.text == outputs[0]["text"]
    assert outputs[1]["text"] in one.page.locator("#unsteered").text_content()
    assert outputs[2]["text"] in one.page.locator("#random").text_content()
    assert one.page.locator("#verdicts li").count() == 2
    assert one.page.locator("#bars .bar").count() == 3
    assert one.page.locator("#timeline .band:not(.planned)").count() == 2


def test_letters_beyond_the_first_plane_move_nothing(visit, server):
    prompt = f"\N{BALLOON}\N{BALLOON} {PROMPT}"
    one = visit().open(prompt=prompt, tokens=12, schedule="en,6:fr", seed=3)
    one.start(pace=64)
    one.finish()
    request = GenerationRequest(
        prompt=prompt, schedule="en,6:fr", max_new_tokens=12, seed=3, controls=False
    )
    assert prompt + one.text == last(server.service.generate(request))["outputs"][0]["text"]


def test_the_next_token_follows_a_press(visit, pause):
    pause.at(8)
    one = visit().open(prompt=PROMPT, schedule="en", tokens=72)
    one.start(pace=64)
    one.wait_tokens(8)
    one.press("ja")
    pause.at(20)
    one.page.wait_for_selector("#steered .mark.yours")
    # While it still runs, the span has changed and the button says so.
    spans = one.spans
    assert [label for label, _ in spans] == ["en", "ja"]
    at = spans[1][1]
    assert at == 8
    assert one.page.locator("#go.busy").count() == 1
    assert one.page.locator('.language[data-label="ja"]').get_attribute("aria-pressed") == "true"
    assert one.page.locator("#steered .mark.yours").count() == 1
    pause.resume()
    one.finish()
    # The switch by hand is now in the timeline and in the address, which give the same text.
    assert one.schedule == f"en,{at}:ja"
    text, address = one.text, one.address
    again = visit()
    again.page.goto(address)
    again.page.wait_for_selector("body[data-ready]")
    again.start(pace=64)
    again.finish()
    assert again.text == text


def test_languages_have_keys(visit, pause):
    pause.at(5)
    one = visit().open(prompt=PROMPT, schedule="en", tokens=72)
    one.start(pace=64)
    one.page.locator("#text").focus()
    one.wait_tokens(5)
    with one.switching():
        one.page.keyboard.press("2")
    pause.at(12)
    one.wait_tokens(12)
    with one.switching():
        one.page.keyboard.press("0")
    pause.resume()
    one.finish()
    second = one.page.locator("#languages .language").nth(1).get_attribute("data-label")
    assert [label for label, _ in one.spans] == ["en", second, "-"]


def test_digits_in_the_prompt_are_digits(visit):
    one = visit().open(**SHORT, schedule="en")
    one.page.locator("#prompt").focus()
    one.page.keyboard.type("123")
    assert one.schedule == "en" and "123" in one.page.locator("#prompt").input_value()


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop(visit, server, how, pause):
    pause.at(6)
    one = visit().open(prompt=PROMPT, schedule="fr", tokens=200)
    one.start(pace=64)
    one.wait_tokens(6)
    if how == "button":
        one.page.click("#go")
    else:
        one.page.keyboard.press("Escape")
    one.finish()
    assert one.tokens == 6
    assert one.page.locator("#go-label").text_content() == "Generate"
    assert server.service.sessions == []
    assert "max_new_tokens" in one.page.locator("#snippet").text_content()


def test_a_closed_page_ends_its_generation(visit, server, pause):
    pause.at(6)
    one = visit().open(prompt=PROMPT, schedule="fr", tokens=240)
    one.start(pace=64)
    assert len(server.service.sessions) == 1
    one.page.close()
    wait_until(lambda: not server.service.sessions, "the end of a generation whose page is closed")


def test_keyboard_alone_is_enough(visit):
    one = visit().open(**SHORT, schedule="en")
    one.page.locator("#prompt").focus()
    one.page.keyboard.press("Control+Enter")
    one.page.wait_for_selector("#steered .span")
    one.finish()
    assert one.tokens == 30


# --- the timeline ------------------------------------------------------------------------------


def test_presets_and_text(visit):
    one = visit().open(**SHORT, schedule="en")
    one.page.click('#presets button:has-text("One switch")')
    assert one.schedule.count(":") == 1
    assert one.page.locator("#timeline .handle").count() == 1
    one.page.click("#list summary")
    one.page.locator("#written").fill("de,10:ru")
    one.page.keyboard.press("Tab")
    assert one.page.locator("#timeline .handle").count() == 1
    assert one.page.locator("#at-1").input_value() == "10"
    # What waits for text cannot be drawn before it happens, and says so.
    one.page.click('#presets button:has-text("Next sentence")')
    assert "waits for text" in one.page.locator("#hint").text_content()
    one.start(pace=64)
    one.finish()
    assert one.page.locator("#error").is_hidden()


def test_switches_are_drawn_with_the_mouse(visit):
    one = visit().open(**SHORT, schedule="en")
    rows = one.page.locator("#timeline .row")
    rows.nth(4).scroll_into_view_if_needed()
    box = rows.nth(2).bounding_box()
    one.page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    third = one.page.locator("#languages .language").nth(2).get_attribute("data-label")
    assert one.schedule == f"en,15:{third}"
    # Dragged to the right, and down into another row.
    handle = one.page.locator("#timeline .handle").bounding_box()
    target = rows.nth(4).bounding_box()
    one.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    one.page.mouse.down()
    one.page.mouse.move(box["x"] + box["width"] * 0.6, handle["y"] + 10)
    one.page.mouse.move(box["x"] + box["width"] * 0.7, target["y"] + target["height"] / 2)
    one.page.mouse.up()
    fifth = one.page.locator("#languages .language").nth(4).get_attribute("data-label")
    assert one.schedule == f"en,21:{fifth}"


def test_switches_are_sliders(visit):
    one = visit().open(**SHORT, schedule="en,10:fr")
    one.page.locator("#timeline .handle").focus()
    for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight"):
        one.page.keyboard.press(key)
    assert one.schedule == "en,20:fr"
    one.page.keyboard.press("ArrowDown")
    fourth = one.page.locator("#languages .language").nth(3).get_attribute("data-label")
    assert one.schedule == f"en,20:{fourth}"
    told = one.page.locator("#timeline .handle")
    assert told.get_attribute("role") == "slider" and told.get_attribute("aria-valuenow") == "20"
    one.page.keyboard.press("Delete")
    assert one.schedule == "en"


def test_switches_are_rows_of_numbers(visit):
    one = visit().open(**SHORT, schedule="en")
    one.page.click("#list summary")
    one.page.click("#add")
    assert one.page.locator("#points .point").count() == 2
    one.page.locator("#at-1").fill("7")
    one.page.locator("#to-1").select_option("ja")
    one.page.locator("#to-0").select_option("-")
    assert one.schedule == "-,7:ja"
    one.page.click('[aria-label="Remove switch 1"]')
    assert one.schedule == "-"


# --- what is written ---------------------------------------------------------------------------


def test_markup_is_text(visit):
    one = visit().open(prompt=SCRIPT, schedule="en", tokens=16)
    one.start(pace=64)
    one.finish()
    for place in ("#steered", "#unsteered", "#random"):
        assert SCRIPT in one.page.locator(place).text_content()
        assert one.page.locator(f"{place} :is(script, img, b)").count() == 0
    one.page.click("#tab-code")
    assert one.page.locator("#code :is(img, script, b)").count() == 0


def test_markup_in_a_label_or_timeline_is_text(visit):
    one = visit().open(prompt=PROMPT, schedule=f"en,5:{SCRIPT}", tokens=16)
    assert one.page.locator("#points :is(img, script)").count() == 0
    one.page.click("#list summary")
    one.page.locator("#written").fill(SCRIPT)
    one.page.keyboard.press("Tab")
    one.page.click("#go")
    one.page.wait_for_selector("#error:not([hidden])")
    assert "<script>" in one.page.locator("#error").text_content()
    assert one.page.locator("#error :is(img, script)").count() == 0


def test_arabic_runs_from_right_to_left(visit):
    one = visit().open(**SHORT, schedule="en,6:ar")
    one.start(pace=64)
    one.finish()
    spans = one.page.locator("#steered .span")
    assert spans.nth(1).get_attribute("dir") == "rtl" and spans.nth(1).get_attribute("lang") == "ar"
    assert spans.nth(0).evaluate("each => getComputedStyle(each).direction") == "ltr"
    assert spans.nth(1).evaluate("each => getComputedStyle(each).unicodeBidi") == "isolate"
    alone = visit().open(**SHORT, schedule="ar")
    alone.start(pace=64)
    alone.finish()
    assert alone.page.locator("#steered").get_attribute("dir") == "rtl"


def test_the_address_fills_the_page(visit):
    state = {"prompt": "Hello 日本", "schedule": "de", "seed": 42, "strength": 0.5}
    one = visit().open(**state, tokens=36, temperature=0.2, operation="zero", controls=0)
    assert one.page.locator("#prompt").input_value() == "Hello 日本"
    assert one.page.locator("#seed").input_value() == "42"
    assert one.page.locator("#tokens").input_value() == "36"
    assert one.page.locator("#strength").input_value() == "0.5"
    assert not one.page.locator("#with-controls").is_checked()
    one.page.click("#tab-neurons")
    assert one.page.locator("#op-zero").is_checked()
    one.page.locator("#op-scale").check()
    assert "operation=scale" in one.address and "seed=42" in one.address
    assert visit().open(schedule="-").schedule == "-"
    wrong = visit().open(seed="x", strength="y", tokens="", prompt="")
    assert wrong.page.locator("#seed").input_value() == "1"


def test_what_keeps_the_language_is_marked(visit):
    one = visit().open(**SHORT, schedule="ja", controls=0)
    one.page.click("#tuning summary")
    options = one.page.locator("#keep option")
    assert options.first.get_attribute("value") == "" and one.page.locator("#kept").is_hidden()
    one.page.locator("#keep").select_option("fr")
    assert "keep=fr" in one.address
    one.start(pace=64)
    one.finish()
    marks = one.page.locator("#steered .kept.refused")
    assert marks.count() and "refused" in marks.first.get_attribute("title")
    # A mark is a line under the token, not a colour alone.
    assert marks.first.evaluate("each => getComputedStyle(each).borderBottomStyle") == "dotted"
    assert "another one was refused" in one.page.locator("#kept").text_content()
    assert "VocabularyGate" in one.page.locator("#snippet").text_content()
    again = visit()
    again.page.goto(one.page.locator("#link").text_content())
    again.page.wait_for_selector("body[data-ready]")
    assert again.page.locator("#keep").input_value() == "fr"
    again.start(pace=64)
    again.finish()
    assert again.text == one.text
    again.page.locator("#keep").evaluate(
        "each => { each.value = ''; each.dispatchEvent(new Event('change')); }"
    )
    assert "keep=" not in again.address
    unknown = visit().open(**SHORT, schedule="fr", keep="xx")
    assert unknown.page.locator("#keep").input_value() == "" and "keep=" not in unknown.address


def test_two_pages_at_once(visit):
    wishes = ["fr", "ru"]
    alone = []
    for wish in wishes:
        one = visit().open(**SHORT, schedule=wish, controls=0)
        one.start(pace=64)
        one.finish()
        alone.append(one.text)
    pages = [visit().open(**SHORT, schedule=wish, controls=0) for wish in wishes]
    for page in pages:
        page.start(pace=10)
    for page in pages:
        page.finish()
    assert [page.text for page in pages] == alone and alone[0] != alone[1]


# --- the other pages ---------------------------------------------------------------------------


def test_neurons(visit):
    one = visit().open(**SHORT, schedule="en")
    one.page.click("#tab-neurons")
    assert (
        one.page.locator(".map tbody tr").count()
        == one.page.locator("#languages .language").count() - 1
    )
    assert one.page.locator("#sharing .share").count() == 1
    one.page.locator(".map .language").nth(2).click()
    label = one.page.locator("#languages .language").nth(2).get_attribute("data-label")
    assert label in one.page.locator("#one h2").text_content()
    one.page.click("#off")
    assert one.page.locator("#play").is_visible()
    assert one.schedule == label and "operation=zero" in one.address
    one.start(pace=64)
    one.finish()
    assert 'operation="zero"' in one.page.locator("#snippet").text_content().replace("'", '"')


def test_load_errors_stay_on_the_page(visit):
    one = visit().open(**SHORT, schedule="en")
    one.page.click("#tab-load")
    for model, neurons, said in (
        ("/no/such/folder", "demo", "No folder"),
        ("demo", "/no/such/folder", "no/such/folder"),
    ):
        one.page.locator("#model-id").fill(model)
        one.page.locator("#set-id").fill(neurons)
        one.page.click("#load-go")
        one.page.wait_for_selector("#load-error:not([hidden])")
        assert said in one.page.locator("#load-error").text_content()
        assert one.page.locator("#load-go").is_enabled()
    one.page.click("#tab-play")
    one.start(pace=64)
    one.finish()
    assert one.tokens == 30


def test_another_set_is_loaded_and_used(visit):
    one = visit().open(**SHORT, schedule="en")
    one.page.click("#tab-load")
    one.page.locator("#model-id").fill("demo")
    one.page.locator("#set-id").fill("demo/lape")
    one.page.click("#load-go")
    one.page.wait_for_selector('#models li:has-text("demo/lape") >> text=in use')
    assert "set=demo%2Flape" in one.address
    one.page.click("#tab-neurons")
    assert "demo/lape" in one.page.locator("#set-facts").text_content()
    # The address alone brings another visitor here.
    other = visit()
    other.page.goto(one.address)
    other.page.wait_for_selector(
        '#models li:has-text("demo/lape") >> text=in use', state="attached"
    )
    assert other.page.locator("#play").is_visible()


@pytest.fixture
def lay_out(tmp_path, monkeypatch):
    """Lays out another model as `make real` does: a copy of the embedded one, with another set."""
    from neuronsteer.demo import model_folder
    from neuronsteer.hub.shipped import SHIPPED, Shipped

    monkeypatch.setenv("NEURONSTEER_MODELS", str(tmp_path))

    def lay_out(name):
        monkeypatch.setitem(SHIPPED, name, Shipped(("demo/lape",), f"owner/{name}"))
        return Path(shutil.copytree(model_folder(), tmp_path / name))

    return lay_out


def test_a_model_that_was_laid_out_can_be_chosen(visit, lay_out):
    lay_out("second")
    one = visit().open(**SHORT, schedule="en")
    assert one.page.locator("#model option").all_text_contents() == ["demo", "second"]
    one.page.select_option("#model", "second + second")
    one.page.wait_for_selector("#facts:has-text('second ·')")
    assert "Base model" in one.page.locator("#nature").text_content()
    one.start(pace=64)
    one.finish()
    assert one.tokens == 30 and "model=second" in one.address
    # The program names the model as everybody can get it.
    assert "'owner/second'" in one.page.locator("#snippet").text_content()
    one.page.select_option("#model", "demo + demo")
    one.page.wait_for_selector("#facts:has-text('demo')")
    assert "model=" not in one.address


def test_a_model_that_cannot_be_loaded_leaves_the_page_as_it_was(visit, lay_out):
    (lay_out("broken") / "config.json").write_text("{")
    one = visit().open(**SHORT, schedule="en")
    one.page.select_option("#model", "broken + broken")
    one.page.wait_for_selector("#error:not([hidden])")
    assert one.page.locator("#playing").is_enabled()
    assert one.page.locator("#model").input_value() == "demo + demo"
    one.start(pace=64)
    one.finish()
    assert one.tokens == 30


def test_a_link_to_another_model_downloads_nothing_by_itself(visit, server):
    one = visit()
    one.page.goto(f"{server.url}/?model=some/model&set=some/set")
    one.page.wait_for_selector("#load-go")
    one.page.wait_for_selector("#load-state:not([hidden])")
    assert one.page.locator("#model-id").input_value() == "some/model"
    assert "Press Load" in one.page.locator("#load-doing").text_content()
    assert one.page.locator("#load").is_visible() and one.page.locator("#load-error").is_hidden()


def test_code_is_there_to_take_along(visit):
    one = visit(permissions=["clipboard-read", "clipboard-write"]).open(**SHORT, schedule="en,9:fr")
    one.start(pace=64)
    one.finish()
    one.page.click("#tab-code")
    code = one.page.locator("#snippet").text_content()
    assert "en,9:fr" in code and "neuronsteer" in code
    compile(code, "snippet", "exec")
    compile(one.page.locator("#client").text_content(), "client", "exec")
    one.page.click('.copy[data-of="snippet"]')
    assert one.page.evaluate("navigator.clipboard.readText()") == code
    assert one.page.locator("#link").text_content() == one.address
