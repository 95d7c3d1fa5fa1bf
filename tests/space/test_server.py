"""The endpoints as `gradio_client` sees them, and what stands before them."""

from __future__ import annotations

import concurrent.futures
import json
import re
import socket
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from neuronsteer.space import middleware

from .conftest import PATIENCE, PROMPT, changed, last, wait_until

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra space")

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def client(server):
    return gradio_client.Client(server.url, verbose=False)


def fetch(url: str, data: bytes | None = None, **headers: str):
    """Return status, headers and body, also of an HTTP error."""
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


# --- the contract ------------------------------------------------------------------------------


def test_endpoints_are_named_and_described(client):
    told = client.view_api(return_format="dict")["named_endpoints"]
    assert set(told) == {"/generate", "/switch", "/stop", "/neurons", "/load"}
    names = [each["parameter_name"] for each in told["/generate"]["parameters"]]
    assert names[:4] == ["prompt", "schedule", "operation", "strength"]
    assert {"seed", "controls", "pace", "model", "session"} <= set(names) and "request" not in names
    required = [
        each["parameter_name"]
        for each in told["/generate"]["parameters"]
        if not each["parameter_has_default"]
    ]
    assert required == ["prompt"]


def test_returns_have_names(client):
    """What an endpoint is described to give is what it gives."""
    told = client.view_api(return_format="dict")["named_endpoints"]

    def names(endpoint: str) -> set[str]:
        return set(told[endpoint]["returns"][0]["type"]["properties"])

    end = client.predict(PROMPT, "en", max_new_tokens=4, api_name="/generate")
    assert set(end) == names("/generate")
    output = told["/generate"]["returns"][0]["type"]["properties"]["outputs"]["items"]
    assert set(end["outputs"][0]) == set(output["properties"])
    assert set(end["outputs"][0]["spans"][0]) == set(
        output["properties"]["spans"]["items"]["properties"]
    )
    assert set(client.predict(api_name="/neurons")) == names("/neurons")
    assert set(client.predict("fr", api_name="/switch")) <= names("/switch")
    assert set(client.predict(api_name="/stop")) == names("/stop")
    assert set(client.predict("demo", "demo", api_name="/load")) == names("/load")


def test_generate(client, server, short):
    found = client.predict(
        PROMPT,
        "en,6:fr",
        max_new_tokens=12,
        controls=True,
        seed=3,
        api_name="/generate",
    )
    assert found["state"] == "done" and found["tokens"] == 12 and found["schedule"] == "en,6:fr"
    steered = found["outputs"][0]
    assert steered["text"].startswith(PROMPT)
    assert [span["label"] for span in steered["spans"]] == ["en", "fr"]
    parts = [steered["text"][span["start"] : span["end"]] for span in steered["spans"]]
    assert PROMPT + "".join(parts) == steered["text"]
    # The same as without a server.
    same = changed(short, schedule="en,6:fr", max_new_tokens=12, controls=True, seed=3)
    assert last(server.service.generate(same))["outputs"] == found["outputs"]


def test_generate_streams_and_switch_reaches_it(client, pause):
    pause.at(5)
    job = client.submit(PROMPT, "en", max_new_tokens=60, pace=64, api_name="/generate")
    seen, switched = [], None
    for each in job:
        seen.append(each["tokens"])
        if switched is None and each["tokens"] == 5:
            switched = client.predict("ja", api_name="/switch")
            pause.resume()
    assert switched == {"switched": True, "label": "ja"}
    assert len(seen) > 5 and seen == sorted(seen)
    end = job.outputs()[-1]
    assert [span["label"] for span in end["outputs"][0]["spans"]] == ["en", "ja"]
    assert end["switches"] == [{"token": 5, "label": "ja"}]


def test_sessions_can_be_named(client, pause):
    pause.at(5)
    job = client.submit(PROMPT, "en", max_new_tokens=200, session="mine-1", api_name="/generate")
    wait_until(job.outputs, "the first snapshot")
    assert client.predict("fr", api_name="/switch")["switched"] is False
    assert client.predict("fr", "mine-1", api_name="/switch")["switched"] is True
    assert client.predict("mine-1", api_name="/stop")["stopped"] is True
    assert job.result(timeout=PATIENCE)["state"] == "stopped"


