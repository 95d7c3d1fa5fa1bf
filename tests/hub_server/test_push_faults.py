"""What the unmodified client does on uploads when the Hub or the network fails, fault by fault.

These are facts about `huggingface_hub` that `neuronsteer.hub` builds on: what it retries, what it
lets through as it is, and what it does not notice at all.
"""

from __future__ import annotations

import json
import random

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from tests.hub_server import samples
from tests.hub_server.samples import DATA, PATHS, SMALL

pytest_plugins = ("tests.hub_server.fixtures",)


@pytest.fixture
def repo(hub):
    return hub.server.make_repo("ann/set", PATHS)


def push(data=DATA[::-1], name="neurons.safetensors", **options):
    return samples.push([samples.add(name, data)], **options)


@pytest.mark.parametrize("kind", ["rate_limit", "unavailable", "server_error"])
@pytest.mark.parametrize("step", ["preupload", "batch", "PUT storage", "verify$"])
def test_every_step_before_the_commit_is_retried(hub, repo, kind, step):
    hub.faults.add(step, kind, times=2)
    push()
    assert len(hub.sleeps) == 2 and repo.files()["neurons.safetensors"] == DATA[::-1]


@pytest.mark.parametrize("kind", ["rate_limit", "unavailable", "server_error"])
def test_the_commit_itself_is_not_retried(hub, repo, kind):
    hub.faults.add("POST .*/commit/", kind)
    with pytest.raises(HfHubHTTPError):
        push()
    assert hub.sleeps == [] and len(repo.pushes) == 1
    push()
    # The bytes were there already.
    assert len(repo.pushes) == 2 and len(hub.server.seen("PUT storage")) == 1


@pytest.mark.parametrize("status", [412, 409])
def test_a_commit_conflict_is_an_error(hub, repo, status):
    hub.faults.add("/commit/", "conflict", status=status)
    with pytest.raises(HfHubHTTPError) as caught:
        push()
    assert caught.value.response.status_code == status and len(repo.pushes) == 1


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("at", [0, 1, 0.4])
def test_a_cut_upload_starts_again(hub, repo, at, reset):
    data = random.Random(2).randbytes(3_000_000)
    hub.faults.add("PUT storage", "cut_request", at=at, reset=reset)
    push(data)
    assert repo.files()["neurons.safetensors"] == data and len(hub.sleeps) == 1


def test_a_cut_part_of_a_multipart_upload_starts_again(hub, repo):
    hub.server.multipart_over, hub.server.chunk_size = 1000, 25_000
    hub.faults.add("PUT storage .*/2", "drop", times=2)
    push()
    assert repo.files()["neurons.safetensors"] == DATA[::-1]


@pytest.mark.parametrize("multipart", [None, 1000])
def test_a_corrupt_upload_is_refused_and_nothing_is_committed(hub, repo, multipart):
    hub.server.multipart_over, hub.server.chunk_size = multipart, 25_000
    hub.faults.add("PUT storage", "corrupt_request")
    with pytest.raises(RuntimeError, match="Error while uploading"):
        push()
    assert len(repo.pushes) == 1 and len(repo.lfs) == 1
    push()
    assert repo.files()["neurons.safetensors"] == DATA[::-1]


@pytest.mark.parametrize("at", [0, 0.5])
def test_a_commit_cut_on_its_way_changes_nothing(hub, repo, at):
    hub.faults.add("POST .*/commit/", "cut_request", at=at)
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.NetworkError)):
        push(SMALL[::-1], "adapter_config.json")
    assert len(repo.pushes) == 1


def test_a_lost_answer_hides_a_commit_that_was_made(hub, repo):
    """After a lost answer, ask for the head of the branch before pushing again."""
    head = repo.resolve("main").oid
    hub.faults.add("POST .*/commit/", "lost_response")
    with pytest.raises(httpx2.RemoteProtocolError):
        push(parent_commit=head)
    assert len(repo.pushes) == 2 and repo.commits[-1].parents == (head,)
    # The content is there, so the client has nothing to commit the second time.
    assert push(parent_commit=head).oid == repo.commits[-1].oid


def test_a_cut_answer_to_a_commit_hides_it_too(hub, repo):
    hub.faults.add("POST .*/commit/", "cut_response", at=10)
    with pytest.raises(httpx2.RemoteProtocolError):
        push()
    assert len(repo.pushes) == 2


def test_an_expired_token_stops_a_push_at_any_step(hub, repo):
    for step in ("preupload", "batch", "/commit/"):
        hub.faults.add(step, "expired_token")
        with pytest.raises((RepositoryNotFoundError, HfHubHTTPError), match="is expired"):
            push()
    assert len(repo.pushes) == 1


def test_a_busy_card_check_is_not_understood(hub, repo):
    """The client reads the answer as JSON before it looks at the status."""
    card = b"---\nlicense: mit\n---\n"
    html = b"<html>Too many requests</html>"
    hub.faults.add("validate-yaml", "status", status=429, body=html)
    with pytest.raises(json.JSONDecodeError):
        push(card, "README.md")
    hub.faults.add("validate-yaml", "unavailable")
    with pytest.raises(HfHubHTTPError, match="503"):
        push(card, "README.md")
