"""The test Hub answers the unmodified `huggingface_hub` client as huggingface.co does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import peft
import pytest
import transformers
from huggingface_hub import (
    HfApi,
    ModelCard,
    create_repo,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server.samples import FILES, WEIGHTS, add, get, push, pushed, write_folder

pytest_plugins = ("tests.hub_server.fixtures",)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder")


def test_a_folder_becomes_one_commit_and_comes_back(hub, folder):
    info = pushed(folder, commit_message="Push a set")
    repo = hub.repo("ann/set")
    assert [commit.title for commit in repo.pushes] == ["Push a set"]
    assert info.oid == repo.commits[-1].oid and repo.files() == FILES
    assert repo.resolve("main").tree["neurons.safetensors"].lfs
    for name, data in FILES.items():
        assert get(name) == data
    assert get("other.json", subfolder="sub") == b"{}"
    snapshot = Path(snapshot_download("ann/set"))
    assert {str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file()} == {
        *FILES,
        ".gitattributes",
    }
    storage = hub.server.seen("storage")
    assert storage and not any(entry.authorization for entry in storage)


def test_an_unchanged_folder_makes_no_commit_and_uploads_nothing(hub, folder):
    pushed(folder)
    pushed(folder)
    assert len(hub.repo("ann/set").pushes) == 1
    assert len(hub.server.seen("PUT storage")) == 1


def test_the_same_bytes_are_stored_once(hub, folder):
    pushed(folder)
    push([add("copy.safetensors", WEIGHTS)])
    assert len(hub.server.seen("PUT storage")) == 1
    assert hub.repo("ann/set").files()["copy.safetensors"] == WEIGHTS


def test_multipart_uploads_are_joined_and_checked(hub, folder):
    hub.server.multipart_over, hub.server.chunk_size = 1000, 30_000
    pushed(folder)
    assert len(hub.server.seen("PUT storage")) == 4
    assert hub.repo("ann/set").files() == FILES


def test_create_twice_conflicts_unless_it_may_exist(hub):
    url = create_repo("ann/set")
    assert (url.repo_id, url.repo_type) == ("ann/set", "model")
    assert create_repo("ann/set", exist_ok=True) == url
    with pytest.raises(HfHubHTTPError, match="already created this model repo") as caught:
        create_repo("ann/set")
    assert caught.value.response.status_code == 409


def test_delete_and_move(hub, folder):
    pushed(folder)
    api = HfApi()
    api.move_repo("ann/set", "ann/new")
    assert api.file_exists("ann/new", "README.md") and not api.repo_exists("ann/set")
    api.delete_repo("ann/new")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("ann/new")
    api.delete_repo("ann/new", missing_ok=True)


def test_info_and_lists_read_the_card(hub, folder):
    pushed(folder)
    api = HfApi()
    info = api.model_info("ann/set", files_metadata=True)
    sizes = {s.rfilename: s.size for s in info.siblings}
    assert sizes["neurons.safetensors"] == len(WEIGHTS)
    assert info.library_name == "neuronsteer" and {"en", "license:mit"} <= set(info.tags)
    assert info.sha == hub.repo("ann/set").commits[-1].oid and info.private is False
    assert [m.id for m in api.list_models(author="ann", filter="neuronsteer")] == ["ann/set"]
    assert list(api.list_models(author="bob")) == []


def test_spaces_and_datasets(hub):
    api = HfApi()
    secrets = [{"key": "A", "value": "b"}]
    create_repo("ann/app", repo_type="space", space_sdk="gradio", space_secrets=secrets)
    card = b"---\nsdk: gradio\n---\n"
    for path, data in (("app.py", b"print()"), ("README.md", card)):
        api.upload_file(
            path_or_fileobj=data, path_in_repo=path, repo_id="ann/app", repo_type="space"
        )
    assert api.space_info("ann/app").sdk == "gradio"
    assert api.get_space_runtime("ann/app").stage == "RUNNING"
    assert hub.repo("ann/app", "space").space["secrets"] == secrets
    create_repo("ann/data", repo_type="dataset")
    operations = [add("x.parquet", WEIGHTS)]
    api.create_commit("ann/data", operations, commit_message="Add", repo_type="dataset")
    assert get("x.parquet", "ann/data", repo_type="dataset") == WEIGHTS


@pytest.mark.parametrize(
    ("yaml", "complaint"),
    [
        ("license: mine", "license"),
        ("language: Klingon", "language"),
        ("base_model_relation: cousin", "base_model_relation"),
        ("pipeline_tag: chat", "pipeline_tag"),
        ("tags: one", "tags"),
        ("a: [", "could not be parsed"),
        ("model-index:\n- name: x", "results"),
    ],
)
def test_bad_cards_are_refused_before_anything_is_uploaded(hub, yaml, complaint):
    create_repo("ann/set")
    with pytest.raises(ValueError, match=complaint):
        push([add("README.md", f"---\n{yaml}\n---\n".encode()), add("x.bin", WEIGHTS)])
    assert not hub.repo("ann/set").pushes and not hub.server.seen("PUT storage")


def test_good_cards_pass_and_empty_ones_warn(hub):
    ModelCard("---\nlicense: mit\n---\nText").validate()
    create_repo("ann/set")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        push([add("README.md", b"# No metadata\n")])


def test_transformers_and_peft_push_and_pull(hub):
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        vocab_size=32,
    )
    transformers.LlamaForCausalLM(config).push_to_hub("ann/base")
    base = transformers.AutoModelForCausalLM.from_pretrained("ann/base")
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"])).push_to_hub("ann/lora")
    hub.fresh_cache()
    model = peft.AutoPeftModelForCausalLM.from_pretrained("ann/lora")
    assert model.active_adapter == "default"
    assert {len(hub.repo(name).pushes) for name in ("ann/base", "ann/lora")} == {1}
    assert not [entry for entry in hub.server.requests if entry.status == 501]


def test_concurrent_pushes_all_land(hub):
    create_repo("ann/set")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: push([add(f"{n}.txt", b"%d" % n)]), range(24)))
    repo = hub.repo("ann/set")
    assert len(repo.pushes) == 24 and len(repo.files()) == 24


# -- downloads -----------------------------------------------------------------------------------


def test_what_is_not_there(hub, folder):
    commit = pushed(folder).oid
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("ann/set", "config.json")
    # The answer named the commit, so that the absence could be cached.
    assert try_to_load_from_cache("ann/set", "config.json", revision=commit) is not None
    for revision in ("nope", "0" * 40):
        with pytest.raises(RevisionNotFoundError, match="Invalid rev id"):
            hf_hub_download("ann/set", "README.md", revision=revision)
        with pytest.raises(RevisionNotFoundError):
            HfApi().model_info("ann/set", revision=revision)


@pytest.mark.parametrize("way", ["offline", "down", "local_files_only"])
def test_a_warm_cache_works_without_the_hub(hub, folder, way):
    pushed(folder)
    expected = hf_hub_download("ann/set", "neurons.safetensors")
    snapshot = snapshot_download("ann/set")
    local = {"local_files_only": True} if way == "local_files_only" else {}
    with contextlib.nullcontext() if local else getattr(hub, way)():
        assert hf_hub_download("ann/set", "neurons.safetensors", **local) == expected
        assert snapshot_download("ann/set", **local) == snapshot
        hub.fresh_cache()
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download("ann/set", "neurons.safetensors", **local)
    assert get("neurons.safetensors") == WEIGHTS


def test_ranges_redirects_and_conditional_requests(hub, folder):
    pushed(folder)
    repo = hub.repo("ann/set")
    head = httpx2.head(hf_hub_url("ann/set", "neurons.safetensors"))
    blob = repo.resolve("main").tree["neurons.safetensors"]
    assert head.status_code == 302 and head.headers["X-Linked-Size"] == str(len(WEIGHTS))
    assert head.headers["X-Linked-Etag"] == f'"{blob.sha256}"'
    assert head.headers["X-Repo-Commit"] == repo.commits[-1].oid
    where = head.headers["Location"]
    part = httpx2.get(where, headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == WEIGHTS[10:20]
    assert httpx2.get(where, headers={"Range": "bytes=-5"}).content == WEIGHTS[-5:]
    assert httpx2.get(where, headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416
    assert httpx2.get(where.replace("Signature=", "Signature=0")).status_code == 403
    assert httpx2.get(where, headers={"Authorization": "Bearer x"}).status_code == 400
    small = httpx2.get(hf_hub_url("ann/set", "README.md"), follow_redirects=True)
    assert [r.status_code for r in small.history] == [307] and small.content == FILES["README.md"]
    etag = {"If-None-Match": small.headers["ETag"]}
    assert httpx2.get(str(small.url), headers=etag).status_code == 304


def test_a_subprocess_uses_the_same_hub(hub, folder, tmp_path):
    pushed(folder)
    code = """if True:
        from huggingface_hub import HfApi, hf_hub_download
        print(open(hf_hub_download("ann/set", "adapter_config.json")).read())
        try: print(HfApi().whoami()["name"])
        except Exception as error: print(type(error).__name__)
    """
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=hub.env(), capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == [FILES["adapter_config.json"].decode(), "ann"]
    env = hub.env(token=None, HF_HUB_CACHE=str(tmp_path / "other"))
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[1] == "LocalTokenNotFoundError"
