"""History, branches, tags and pull requests of the test Hub, through the unmodified client."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from huggingface_hub import (
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    file_exists,
    hf_hub_download,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError

from tests.hub_server.samples import FILES, add, get, push, pushed, write_folder
from tests.hub_server.store import Blob, tree_oid

pytest_plugins = ("tests.hub_server.fixtures",)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder")


def test_trees_come_in_pages(hub):
    hub.server.make_repo("ann/set", {f"d{n % 3}/{n:03d}.txt": b"x" for n in range(40)})
    hub.server.page_size = 7
    api = HfApi()
    names = [f.path for f in api.list_repo_tree("ann/set", recursive=True)]
    assert len(names) == len(set(names)) == 44  # 40 files, .gitattributes, 3 folders
    assert len(hub.server.seen("GET hub .*/tree/")) == 7
    (folder,) = {type(f).__name__ for f in api.list_repo_tree("ann/set") if f.path == "d0"}
    assert folder == "RepoFolder"
    assert len(list(api.list_repo_tree("ann/set", "d0", expand=True))) == 14
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("ann/set", "nowhere"))
    found = api.get_paths_info("ann/set", ["d0/000.txt", "missing", "d1"])
    assert [f.path for f in found] == ["d0/000.txt", "d1"]


def test_commits_add_copy_and_delete_atomically(hub, folder):
    pushed(folder)
    push(
        [
            CommitOperationCopy("neurons.safetensors", "moved/neurons.safetensors"),
            CommitOperationDelete("neurons.safetensors"),
            CommitOperationDelete("sub/"),
            add("adapter_config.json", b"[]"),
        ]
    )
    repo = hub.repo("ann/set")
    assert set(repo.files()) == {"README.md", "adapter_config.json", "moved/neurons.safetensors"}
    before = repo.files()
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        push([add("extra.txt", b"x"), CommitOperationDelete("not there.txt")])
    assert repo.files() == before and len(repo.pushes) == 2
    assert [c.title for c in HfApi().list_repo_commits("ann/set")][:1] == ["Push"]


def test_parent_commit_protects_from_concurrent_pushes(hub, folder):
    first = pushed(folder).oid
    push([add("a.txt", b"a")], parent_commit=first)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        push([add("b.txt", b"b")], parent_commit=first)
    assert caught.value.response.status_code == 412
    assert "b.txt" not in hub.repo("ann/set").files()


def test_branches_tags_and_revisions(hub, folder):
    first = pushed(folder).oid
    api = HfApi()
    api.create_branch("ann/set", branch="dev/x")
    api.create_tag("ann/set", tag="v1", tag_message="first")
    push([add("only-dev.txt", b"dev")], revision="dev/x")
    push([add("only-main.txt", b"main")])
    refs = api.list_repo_refs("ann/set")
    assert {b.name for b in refs.branches} == {"main", "dev/x"}
    assert [(t.name, t.target_commit) for t in refs.tags] == [("v1", first)]
    assert get("only-dev.txt", revision="dev/x") == b"dev"
    for revision in ("v1", first, first[:8]):
        assert not file_exists("ann/set", "only-main.txt", revision=revision)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("ann/set", branch="dev/x")
    api.create_branch("ann/set", branch="dev/x", exist_ok=True)
    api.delete_branch("ann/set", branch="dev/x")
    api.delete_tag("ann/set", tag="v1")
    for revision in ("dev/x", "v1"):
        with pytest.raises(RevisionNotFoundError):
            hf_hub_download("ann/set", "README.md", revision=revision)
    api.super_squash_history("ann/set")
    assert len(hub.repo("ann/set").commits) == 1


def test_a_pull_request_of_a_stranger(hub, folder):
    pushed(folder)
    owner = hub.token
    hub.login(hub.add_token("bob"))
    with pytest.raises(HfHubHTTPError, match="create_pr=1") as caught:
        push([add("bob.txt", b"bob")])
    assert caught.value.response.status_code == 403
    info = push([add("bob.txt", b"bob"), add("b.safetensors", b"\0" * 99)], create_pr=True)
    assert (info.pr_num, info.pr_revision) == (1, "refs/pr/1")
    push([add("more.txt", b"more")], revision="refs/pr/1")
    assert get("bob.txt", revision="refs/pr/1") == b"bob"
    assert "bob.txt" not in hub.repo("ann/set").files()
    api = HfApi(token=owner)
    (discussion,) = api.get_repo_discussions("ann/set", discussion_type="pull_request")
    assert discussion.author == "bob" and discussion.status == "open"
    api.merge_pull_request("ann/set", 1)
    assert {"bob.txt", "more.txt", "b.safetensors"} <= set(hub.repo("ann/set").files())
    assert api.get_discussion_details("ann/set", 1).status == "merged"


def test_an_empty_draft_pull_request_takes_commits(hub, folder):
    pushed(folder)
    pull = HfApi().create_pull_request("ann/set", title="A draft")
    push([add("x.txt", b"x")], revision=pull.git_reference)
    assert pull.status == "draft" and hub.repo("ann/set").files("refs/pr/1")["x.txt"] == b"x"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_object_ids_are_those_of_git(folder):
    def git(*args):
        done = subprocess.run(
            ["git", *args], cwd=folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", "-A", "-f")
    assert tree_oid({name: Blob(data) for name, data in FILES.items()}) == git("write-tree")
