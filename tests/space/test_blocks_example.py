"""The example in plain Gradio: a page that streams, and is switched while it writes."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import PATIENCE, PROMPT, wait_until

pytest_plugins = ("tests.space.browsing",)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gradio_blocks.py"


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, Any]]:
    """What the example defines, and `url`, where its page is."""
    pytest.importorskip("gradio", reason="needs the extra space")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from neuronsteer import NeuronSet
    from neuronsteer.demo import model_folder

    found = runpy.run_path(str(EXAMPLE))
    model, tokenizer = (
        each.from_pretrained(model_folder()) for each in (AutoModelForCausalLM, AutoTokenizer)
    )
    page = found["build"](model, tokenizer, NeuronSet.from_pretrained("demo"))
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    yield {**found, "url": url}
    page.close(verbose=False)


def test_it_is_short():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60


def test_a_language_is_pressed_while_it_writes(browser, example):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(example["url"])
    text = page.get_by_label("Text", exact=True)
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function(
        "start => [...document.querySelectorAll('textarea')].at(-1).value.length > start.length",
        arg=PROMPT,
    )
    (steer,) = example["running"].values()
    begun = text.input_value()
    page.get_by_role("radio", name="fr", exact=True).check()
    wait_until(lambda: len(steer.spans()) > 1, "the switch")
    wait_until(lambda: not steer.attached, "the end of the text")
    # It was streamed, and goes on where it was.
    page.wait_for_function(
        "begun => [...document.querySelectorAll('textarea')].at(-1).value.length > begun.length",
        arg=begun,
    )
    assert text.input_value().startswith(begun) and begun.startswith(PROMPT)
    assert [label for _, _, label in steer.spans()][0] == "en"
    assert "fr" in str(steer.spans()[1][2])
    assert problems == []
    page.close()
