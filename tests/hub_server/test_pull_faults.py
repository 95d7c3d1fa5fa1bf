"""What the unmodified client does on downloads when the Hub or the network fails, fault by fault.

These are facts about `huggingface_hub` that `neuronsteer.hub` builds on: what it retries, what it
lets through as it is, and what it does not notice at all.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, create_repo, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from tests.hub_server.samples import DATA, PATHS, get

pytest_plugins = ("tests.hub_server.fixtures",)

# The GET that carries the bytes of each of the two files.
BODIES = {"neurons.safetensors": "GET storage .*neurons", "adapter_config.json": "GET .*config"}
each_file = pytest.mark.parametrize("name", list(PATHS))


@pytest.fixture
def repo(hub):
    return hub.server.make_repo("ann/set", PATHS)


def cached_files(hub):
    """Everything in the cache that could be loaded."""
    return [p for p in hub.cache.rglob("*") if p.is_file() and "snapshots" in p.parts]


@pytest.mark.parametrize("kind", ["rate_limit", "unavailable"])
@each_file
def test_metadata_is_asked_for_again_after_retry_after(hub, repo, kind, name):
    fault = hub.faults.add(f"HEAD .*{name}", kind, times=3, retry_after=2)
    assert get(name) == PATHS[name]
    assert len(fault.hits) == 3 and not hub.faults.pending
    assert hub.sleeps == [3.0, 3.0]  # Retry-After and a second; the first attempt has no patience


def test_the_rate_limit_header_overrules_retry_after(hub, repo):
    hub.faults.add("HEAD .*neurons", "rate_limit", times=2, retry_after=7, ratelimit=True)
    assert get() == DATA and hub.sleeps == [8.0]


def test_a_busy_hub_is_not_waited_for_when_the_file_is_cached(hub, repo):
    get()
    hub.faults.add("HEAD", "unavailable", times=None, retry_after=60)
    assert get() == DATA and hub.sleeps == []


def test_an_ever_busy_hub_ends_in_an_error(hub, repo):
    fault = hub.faults.add("HEAD", "rate_limit", times=None)
    with pytest.raises(LocalEntryNotFoundError) as caught:
        get()
    assert caught.value.__cause__.response.status_code == 429
    assert len(fault.hits) == 7 and cached_files(hub) == []


def test_retry_after_is_really_waited_for(hub, repo):
    hub.sleep_scale = 1.0
    hub.faults.add("HEAD .*neurons", "unavailable", times=2, retry_after=0)
    start = time.monotonic()
    assert get() == DATA and time.monotonic() - start >= 1.0


@each_file
def test_a_body_that_is_refused_with_429_is_asked_for_again(hub, repo, name):
    hub.faults.add(BODIES[name], "rate_limit", times=2)
    assert get(name) == PATHS[name] and len(hub.sleeps) == 2


@pytest.mark.parametrize("kind", ["unavailable", "server_error"])
@each_file
def test_a_body_that_fails_with_5xx_is_given_up(hub, repo, name, kind):
    hub.faults.add(BODIES[name], kind)
    with pytest.raises(HfHubHTTPError, match="50"):
        get(name)
    assert cached_files(hub) == [] and get(name) == PATHS[name]


@each_file
@pytest.mark.parametrize("at", [0, 1, 0.3, 0.999])
def test_a_cut_download_starts_again(hub, repo, name, at):
    hub.faults.add(BODIES[name], "cut_response", times=2, at=at)
    assert get(name) == PATHS[name]
    assert len(hub.sleeps) == 2 and not hub.faults.pending


def test_a_cut_download_over_ten_megabytes_is_resumed(hub):
    """The client writes pieces of 10 MB and asks for the rest with Range."""
    data = random.Random(3).randbytes(12_000_000)
    hub.server.make_repo("ann/set", {"neurons.safetensors": data})
    hub.faults.add("GET storage", "cut_response", at=11_000_000)
    assert get() == data
    last = hub.server.requests[-1]
    assert last.status == 206 and last.sent == len(data) - 10 * 1024 * 1024


def test_random_cuts_never_leave_a_wrong_file(hub, repo):
    rng = random.Random(1)
    for _ in range(20):
        hub.fresh_cache()
        hub.faults.add(BODIES["neurons.safetensors"], "cut_response", at=rng.random())
        assert get() == DATA


def test_a_connection_that_always_breaks_ends_in_an_error(hub, repo):
    hub.faults.add("GET storage", "cut_response", times=None, at=0)
    with pytest.raises(httpx2.RemoteProtocolError):
        get()
    assert cached_files(hub) == [] and len(hub.sleeps) == 5


@pytest.mark.parametrize("at", [0, 0.5])
def test_a_tcp_reset_in_a_body_is_not_retried(hub, repo, at):
    hub.faults.add("GET storage", "cut_response", at=at, reset=True)
    with pytest.raises(httpx2.ReadError):
        get()
    assert cached_files(hub) == [] and get() == DATA


@each_file
def test_a_content_length_that_is_too_large_is_a_broken_connection(hub, repo, name):
    hub.faults.add(BODIES[name], "wrong_length", delta=7)
    assert get(name) == PATHS[name] and len(hub.sleeps) == 1


@each_file
def test_a_content_length_that_is_too_small_is_noticed(hub, repo, name):
    hub.faults.add(BODIES[name], "wrong_length", delta=-7)
    with pytest.raises(OSError, match="Consistency check failed"):
        get(name)
    assert cached_files(hub) == [] and get(name) == PATHS[name]


@each_file
def test_a_short_body_is_noticed(hub, repo, name):
    hub.faults.add(BODIES[name], "short_body", at=0.5)
    with pytest.raises(OSError, match="Consistency check failed"):
        get(name)
    assert cached_files(hub) == [] and get(name) == PATHS[name]


@each_file
def test_a_corrupt_body_is_not_noticed_and_stays_in_the_cache(hub, repo, name):
    """The client checks the length only: whoever wants the right bytes must hash them."""
    hub.faults.add(BODIES[name], "corrupt")
    assert get(name) != PATHS[name]
    assert get(name) != PATHS[name]
    # The name of the cached blob is the hash that it should have.
    (link,) = cached_files(hub)
    assert link.resolve().name == repo.resolve("main").tree[name].etag
    assert get(name, force_download=True) == PATHS[name]


def test_a_slow_body_arrives(hub, repo):
    hub.timeouts(1.0)
    hub.faults.add("GET storage", "slow", delay=0.1, pieces=4)
    assert get() == DATA


def test_a_stalled_body_times_out_and_is_resumed(hub, repo):
    hub.timeouts(0.2)
    hub.faults.add("GET storage", "slow", delay=0.5, pieces=2)
    assert get() == DATA and len(hub.sleeps) == 1


def test_a_dropped_connection_before_any_answer(hub, repo):
    hub.faults.add("HEAD hub", "drop")
    with pytest.raises(httpx2.RemoteProtocolError):
        get()
    hub.faults.add("GET storage", "drop", times=2)
    assert get() == DATA


def test_a_snapshot_is_whole_or_an_error(hub, repo):
    hub.faults.add("GET storage", "unavailable")
    with pytest.raises(HfHubHTTPError, match="503"):
        snapshot_download("ann/set")
    assert {p.name for p in Path(snapshot_download("ann/set")).iterdir()} >= set(PATHS)


def test_an_error_before_a_snapshot_names_itself(hub, repo):
    hub.faults.add("GET hub /api/models/ann/set/revision", "unavailable")
    with pytest.raises(LocalEntryNotFoundError, match="503"):
        snapshot_download("ann/set")


def test_a_token_that_expires_on_the_way(hub, repo):
    hub.faults.add("HEAD", "expired_token")
    with pytest.raises(RepositoryNotFoundError, match="is expired"):
        get()


# -- the plan itself ---------------------------------------------------------------------------


def test_faults_are_used_up_in_order_and_can_be_skipped(hub):
    hub.faults.add("whoami", "server_error", skip=1)
    hub.faults.add(lambda entry: entry.path.endswith("whoami-v2"), "rate_limit", skip=1)
    states = []
    for _ in range(4):
        try:
            states.append(HfApi().whoami()["name"])
        except HfHubHTTPError as error:
            states.append(error.response.status_code)
    assert states == ["ann", 500, 429, "ann"] and hub.faults.pending == []
    assert [entry.fault for entry in hub.server.seen("whoami")] == [
        None,
        "server_error",
        "rate_limit",
        None,
    ]


def test_mistakes_in_a_plan_are_refused(hub):
    with pytest.raises(ValueError, match="Unknown fault"):
        hub.faults.add("x", "gremlins")
    with pytest.raises(ValueError, match="takes"):
        hub.faults.add("x", "slow", at=3)


def test_a_hub_that_is_down_comes_back_with_its_repositories(hub, repo):
    with hub.down(), pytest.raises(LocalEntryNotFoundError):
        get()
    assert get() == DATA
    create_repo("ann/other")