def test_neurons(client):
    found = client.predict(api_name="/neurons")
    assert set(found["counts"]) == set(found["labels"]) and found["num_layers"] > 0
    json.dumps(found)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ((PROMPT, "xx"), "Unknown label 'xx'"),
        (("", "en"), "empty"),
        ((PROMPT, "en,,"), "schedule"),
        ((PROMPT, SCRIPT), "script"),
        ((PROMPT, "en", "explode"), "Unknown operation"),
        ((PROMPT, "en", "", 1, 10**6), "max_new_tokens"),
    ],
)
def test_mistakes_are_messages(client, capfd, call, said):
    with pytest.raises(gradio_client.exceptions.AppError, match=said):
        client.predict(*call, api_name="/generate")
    told = capfd.readouterr()
    assert "Traceback" not in told.err + told.out


def test_loading_errors_are_messages_and_the_server_lives(client):
    with pytest.raises(gradio_client.exceptions.AppError, match="No folder"):
        client.predict("/nothing/here/at/all", "demo", api_name="/load")
    assert client.predict(api_name="/neurons")["labels"]


def test_prompts_are_not_logged(client, capfd):
    client.predict("a very secret prompt", "fr", max_new_tokens=4, api_name="/generate")
    told = capfd.readouterr()
    assert "secret" not in told.out + told.err


def test_a_request_that_lacks_arguments_is_not_logged(server, capfd):
    kind = {"Content-Type": "application/json"}
    base = f"{server.url}/gradio_api/call/generate"
    body = json.dumps({"data": ["a very secret prompt", "fr"]}).encode()
    event = json.loads(fetch(base, body, **kind)[2])["event_id"]
    answer = fetch(f"{base}/{event}")[2].decode()
    assert "error" in answer and "secret" not in answer
    told = capfd.readouterr()
    assert "secret" not in told.out + told.err


# --- several visitors --------------------------------------------------------------------------


def test_visitors_in_different_languages_get_what_they_would_get_alone(server):
    wishes = ["fr", "ja", "ru", "en,8:de"]

    def visit(wish: str) -> str:
        # A client of its own: a session of its own.
        visitor = gradio_client.Client(server.url, verbose=False)
        found = visitor.predict(
            PROMPT, wish, max_new_tokens=16, controls=False, api_name="/generate"
        )
        return found["outputs"][0]["text"]

    alone = [visit(wish) for wish in wishes]
    with concurrent.futures.ThreadPoolExecutor(len(wishes)) as pool:
        together = list(pool.map(visit, wishes))
    assert together == alone and len(set(alone)) == len(wishes)


def test_a_switch_is_for_its_own_visitor(server, pause):
    pause.at(4)
    one, other = (gradio_client.Client(server.url, verbose=False) for _ in range(2))
    jobs = [
        each.submit(PROMPT, "en", max_new_tokens=60, controls=False, api_name="/generate")
        for each in (one, other)
    ]
    for job in jobs:
        wait_until(lambda job=job: job.outputs() and job.outputs()[-1]["tokens"] == 4, "4 tokens")
    one.predict("fr", api_name="/switch")
    pause.resume()
    ends = [job.result(timeout=PATIENCE) for job in jobs]
    assert [[s["label"] for s in end["outputs"][0]["spans"]] for end in ends] == [
        ["en", "fr"],
        ["en"],
    ]


def test_a_lost_connection_ends_the_generation(server, pause):
    pause.at(10)
    body = [PROMPT, "fr", "", 1, 240, 0.6, 0.95, 1, False, True, 0, "", "to-be-lost", ""]
    base = f"{server.url}/gradio_api/call/generate"
    status, _, told = fetch(
        base, json.dumps({"data": body}).encode(), **{"Content-Type": "application/json"}
    )
    assert status == 200
    answer = urllib.request.urlopen(f"{base}/{json.loads(told)['event_id']}", timeout=PATIENCE)
    while b"tokens" not in (line := answer.readline()):
        assert line, "the stream ended before the first snapshot"
    assert "to-be-lost" in server.service.sessions
    answer.close()
    wait_until(lambda: "to-be-lost" not in server.service.sessions, "the end of a lost generation")


