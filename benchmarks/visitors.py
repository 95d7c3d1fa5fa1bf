"""What becomes of the page's server when many visitors come at once, and half of them leave early?

    python benchmarks/visitors.py                      # 200 visitors for a minute
    python benchmarks/visitors.py --visitors 40 --seconds 15

Every visitor asks for a short text of the demo model, again and again; every second one closes the
connection at its first token. Whoever is refused because too many are waiting comes again after a
moment. Texts that are read to the end are compared with what the same request gave when nobody else
was there. Printed: texts, refusals, wrong texts, seconds to the first token, how many later
visitors were served before an earlier one, the server's memory before and after, and what was left
running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx

PROMPT = "The old man looked out of the window, and"
SCHEDULES = ("fr", "ja", "ru", "de", "en,8:fr", "-")
TOKENS = 24
ENDED = "complete"


def serve(pipe: Connection) -> None:
    """Serve the page in a process of its own; tell its address, and in the end what still runs."""
    from neuronsteer.space import SpaceSettings, launch

    server = launch(block=False, settings=SpaceSettings())
    server.service.models.wait()
    pipe.send(server.url)
    pipe.recv()
    end = time.monotonic() + 30
    while server.service.sessions and time.monotonic() < end:
        time.sleep(0.1)
    pipe.send(len(server.service.sessions))
    server.close()


def memory(process: int) -> float:
    """Return the MB that a process has in memory (Linux)."""
    text = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0


class Visitors:
    """Visitors of one server, and what they saw."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url, self._client = f"{url}/gradio_api/call/generate", client
        self.alone: dict[tuple[str, int], str] = {}
        self.seen: Counter[str] = Counter()
        self.first_token: list[float] = []
        self._came = 0
        self._served: list[int] = []

    async def ask_alone(self) -> None:
        """Note the text of every request while nobody else is there."""
        for request in [(schedule, seed) for schedule in SCHEDULES for seed in range(2)]:
            text = await self._text(request, leaves=False)
            if text is None:
                raise SystemExit("The server gave no text although nobody else was there.")
            self.alone[request] = text
        self.seen.clear()
        self.first_token.clear()
        self._came = 0
        self._served.clear()

    async def visit(self, number: int, end: float) -> None:
        """Ask again and again."""
        draw = random.Random(number)
        await asyncio.sleep(draw.random() * 2)
        while time.monotonic() < end:
            request = draw.choice(list(self.alone))
            try:
                text = await self._text(request, leaves=number % 2 == 1)
            except httpx.HTTPError as error:
                self.seen[f"broken: {type(error).__name__}"] += 1
                continue
            if text is None:
                await asyncio.sleep(0.5 + draw.random())
            elif text and text != self.alone[request]:
                self.seen["wrong texts"] += 1

    async def _text(self, request: tuple[str, int], *, leaves: bool) -> str | None:
        """Return the text; empty where the visitor left, `None` where it was refused."""
        schedule, seed = request
        data = [PROMPT, schedule, "", 1, TOKENS, 0.6, 0.95, seed, False, True, 0, "", "", ""]
        began = time.monotonic()
        answer = await self._client.post(self._url, json={"data": data})
        if answer.status_code == 503:
            self.seen["refused"] += 1
            return None
        answer.raise_for_status()
        place, self._came = self._came, self._came + 1
        started, url = False, f"{self._url}/{answer.json()['event_id']}"
        async with self._client.stream("GET", url) as stream:
            async for event, value in events(stream):
                if event == "error":
                    self.seen[f"error: {value}"] += 1
                    return ""
                if not started and value and value[0]["tokens"]:
                    started = True
                    self.first_token.append(time.monotonic() - began)
                    self._served.append(place)
                    if leaves:
                        self.seen["left at the first token"] += 1
                        return ""
                if event == ENDED:
                    self.seen["texts"] += 1
                    return str(value[0]["outputs"][0]["text"])
        self.seen["ended before the text"] += 1
        return ""

    def overtaken(self) -> int:
        """Return by how many later ones somebody was overtaken at most."""
        most = 0
        for at, place in enumerate(self._served):
            most = max(most, sum(earlier > place for earlier in self._served[:at]))
        return most


async def events(stream: httpx.Response) -> AsyncIterator[tuple[str, Any]]:
    """Yield server-sent events with what they carry."""
    event = ""
    async for line in stream.aiter_lines():
        name, _, rest = line.partition(": ")
        if name == "event":
            event = rest
        elif name == "data":
            yield event, json.loads(rest)


async def measure(url: str, process: int, visitors: int, seconds: float) -> dict[str, Any]:
    """Let the visitors come."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:
        some = Visitors(url, client)
        await some.ask_alone()
        before, end = memory(process), time.monotonic() + seconds
        visits = [asyncio.create_task(some.visit(k, end)) for k in range(visitors)]
        await asyncio.sleep(seconds / 2)
        half = memory(process)
        await asyncio.gather(*visits)
        ranked = statistics.quantiles(some.first_token, n=20)
        return {
            "visitors": visitors,
            "seconds": seconds,
            **dict(some.seen),
            "wrong texts": some.seen["wrong texts"],
            "seconds to the first token": {"median": ranked[9], "p95": ranked[18]},
            "overtaken by at most": some.overtaken(),
            "MB": {"before": before, "half": half, "after": memory(process)},
        }


def main() -> None:
    """Serve, measure, and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--visitors", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    mine, other = context.Pipe()
    server = context.Process(target=serve, args=(other,), daemon=True)
    server.start()
    url, process = mine.recv(), server.pid or 0
    found = asyncio.run(measure(url, process, options.visitors, options.seconds))
    mine.send("end")
    found["still running"] = mine.recv()
    server.join(30)
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["wrong texts"] or found["still running"] else 0)


if __name__ == "__main__":
    main()
