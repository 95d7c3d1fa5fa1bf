"""The page with the embedded model, served once for all tests of a process."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from neuronsteer.space import Settings
from neuronsteer.space.request import Order
from neuronsteer.space.service import Desk

PROMPT = "The old man looked out of the window, and"


@pytest.fixture(scope="session")
def desk() -> Desk:
    """A desk without a server, its model loaded."""
    desk = Desk(Settings())
    desk.shelf.open()
    desk.shelf.wait()
    return desk


@pytest.fixture(scope="session")
def site() -> Iterator[Any]:
    """A running server with a free port."""
    pytest.importorskip("gradio", reason="needs the extra space")
    from neuronsteer.space import launch

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    site = launch(block=False, port=port, settings=Settings(max_new_tokens=240))
    site.desk.shelf.wait()
    yield site
    site.close()


@pytest.fixture
def order() -> Order:
    """A short order without controls."""
    return Order(prompt=PROMPT, schedule="fr", max_new_tokens=16, controls=False)


def last(snapshots: Any) -> dict[str, Any]:
    """The last of some snapshots."""
    return list(snapshots)[-1]


def changed(order: Order, **changes: Any) -> Order:
    """An order with other fields."""
    return dataclasses.replace(order, **changes)
