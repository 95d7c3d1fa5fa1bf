"""Sharing where the surroundings are against it: disks, proxies, no network, and clocks.

Failures of single requests are in `test_hub_faults.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

import pytest
from huggingface_hub import file_download
from huggingface_hub.utils import _http

from neuronsteer import hub as hub_files
from neuronsteer.errors import HubError
from neuronsteer.hub import errors as hub_errors
from neuronsteer.neuron_set import NeuronSet, card
from neuronsteer.stats import Stats
from tests.hub_server.proxy import Proxy
from tests.sharing import make_set, make_stats, same_stats

pytest_plugins = ("tests.hub_server.fixtures",)

CONFIG, TENSORS = "adapter_config.json", "neurons.safetensors"
OLD, NEW = make_set(0), make_set(1)


@pytest.fixture(autouse=True)
def _quick(hub, monkeypatch):
    monkeypatch.setattr(hub_errors, "sleep", hub.sleep)
    monkeypatch.setattr(card, "draw_layers", lambda layers: b"\x89PNG\0" + repr(layers).encode())


def push(neurons, repo_id="ann/set", **options):
    return neurons.push_to_hub(repo_id, **{"peft": False, **options})


def pull(repo_id="ann/set", **options):
    return NeuronSet.from_pretrained(repo_id, **options)


def pull_stats(**options):
    return Stats.from_pretrained("ann/stats", **options)


@pytest.fixture
def stats(hub, tmp_path):
    """Statistics that are on the Hub as ann/stats."""
    made = make_stats()
    files = hub_files.read_folder(made.save(tmp_path / "saved"))
    hub.server.make_repo("ann/stats", files)
    return made


# -- disks -------------------------------------------------------------------------------------


class Disk:
    """Refuses changes below a folder: all of them, or the one of a number.

    Works on the events that Python reports before it calls the system, because tests may run as a
    user for whom no folder is read-only.
    """

    EVENTS = ("os.mkdir", "os.rename", "os.symlink", "os.link", "os.remove", "os.chmod")

    def __init__(self):
        self.below, self.code, self.when, self.count = None, 0, None, 0

    def __call__(self, event, arguments):
        if self.below is None or not (event == "open" or event in self.EVENTS):
            return
        writes = event != "open" or (
            isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        paths = [os.fspath(each) for each in arguments[:2] if isinstance(each, str | os.PathLike)]
        if writes and any(path.startswith(self.below) for path in paths):
            self.count += 1
            if self.when in (None, self.count):
                raise OSError(self.code, os.strerror(self.code), paths[0])

    @contextlib.contextmanager
    def refuses(self, below, code, when=None):
        self.below, self.code, self.when, self.count = str(below), code, when, 0
        try:
            yield self
        finally:
            self.below = None


# A hook stays until the process ends, so there is one, and it does nothing outside of a test.
DISK = Disk()
sys.addaudithook(DISK)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written_still_serves(hub, stats, code, tmp_path):
    push(NEW)
    with DISK.refuses(hub.cache, code) as disk:
        for load in (pull, pull_stats):
            with pytest.raises(HubError, match="cannot be kept on this machine.*cache_dir="):
                load()
        assert disk.count and pull(cache_dir=tmp_path / "other") == NEW
    pull(), pull_stats()
    with DISK.refuses(hub.cache, code):
        assert pull() == NEW and pull(local_files_only=True) == NEW
        assert same_stats(pull_stats(), stats)
        with hub.down():
            assert pull() == NEW
        with pytest.raises(HubError, match="cannot be kept on this machine"):
            pull(force_download=True)
        # A newer commit cannot be kept; the older one is not given in its place.
        push(OLD)
        with pytest.raises(HubError, match="cannot be kept on this machine"):
            pull()
    assert pull() == OLD


def test_a_disk_that_is_full_at_any_point(hub, stats):
    push(NEW)
    for load, same in ((pull, NEW.__eq__), (pull_stats, lambda found: same_stats(found, stats))):
        outcomes = []
        for when in range(1, 99):
            hub.fresh_cache()
            with DISK.refuses(hub.cache, errno.ENOSPC, when) as disk:
                try:
                    assert same(load())
                    outcomes.append("right")
                except HubError as error:
                    assert "No space left on device" in str(error)
                    outcomes.append("error")
            # Nothing that was begun is taken for complete.
            assert same(load()) and same(load(local_files_only=True))
            if disk.count < when:
                break
        assert len(outcomes) > 8 and outcomes.count("error") > 4


def test_a_disk_that_fills_up_inside_of_a_file(hub, monkeypatch):
    push(NEW)
    http_get = file_download.http_get

    def half(url, temp_file, **options):
        http_get(url, temp_file, **options)
        temp_file.truncate(temp_file.tell() // 2)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for count in (1, 2):
        hub.fresh_cache()
        calls = iter(range(99))
        with monkeypatch.context() as patch:
            patch.setattr(
                file_download,
                "http_get",
                lambda *a, count=count, calls=calls, **k: (
                    half(*a, **k) if next(calls) + 1 == count else http_get(*a, **k)
                ),
            )
            with pytest.raises(HubError, match="No space left on device"):
                pull()
        with pytest.raises(HubError, match="not in the download cache"):
            pull(local_files_only=True)
        assert pull() == NEW


def test_a_push_without_room_for_temporary_files(hub, tmp_path, monkeypatch):
    push(OLD)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    repo, refused = hub.repo("ann/set"), 0
    before = repo.branches["main"]
    for when in range(1, 99):
        repo.branches["main"] = before
        with DISK.refuses(tmp_path / "temporary", errno.ENOSPC, when) as disk:
            try:
                push(NEW)
                assert pull() == NEW
            except HubError as error:
                assert "No space left on device" in str(error)
                assert repo.branches["main"] == before
                refused += 1
        if disk.count < when:
            break
    assert refused > 8 and disk.count < when


# -- networks ----------------------------------------------------------------------------------


@pytest.fixture
def through(hub, monkeypatch):
    """Makes this process use a proxy, even for this machine."""

    def use(url):
        for name in ("NO_PROXY", "no_proxy", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTP_PROXY", url)
        _http.close_session()

    yield use
    monkeypatch.undo()
    _http.close_session()


def test_everything_goes_through_the_proxy(hub, stats, through):
    with Proxy() as proxy:
        through(proxy.url)
        push(NEW)
        assert pull() == NEW and same_stats(pull_stats(), stats)
        assert len(proxy.seen) == len(hub.server.requests) > 10


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "not reached|cannot be reached"),
        ((407, b"Proxy Authentication Required"), "407"),
        ((200, b"<html>Please sign in to this network</html>"), "network, proxy|connection.*broke"),
        ((403, b"<html>Blocked</html>"), "403"),
    ],
)
def test_a_proxy_that_does_not_let_through(hub, stats, through, answer, message, tmp_path):
    push(NEW)
    pull(), pull_stats()
    before = hub.repo("ann/set").branches["main"]
    with Proxy(answer) as proxy:
        through(proxy.url if answer else "http://127.0.0.1:9")
        # What is cached serves, and nothing else is taken for an answer of the Hub.
        assert pull() == NEW and same_stats(pull_stats(), stats)
        for call in (
            lambda: pull(cache_dir=tmp_path / "cold"),
            lambda: pull_stats(cache_dir=tmp_path / "cold"),
            lambda: push(OLD),
        ):
            with pytest.raises(HubError, match=message) as raised:
                call()
            assert "ann/" in str(raised.value)
    assert hub.repo("ann/set").branches["main"] == before


@pytest.mark.parametrize("way", ["offline", "down", "local_files_only"])
@pytest.mark.parametrize("have", ["all", "nothing", CONFIG, TENSORS])
def test_offline_with_and_without_a_cache(hub, stats, way, have):
    push(OLD)
    push(NEW)
    first, second = (("stats.json", "stats.safetensors"), (CONFIG, TENSORS))
    for name in {"all": (CONFIG, TENSORS), "nothing": ()}.get(have, (have,)):
        hub_files.fetch("ann/set", filenames=[name])
        of_stats = dict(zip(second, first, strict=True))[name]
        hub_files.fetch("ann/stats", filenames=[of_stats])
    local = {"local_files_only": True} if way == "local_files_only" else {}
    with contextlib.nullcontext() if local else getattr(hub, way)():
        if have == "all":
            assert pull(**local) == NEW and same_stats(pull_stats(**local), stats)
        else:
            for load in (pull, pull_stats):
                with pytest.raises(HubError, match="not in the download cache"):
                    load(**local)
    assert pull() == NEW and same_stats(pull_stats(), stats)


def test_an_older_set_serves_offline_after_a_newer_one_came_by_half(hub):
    """The newer commit is known and not complete: that is said, and the older is not mixed in."""
    push(OLD)
    pull()
    push(NEW)
    hub.faults.add("GET storage", "server_error", times=None)
    with pytest.raises(HubError):
        pull()
    hub.faults.clear()
    with hub.down():
        with pytest.raises(HubError, match="not in the download cache"):
            pull()
        assert pull(revision=hub.repo("ann/set").pushes[0].oid) == OLD
    assert pull() == NEW


@pytest.mark.parametrize("date", ["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_clocks_that_differ_change_nothing(hub, stats, date):
    """By decades, in every answer, and in what the Hub says about when to come back."""
    skewed = {"Date": date, "Last-Modified": date}
    fault = hub.faults.add(".", "headers", times=None, headers=skewed)
    hub.faults.add("POST .*/commit/", "unavailable", times=2, retry_after=date)
    hub.faults.add("GET storage", "unavailable", times=2, retry_after=date)
    push(OLD)
    push(NEW)
    assert pull() == NEW and same_stats(pull_stats(), stats)
    assert len(fault.hits) > 10 and sum(hub.sleeps) < 60
