"""The tools for agents, as a client of the Model Context Protocol sees them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from neuronsteer.errors import MissingExtraError
from neuronsteer.space import SpaceSettings, launch

from .conftest import PROMPT

pytest.importorskip("gradio", reason="needs the extra space")

#: Where a client calls, and what it is given.
Use = Callable[[Any], Awaitable[Any]]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("mcp", reason="needs the extra mcp")
    server = launch(block=False, settings=SpaceSettings(mcp=True))
    server.service.models.wait()
    yield f"{server.url}/gradio_api/mcp/"
    server.close()


def ask(address: str, use: Use) -> Any:
    """Connect a client, and return what `use` does with its session."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def work() -> Any:
        async with (
            streamablehttp_client(address) as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await use(session)

    return asyncio.run(work())


def told(result: Any) -> dict:
    assert not result.isError, result.content
    return json.loads(result.content[0].text)


def test_tools_are_typed_and_described(address):
    listed = ask(address, lambda session: session.list_tools()).tools
    tools = {tool.name: tool for tool in listed}
    assert set(tools) == {"generate", "switch", "languages"}
    schema = tools["generate"].inputSchema
    assert schema["required"] == ["prompt"]
    types = {name: field["type"] for name, field in schema["properties"].items()}
    assert types == {
        "prompt": "string",
        "schedule": "string",
        "max_new_tokens": "integer",
        "temperature": "number",
        "seed": "integer",
        "keep": "string",
        "session": "string",
    }
    assert "en,24:fr" in schema["properties"]["schedule"]["description"]
    assert tools["switch"].inputSchema["required"] == ["language", "session"]
    assert all("JSON" in tool.description for tool in tools.values())


def test_languages_and_generate(address):
    async def use(session: Any) -> list[Any]:
        asked = {"prompt": PROMPT, "schedule": "en,6:fr", "max_new_tokens": 12, "seed": 3}
        return [await session.call_tool("languages"), await session.call_tool("generate", asked)]

    languages, text = map(told, ask(address, use))
    assert {"en", "fr", "ja"} <= set(languages["labels"]) and languages["kind"] == "demo"
    assert text["text"].startswith(PROMPT) and text["tokens"] == 12 and text["state"] == "done"
    assert [span["asked_for"] for span in text["spans"]] == ["en", "fr"]
    assert PROMPT + "".join(span["text"] for span in text["spans"]) == text["text"]


def test_a_text_is_switched_while_it_is_generated(address, pause):
    pause.at(5)

    async def use(session: Any) -> tuple[Any, Any]:
        asked = {"prompt": PROMPT, "schedule": "en", "max_new_tokens": 24, "session": "agents"}
        text = asyncio.create_task(session.call_tool("generate", asked))
        switched = None
        while not (switched and told(switched)["switched"]):
            switched = await session.call_tool("switch", {"language": "ja", "session": "agents"})
        pause.resume()
        return switched, await text

    _, text = ask(address, use)
    assert [span["asked_for"] for span in told(text)["spans"]][-1] == "ja"


@pytest.mark.parametrize(
    ("tool", "asked", "said"),
    [
        ("generate", {"prompt": PROMPT, "schedule": "xx"}, "Unknown label 'xx'"),
        ("generate", {"prompt": ""}, "empty"),
        ("switch", {"language": "fr"}, "session"),
    ],
)
def test_mistakes_are_told(address, tool, asked, said):
    result = ask(address, lambda session: session.call_tool(tool, asked))
    assert result.isError and said in result.content[0].text


def test_without_being_asked_there_are_no_tools(server):
    from .test_server import fetch

    assert fetch(f"{server.url}/gradio_api/mcp/")[0] == 404


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingExtraError, match=r"neuronsteer\[mcp\]"):
        launch(block=False, mcp=True)
