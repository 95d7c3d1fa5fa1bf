"""Serving the page from the command line: where, and to whom."""

from __future__ import annotations

from typing import Any

import pytest

import neuronsteer.space


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What would be served; nothing is."""
    found: list[dict[str, Any]] = []

    def launch(model: str, neurons: str, *, on_ready: Any, **options: Any) -> None:
        found.append({"model": model, "neurons": neurons, **options})
        on_ready("http://there")

    monkeypatch.setattr(neuronsteer.space, "launch", launch)
    return found


@pytest.mark.parametrize("command", [("space",), ("demo", "--ui")])
def test_the_page_is_served_here(call, served, command):
    done = call(*command)
    assert done.code == 0, done.err
    assert served == [
        {
            "model": "demo",
            "neurons": "demo",
            "host": "127.0.0.1",
            "port": None,
            "mcp": False,
            "device": "auto",
            "open_browser": True,
        }
    ]
    assert "http://there" in done.err and "public" not in done.err


@pytest.mark.parametrize("command", [("space",), ("demo", "--ui")])
def test_place_and_browser_can_be_chosen(call, served, command):
    done = call(*command, "--host", "0.0.0.0", "--port", "8000", "--no-browser")
    assert done.code == 0, done.err
    place = {key: served[0][key] for key in ("host", "port", "open_browser")}
    assert place == {"host": "0.0.0.0", "port": 8000, "open_browser": False}
    # Whoever lets others in is told what that means.
    assert "public" in done.err


def test_agents_get_tools_where_they_are_asked_for(call, served):
    done = call("space", "--mcp", "--model", "a/model", "--set", "a/set")
    assert done.code == 0, done.err
    assert served[0]["mcp"] and served[0]["model"] == "a/model"
    assert "http://there/gradio_api/mcp/" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("space", "--private"), "name it"),
        (("space", "--out", "folder"), "name it"),
        (("space", "ann/play", "--port", "8000"), "leave the name"),
        (("space", "--port", "0"), "port"),
        (("demo", "--port", "8000"), "--ui"),
    ],
)
def test_options_that_do_not_belong_together(call, served, arguments, said):
    done = call(*arguments)
    assert done.code != 0 and said in done.err and not served
