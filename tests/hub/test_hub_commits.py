"""Commits: a set is of one, wherever the branch moves and whoever else is writing."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import get_session

from neuronsteer import hub as hub_files
from neuronsteer.errors import ArtifactError, HubError
from neuronsteer.hub import errors as hub_errors
from neuronsteer.neuron_set import NeuronSet, card
from neuronsteer.stats import Stats
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


# -- the branch moves --------------------------------------------------------------------------


class Moving:
    """Moves a branch when the request of a number comes; every request when there is no number."""

    def __init__(self, repo, old, new, when=None):
        self.repo, self.commits, self.when, self.count = repo, (old, new), when, 0

    def __call__(self, entry):
        self.count += 1
        if self.when is None:
            self.repo.branches["main"] = self.commits[self.count % 2]
        elif self.count == self.when:
            self.repo.branches["main"] = self.commits[1]
        return False

    def start(self, hub):
        self.repo.branches["main"] = self.commits[0]
        hub.faults.clear()
        hub.fresh_cache()
        hub.faults.add(self, "drop")


def two_commits(repo, change):
    before = repo.branches["main"]
    change()
    return before, repo.branches["main"]


def at_every_request(hub, repo, old, new, load):
    """What `load` gives when the branch moves before its first, second, … request, or always."""
    found = []
    for when in (None, *range(1, 99)):
        moving = Moving(repo, old, new, when)
        moving.start(hub)
        try:
            found.append(load())
        except HubError as error:
            # What was announced is gone every time that it is asked for.
            assert when is None and "arrived damaged" in str(error)
        if when is not None and moving.count < when:
            return found
    raise AssertionError("more requests than expected")


def test_a_set_is_of_one_commit_wherever_the_branch_moves(hub):
    push(OLD)
    repo = hub.repo("ann/set")
    old, new = two_commits(repo, lambda: push(NEW))
    for private in (False, True):  # public files take another way through the Hub
        repo.visibility = "private" if private else "public"
        found = at_every_request(hub, repo, old, new, pull)
        assert all(each in (OLD, NEW) for each in found)
        assert OLD in found and NEW in found and len(found) > 4


def test_statistics_are_of_one_commit_wherever_the_branch_moves(hub, stats, tmp_path):
    repo, newer = hub.repo("ann/stats"), make_stats(1)
    files = hub_files.read_folder(newer.save(tmp_path / "newer"))

    def change():
        operations = [CommitOperationAdd(path, data) for path, data in files.items()]
        HfApi().create_commit("ann/stats", operations, commit_message="Newer")

    old, new = two_commits(repo, change)
    found = at_every_request(hub, repo, old, new, pull_stats)
    kinds = [[same_stats(each, one) for one in (stats, newer)] for each in found]
    assert all(any(each) for each in kinds)
    assert any(each[0] for each in kinds) and any(each[1] for each in kinds)


@pytest.mark.parametrize("header", ["X-Repo-Commit", "ETag"])
@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_what_the_hub_says_of_another_commit_is_not_mixed(hub, header, name):
    """An answer about the older commit's file, or that the newer one's is of the older commit."""
    push(OLD)
    repo = hub.repo("ann/set")
    old, new = two_commits(repo, lambda: push(NEW))
    tag = f'"{repo.resolve(old).tree[name].etag}"'
    lie = {"ETag": tag, "X-Linked-ETag": tag} if header == "ETag" else {header: old}
    for cached in (True, False):
        hub.fresh_cache()
        if cached:
            assert pull(revision=old) == OLD
        hub.faults.add(f"HEAD hub .*{name}", "headers", times=None, headers=lie)
        with contextlib.suppress(HubError, ArtifactError):
            assert pull() in (OLD, NEW)
        hub.faults.clear()
        # What is wrong in the cache then, the error says how to renew.
        assert pull(force_download=True) == NEW
        assert pull() == NEW
        assert pull(revision=old, force_download=True) == OLD


def test_an_answer_of_another_commit_than_was_asked_for_is_refused(hub, stats):
    lie = {"X-Repo-Commit": "0" * 40}
    hub.faults.add("HEAD hub .*stats.safetensors", "headers", headers=lie)
    with pytest.raises(HubError, match="two commits of 'ann/stats'"):
        pull_stats()
    assert same_stats(pull_stats(), stats)


def test_a_wrong_name_in_the_cache_is_repaired(hub):
    push(NEW)
    headers = {"ETag": f'"{"0" * 40}"', "X-Linked-ETag": f'"{"0" * 40}"'}
    hub.faults.add("HEAD", "headers", times=None, headers=headers)
    with pytest.raises(HubError, match="arrived damaged 3 times"):
        pull()
    hub.faults.clear()
    assert pull() == NEW and pull(local_files_only=True) == NEW


def test_a_forced_download_that_fails_leaves_what_is_cached(hub):
    push(NEW)
    pull()
    for match in ("HEAD hub .*config", "GET .*config", "GET storage"):
        hub.faults.add(match, "server_error", times=None)
        with pytest.raises(HubError):
            pull(force_download=True)
        hub.faults.clear()
        assert pull(local_files_only=True) == NEW
    assert not [path for path in hub.cache.rglob("*") if path.name.endswith(".old")]


# -- others ------------------------------------------------------------------------------------


@pytest.fixture
def together(monkeypatch):
    """Runs pushes of which none commits before all have seen what is there."""

    def run(*calls):
        barrier, first = threading.Barrier(len(calls), timeout=60), threading.local()
        create_commit = HfApi.create_commit

        def wait_first(*arguments, **options):
            if not hasattr(first, "done"):
                first.done = True
                barrier.wait()
            return create_commit(*arguments, **options)

        with monkeypatch.context() as patch, ThreadPoolExecutor(len(calls)) as pool:
            patch.setattr(HfApi, "create_commit", wait_first)
            waiting = [pool.submit(call) for call in calls]
            return [each.exception() for each in waiting]

    return run


@pytest.mark.parametrize(("writers", "there"), [(2, "older"), (4, "nothing")])
def test_writers_of_one_place_leave_the_set_of_one(hub, together, there, writers):
    if there == "older":
        make_set(9).push_to_hub("ann/set")
    sets = [make_set(seed) for seed in range(writers)]
    errors = together(
        *(lambda each=each, n=n: push(each, peft=n % 2 == 0) for n, each in enumerate(sets))
    )
    assert errors == [None] * writers
    repo = hub.repo("ann/set")
    assert len(repo.pushes) == writers + (there == "older")
    # Every commit is one writer's set, with the card and the adapters of that set and no others.
    for commit in repo.pushes[there == "older" :]:
        hub.fresh_cache()
        found = pull(revision=commit.oid)
        assert found in sets
        alone = "ann/alone"
        push(found, alone, peft=sets.index(found) % 2 == 0)
        card_of = {"README.md": None}
        assert {**commit.files(), ".gitattributes": None, **card_of} == {
            **hub.repo(alone).files(),
            ".gitattributes": None,
            **card_of,
        }
        HfApi().delete_repo(alone)


def test_writers_of_two_places_leave_both(hub, together):
    errors = together(
        lambda: push(OLD, subfolder="one"),
        lambda: push(NEW, subfolder="two"),
    )
    assert errors == [None, None]
    assert pull(subfolder="one") == OLD and pull(subfolder="two") == NEW
    index = hub.repo("ann/set").files()["README.md"].decode()
    assert 'subfolder="one"' in index and 'subfolder="two"' in index


def test_writers_of_the_same_set_make_one_commit_of_it(hub, together):
    assert together(lambda: push(NEW), lambda: push(NEW)) == [None, None]
    assert pull() == NEW and len(hub.repo("ann/set").pushes) == 1


def test_a_writer_that_never_comes_first_is_told(hub):
    push(OLD)
    repo = hub.repo("ann/set")

    def meanwhile(entry):
        if "commit/main" in entry.path:
            tree = {**repo.resolve("main").tree}
            made = repo.store(tree, (repo.branches["main"],), "Meanwhile", "", "bob")
            repo.move("main", made)
        return False

    hub.faults.add(meanwhile, "drop")
    with pytest.raises(HubError, match="Somebody else is changing 'ann/set' at the same time"):
        push(NEW)
    hub.faults.clear()
    assert pull() == OLD and {each.title for each in repo.pushes[1:]} == {"Meanwhile"}


def test_a_lost_answer_and_then_a_hub_that_is_gone(hub):
    """The commit may be there or not, so neither is said."""
    push(OLD)
    hub.faults.add("POST .*/commit/", "lost_response")
    hub.faults.add("GET hub /api/models/ann/set/revision", "server_error", times=None, skip=1)
    hub.faults.add("GET hub /api/models/ann/set", "server_error", times=None, skip=1)
    with pytest.raises(HubError, match="Whether the upload arrived is not known"):
        push(NEW)
    hub.faults.clear()
    push(NEW)
    assert pull() == NEW and len(hub.repo("ann/set").pushes) == 2


def test_the_limit_of_silence_is_taken_back(hub):
    """The session belongs to the whole process."""
    push(NEW)
    pull()
    assert get_session().timeout.read is None
    get_session().timeout = 7.0
    with hub_errors.silence_ends():
        assert get_session().timeout.read == 7.0
    assert get_session().timeout.read == 7.0