def test_running_and_waiting_requests_are_limited(server, pause):
    """A request beyond those that run and wait is refused at once."""
    pause.at(4)
    queue = server._blocks._queue
    before, queue.max_size = queue.max_size, 2
    url = f"{server.url}/gradio_api/call/generate"
    statuses: list[int] = []
    lock = threading.Lock()
    start = {"data": [PROMPT, "fr", "", 1, 120, 0, 1, 1, False, True, 0, "", "", ""]}

    def join() -> None:
        status, _, _ = fetch(
            url, json.dumps(start).encode(), **{"Content-Type": "application/json"}
        )
        with lock:
            statuses.append(status)

    try:
        threads = [threading.Thread(target=join) for _ in range(14)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    finally:
        queue.max_size = before
    assert len(statuses) == 14 and 503 in statuses and 200 in statuses

    def all_stopped() -> bool:
        for session in server.service.sessions:
            server.service.stop(session)
        return not server.service.sessions and not len(queue)

    wait_until(all_stopped, "the end of all generations")


def test_only_this_machine_reaches_a_page_that_loads_anything(server):
    """A website may point a name of its own at this machine (DNS rebinding)."""
    port = server.url.rpartition(":")[2]
    for host in ("evil.test", f"evil.test:{port}", "localhost.evil.test", "localhost@evil.test"):
        status, headers, body = fetch(server.url + "/welcome", Host=host)
        assert status == 403 and b"answers only to localhost" in body
        assert headers["access-control-allow-origin"] is None
    for origin in ("http://evil.test", f"http://evil.test:{port}", "null", "http://[x"):
        assert fetch(server.url + "/welcome", Origin=origin)[0] == 403
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert fetch(server.url + "/welcome", Host=host, Origin=f"http://{host}")[0] == 200


# --- the middleware ----------------------------------------------------------------------------


def test_pages_forbid_scripts_that_are_not_theirs(server):
    for path in ("/", "/page/main.js", "/welcome"):
        status, headers, _ = fetch(server.url + path)
        assert status == 200
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
    page = fetch(server.url)[2].decode()
    assert "<script>" not in page and " style=" not in page and "onclick=" not in page
    # Nothing from elsewhere; what a visitor may click is no part of the page.
    parts = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"([^\"]+)", page)
    assert parts and all(part.startswith("page/") for part in parts)
    # The addresses for those who show a link to it are its own, whatever name it is asked by.
    previews = re.findall(r'og:(?:url|image)" content="([^"]+)', page)
    assert previews == [f"{server.url}/", f"{server.url}/page/preview.png"]
    assert fetch(previews[1])[:2][0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/../server.py",
        "/page/..%2fserver.py",
        "/page/nothing.js",
        "/page/index.html",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/file=/etc/passwd",
        "/gradio_api/proxy=https://example.org",
        "/docs",
    ],
)
def test_other_routes_are_closed(server, path):
    assert fetch(server.url + path)[0] in (403, 404)


def test_uploads_and_large_requests_are_refused(server):
    url = f"{server.url}/gradio_api"
    assert fetch(f"{url}/upload", b"x")[0] == 404
    large = json.dumps({"data": ["x" * 100_000]}).encode()
    kind = {"Content-Type": "application/json"}
    assert fetch(f"{url}/call/generate", large, **kind)[0] == 413
    assert fetch(f"{url}/run/switch", large, **kind)[0] == 413


@pytest.mark.parametrize("kind", ["Content-Length: 40", "Transfer-Encoding: chunked"])
def test_a_request_that_does_not_end_loses_its_connection(server, monkeypatch, kind):
    monkeypatch.setattr(middleware, "_LONGEST", 0.2)
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), PATIENCE) as connection:
        connection.sendall(
            f"POST /gradio_api/call/generate HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/json\r\n{kind}\r\n\r\n".encode()
        )
        told = b""
        while part := connection.recv(4096):  # ends when the server closes the connection
            told += part
    assert b" 200 " not in told


def test_a_taken_port_is_reported(server):
    from neuronsteer.errors import ParameterError
    from neuronsteer.space import launch

    with pytest.raises(ParameterError, match="--port"):
        launch(block=False, port=int(server.url.rpartition(":")[2]))


def test_a_page_for_other_machines_loads_nothing_that_was_not_allowed(tmp_path):
    from neuronsteer.errors import ParameterError
    from neuronsteer.space import launch

    server = launch(host="0.0.0.0", block=False)
    try:
        # It has whatever name its visitors know it by.
        assert fetch(server.url + "/welcome", Host="page.example.org")[0] == 200
        assert b"page.example.org/page/preview.png" in fetch(server.url, Host="page.example.org")[2]
        assert b"<b>" not in fetch(server.url, Host='a"><b>')[2]
        with pytest.raises(ParameterError, match="public"):
            list(server.service.load(str(tmp_path), "demo"))
    finally:
        server.close()


def test_welcome_gives_the_settings(server):
    answer = json.loads(fetch(f"{server.url}/welcome")[2])
    assert answer["ready"] and answer["models"] == ["demo + demo"]
    assert answer["settings"]["max_new_tokens"] == 240
    assert "device" not in answer["settings"]
