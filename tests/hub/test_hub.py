"""Sharing sets on a Hub: what a push leaves there, what a pull brings, and what is said if not."""

from __future__ import annotations

import contextlib
import json
import logging
import traceback

import pytest
from huggingface_hub import CommitInfo, ModelCard
from safetensors.torch import load_file, save_file

from neuronsteer.errors import ArtifactError, HubError, ParameterError
from neuronsteer.hub import errors as hub_errors
from neuronsteer.hub import fetch
from neuronsteer.neuron_set import NeuronSet, card
from neuronsteer.stats import Stats
from tests.hub_server.cards import validate
from tests.sharing import make_set

pytest_plugins = ("tests.hub_server.fixtures",)

CONFIG, TENSORS = "adapter_config.json", "neurons.safetensors"


@pytest.fixture(autouse=True)
def _quick(hub, monkeypatch):
    """Waits are noted, not waited; drawing takes longer than all the rest."""
    monkeypatch.setattr(hub_errors, "sleep", hub.sleep)
    monkeypatch.setattr(card, "draw_layers", lambda _layers: b"\x89PNG\0")


@pytest.fixture
def neurons():
    return make_set()


def push(neurons, repo_id="ann/set", **options):
    return neurons.push_to_hub(repo_id, **{"peft": False, **options})


def pull(repo_id="ann/set", **options):
    return NeuronSet.from_pretrained(repo_id, **options)


# -- the way there and back --------------------------------------------------------------------


def test_push_then_pull_with_an_empty_cache_and_another_token(hub, neurons):
    made = neurons.push_to_hub("ann/set")
    assert isinstance(made, CommitInfo)
    assert made.oid == hub.repo("ann/set").resolve("main").oid
    assert made.commit_url == f"{hub.url}/ann/set/commit/{made.oid}"
    hub.fresh_cache()
    hub.login(hub.add_token("bob", "read"))
    assert pull() == neurons
    hub.fresh_cache()
    hub.login(None)
    assert pull() == neurons


def test_saving_can_push_as_in_transformers(hub, neurons, tmp_path):
    folder = neurons.save_pretrained(tmp_path / "set", push_to_hub=True, private=True)
    assert NeuronSet.from_pretrained(folder) == neurons == pull("ann/set")
    assert hub.repo("ann/set").private
    neurons.save_pretrained(folder, push_to_hub=True, repo_id="ann/other", commit_message="Two")
    assert [commit.title for commit in hub.repo("ann/other").pushes] == ["Two"]
    with pytest.raises(ParameterError, match="Only push_to_hub=True takes repo_id, token"):
        neurons.save_pretrained(folder, repo_id="ann/set", token="hf_x")
    with pytest.raises(ParameterError, match=r"'privat'.*Did you mean 'private'"):
        neurons.push_to_hub("ann/set", privat=True)
    with pytest.raises(ParameterError, match=r"'revison'.*Did you mean 'revision'"):
        NeuronSet.from_pretrained(folder, revison="main")


def test_a_push_is_one_commit(hub, neurons):
    push(neurons, commit_message="First")
    repo = hub.repo("ann/set")
    assert [commit.title for commit in repo.pushes] == ["First"]
    assert set(repo.files()) == {CONFIG, TENSORS, "README.md", "layer_profile.png"}
    assert validate(repo.files()["README.md"].decode()) == ([], [])
    assert repo.resolve("main").tree[TENSORS].lfs
    push(make_set(1))
    assert [commit.title for commit in repo.pushes][1:] == ["Upload neuron set (en, fr, ja)"]
    assert pull() == make_set(1)


def test_a_push_without_changes_makes_no_commit(hub, neurons):
    assert push(neurons) == push(neurons)
    assert len(hub.repo("ann/set").pushes) == 1


def test_peft_adapters_come_along_and_go_when_they_would_be_another_sets(hub, neurons):
    neurons.push_to_hub("ann/set")
    files = set(hub.repo("ann/set").files())
    adapters = {path for path in files if path.startswith("lang_")}
    assert len(adapters) == 6 and "adapter_model.safetensors" in files
    neurons.only("fr").push_to_hub("ann/set")
    files = set(hub.repo("ann/set").files())
    assert {path for path in files if path.startswith("lang_")} == {
        "lang_fr/adapter_config.json",
        "lang_fr/adapter_model.safetensors",
    }
    push(neurons)
    assert set(hub.repo("ann/set").files()) == {
        CONFIG,
        TENSORS,
        "README.md",
        "layer_profile.png",
    }
    assert len(hub.repo("ann/set").pushes) == 3


def test_a_name_without_owner_is_ones_own(hub, neurons):
    push(neurons, "set")
    assert pull("ann/set") == neurons
    assert 'from_pretrained("ann/set")' in hub.repo("ann/set").files()["README.md"].decode()


def test_private(hub, neurons):
    push(neurons, private=True)
    assert hub.repo("ann/set").private and pull() == neurons
    push(make_set(1), "ann/open")
    with pytest.raises(HubError, match="exists and is public.*Nothing was uploaded"):
        push(neurons, "ann/open", private=True)
    assert pull("ann/open") == make_set(1)


def test_branches_tags_and_commits(hub, neurons):
    push(neurons)
    push(make_set(1), revision="v2")
    repo = hub.repo("ann/set")
    repo.tags["first"] = repo.branches["main"]
    assert pull() == neurons and pull(revision="v2") == make_set(1)
    push(make_set(2))
    assert pull(revision="first") == neurons == pull(revision=repo.tags["first"])
    card = repo.files("v2")["README.md"].decode()
    assert 'from_pretrained("ann/set", revision="v2")' in card
    with pytest.raises(HubError, match="no revision 'v3'"):
        pull(revision="v3")


def test_pull_requests(hub, neurons):
    push(neurons)
    hub.login(hub.add_token("bob"))
    with pytest.raises(HubError, match=r"403.*create_pr=True"):
        push(make_set(1))
    made = push(make_set(1), create_pr=True)
    assert made.pr_url == f"{hub.url}/ann/set/discussions/1"
    assert pull() == neurons and pull(revision="refs/pr/1") == make_set(1)
    repo = hub.repo("ann/set")
    repo.merge(repo.pulls[1], "ann")
    assert pull() == make_set(1)


def test_several_sets_in_one_repository(hub, neurons):
    push(neurons, subfolder="lape")
    push(make_set(1), subfolder="more/deep/")
    files = hub.repo("ann/set").files()
    assert {"lape/README.md", "more/deep/README.md", "README.md"} < set(files)
    assert pull(subfolder="lape") == neurons and pull(subfolder="/more/deep") == make_set(1)
    assert 'from_pretrained("ann/set", subfolder="lape")' in files["lape/README.md"].decode()
    index = files["README.md"].decode()
    assert validate(index) == ([], []) and "2 neuron sets" in index
    for name in ("lape", "more/deep"):
        assert f'from_pretrained("ann/set", subfolder="{name}")' in index
    with pytest.raises(ArtifactError, match="subfolder='lape', subfolder='more/deep'"):
        pull()
    with pytest.raises(ArtifactError, match="subfolder='lape'"):
        pull(subfolder="lope")
    push(make_set(2), subfolder="lape")
    assert pull(subfolder="lape") == make_set(2) and pull(subfolder="more/deep") == make_set(1)
    push(make_set(3))
    assert (
        pull() == make_set(3) and "## Counts" in hub.repo("ann/set").files()["README.md"].decode()
    )


@pytest.mark.parametrize("subfolder", ["..", "a/../b", "a//b", "./a", ".git"])
def test_a_subfolder_stays_inside(hub, neurons, subfolder):
    for call in (push, lambda _set, **options: pull(**options)):
        with pytest.raises(HubError, match="not a folder inside a repository"):
            call(neurons, subfolder=subfolder)


def test_a_local_path_is_not_published(hub):
    push(make_set(base_model="/home/ann/models/base"))
    assert b"/home/ann" not in b"".join(hub.repo("ann/set").files().values())
    assert pull().base_model is None


# -- what belongs to somebody else -------------------------------------------------------------


def test_own_words_in_a_card_and_a_chosen_licence_are_kept(hub, neurons):
    own = b"---\nlicense: mit\n---\n# My words\n"
    hub.server.make_repo("ann/set", {"README.md": own})
    push(neurons)
    assert hub.repo("ann/set").files()["README.md"] == own and pull() == neurons
    hub.server.make_repo("ann/empty", {"README.md": b"---\nlicense: cc-by-4.0\n---\n"})
    push(neurons, "ann/empty")
    push(make_set(1), "ann/empty")
    text = hub.repo("ann/empty").files()["README.md"].decode()
    assert ModelCard(text).data.license == "cc-by-4.0" and "## Counts" in text


def test_other_files_are_left_alone(hub, neurons):
    other = {"notes.txt": b"mine", "lape/adapter_config.txt": b"x"}
    hub.server.make_repo("ann/set", other)
    push(neurons)
    push(make_set(1))
    assert other.items() <= hub.repo("ann/set").files().items()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}", "model.safetensors": b"0"}, "holds a full model"),
        ({CONFIG: b'{"peft_type": "LORA"}'}, "holds a PEFT adapter"),
    ],
)
def test_a_model_or_an_adapter_is_not_turned_into_a_set(hub, neurons, files, message):
    hub.server.make_repo("ann/set", files)
    with pytest.raises(HubError, match=f"{message}.*Nothing was uploaded.*subfolder="):
        push(neurons)
    assert hub.repo("ann/set").files() == files
    push(neurons, subfolder="neurons")
    assert pull(subfolder="neurons") == neurons
    assert files.items() <= hub.repo("ann/set").files().items()


def test_ignored_files_are_noticed_before_the_commit(hub, neurons):
    hub.server.make_repo("ann/set", {".gitignore": b"*.safetensors\n"})
    with pytest.raises(HubError, match=r"\.gitignore .*excludes neurons\.safetensors"):
        push(neurons)
    assert len(hub.repo("ann/set").pushes) == 1
    hub.server.make_repo("ann/ok", {".gitignore": b"*.log\n"})
    push(neurons, "ann/ok")
    assert pull("ann/ok") == neurons


# -- cache -------------------------------------------------------------------------------------


def test_a_hub_that_cannot_be_reached_is_asked_once(hub, neurons, monkeypatch, caplog, tmp_path):
    neurons.push_to_hub("ann/set")
    NeuronSet.from_pretrained("ann/set")
    (tmp_path / "ann" / "sett").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    # The client would wait 1, 2, 4, 8 and 8 seconds between its own tries.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _s: pytest.fail("waited"))
    with hub.down():
        assert NeuronSet.from_pretrained("ann/set") == neurons
        hub.fresh_cache()
        with pytest.raises(HubError, match="was not reached.*Did you mean 'sett'"):
            NeuronSet.from_pretrained("ann/set")
        with pytest.raises(HubError, match="was not reached"):
            Stats.from_pretrained("ann/stats")
        with pytest.raises(HubError, match="was not reached"):
            fetch("gpt2", filenames=["config.json"], ownerless=True)
    assert "Retrying" not in caplog.text


def test_a_name_without_owner_is_asked_for_only_as_a_model(hub, tmp_path, monkeypatch):
    (tmp_path / "neurons").mkdir()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    for load in (NeuronSet.from_pretrained, Stats.from_pretrained):
        with pytest.raises(HubError, match="No folder 'neuron'.*Did you mean 'neurons'"):
            load("neuron")
    before = len(hub.server.requests)
    with pytest.raises(HubError, match="No folder 'nothing'") as found:
        NeuronSet.from_pretrained("nothing")
    assert "Did you mean" not in str(found.value) and len(hub.server.requests) == before
    with pytest.raises(HubError, match="No folder and no Hub repository.*Did you mean 'neurons'"):
        fetch("neuron", filenames=["config.json"], ownerless=True)


def test_offline_with_a_warm_cache(hub, neurons, tmp_path):
    push(neurons)
    assert pull() == neurons
    with hub.offline():
        assert pull() == neurons
    with hub.down():
        assert pull() == neurons
        assert pull(local_files_only=True) == neurons
        with pytest.raises(HubError, match="not in the download cache.*network, proxy"):
            pull(cache_dir=tmp_path)
        with pytest.raises(HubError, match="not in the download cache.*local_files_only"):
            pull(cache_dir=tmp_path, local_files_only=True)
        with pytest.raises(HubError, match="cannot be reached"):
            push(neurons)
    with hub.offline(), pytest.raises(HubError, match="not in the download cache"):
        pull(cache_dir=tmp_path)
    assert pull(cache_dir=tmp_path) == neurons
    with hub.down(), pytest.raises(HubError, match="cannot be reached|not reached"):
        pull(force_download=True)


def test_a_commit_needs_no_network_once_it_is_cached(hub, neurons):
    push(neurons)
    oid = hub.repo("ann/set").branches["main"]
    pull(revision=oid)
    before = len(hub.server.requests)
    assert pull(revision=oid) == neurons and len(hub.server.requests) == before


def test_both_files_come_from_one_commit(hub, neurons, monkeypatch):
    push(neurons)
    repo = hub.repo("ann/set")
    first = repo.branches["main"]
    push(make_set(1))
    second, repo.branches["main"] = repo.branches["main"], first

    def moved(entry):
        # The branch moves after the first file was asked for.
        if CONFIG in entry.path and entry.method == "GET":
            repo.branches["main"] = second
        return False

    hub.faults.add(moved, "drop")
    assert pull() == neurons and pull() == make_set(1)


def test_a_damaged_cache_is_repaired(hub, neurons):
    push(neurons)
    pull()
    for name in (CONFIG, TENSORS):
        (link,) = hub.cache.rglob(name)
        blob = link.resolve()
        blob.write_bytes(blob.read_bytes().replace(b"mean", b"mane"))
        with pytest.raises(HubError, match="cached copy of .* is damaged"):
            pull(local_files_only=True)
        assert pull() == neurons


def test_a_damaged_folder_is_refused(tmp_path, neurons):
    neurons.save_pretrained(tmp_path)
    columns = load_file(tmp_path / TENSORS)
    columns["score"][3] += 1
    metadata = {"neuronsteer_fingerprint": neurons.fingerprint}
    save_file(columns, tmp_path / TENSORS, metadata=metadata)
    with pytest.raises(ArtifactError, match="'fingerprint'.*damaged, or changed by hand"):
        pull(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    del config["neuronsteer"]["fingerprint"]
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="'fingerprint'"):
        pull(tmp_path)


# -- what is said ------------------------------------------------------------------------------


def test_who_may_not_is_told_how(hub, neurons):
    push(neurons, private=True)
    stranger, reader = hub.add_token("bob"), hub.add_token("ann", "read")
    hub.fresh_cache()
    for token in (stranger, False):
        with pytest.raises(HubError, match="or it is private.*hf auth login"):
            pull(token=token)
    with pytest.raises(HubError, match=r"lacks the permission to write.*hf auth login"):
        push(make_set(1), token=reader)
    with pytest.raises(HubError, match="token has expired.*settings/tokens"):
        pull(token=hub.add_token("ann", expired=True))
    with pytest.raises(HubError, match="token has expired"):
        push(neurons, token=hub.add_token("ann", expired=True))
    with pytest.raises(HubError, match=r"refuses access .*\(401\)|or it is private"):
        pull(token="hf_invented_token")
    hub.repo("ann/set").visibility = "public"
    hub.repo("ann/set").gated = "manual"
    with pytest.raises(HubError, match="gated: accept its terms at .*ann/set.*hf auth login"):
        pull(token=stranger)
    hub.repo("ann/set").granted.add("bob")
    assert pull(token=stranger) == neurons


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_another_kind_of_repository(hub, kind):
    hub.server.make_repo("ann/data", {"a.txt": b"x"}, type=kind)
    with pytest.raises(HubError, match=f"'ann/data' is a {kind}; expected a model"):
        pull("ann/data")
    for name in (f"{kind}s/ann/data", f"https://huggingface.co/{kind}s/ann/data"):
        with pytest.raises(HubError, match=f"one of the {kind}s"):
            pull(name)


def test_an_address_is_no_repository_id(hub, neurons):
    for call in (pull, lambda name: push(neurons, name)):
        with pytest.raises(HubError, match="address; pass the repository id 'ann/set'"):
            call("https://huggingface.co/ann/set/tree/main")
    with pytest.raises(HubError, match="cannot be a Hub repository id"):
        push(neurons, "a/b/c")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}"}, "full model.*AutoModelForCausalLM.from_pretrained"),
        (
            {CONFIG: b'{"peft_type": "LORA"}', "adapter_model.safetensors": b"x"},
            r"PEFT adapter of type LORA.*PeftModel\.from_pretrained",
        ),
        ({"model-q4.gguf": b"x"}, "GGUF"),
        ({"stats.json": b"{}"}, "statistics"),
        ({"mask.pth": b"x"}, "neuronsteer convert"),
        ({}, "not a neuron set"),
    ],
)
def test_another_kind_of_content(hub, files, message):
    hub.server.make_repo("ann/set", files)
    with pytest.raises(ArtifactError, match=f"Cannot load 'ann/set'.*{message}"):
        pull()


def test_one_label_of_a_set_is_no_set(hub, neurons):
    neurons.push_to_hub("ann/set")
    with pytest.raises(ArtifactError, match="one label of a neuron set.*folder above"):
        pull(subfolder="lang_fr")


def test_a_set_that_lacks_a_file(hub, neurons):
    push(neurons)
    files = hub.repo("ann/set").files()
    hub.server.make_repo("ann/half", {CONFIG: files[CONFIG]})
    with pytest.raises(HubError, match=f"has no file '{TENSORS}'"):
        pull("ann/half")


def test_no_secret_is_told(hub, neurons, caplog):
    caplog.set_level(logging.DEBUG, "neuronsteer")
    push(neurons, private=True)
    tokens = [hub.token, hub.add_token("bob"), "hf_inventedtoken"]
    messages, traces = [], []
    for kind in ("server_error", "drop", "expired_token"):
        for match in ("GET storage", "POST .*/commit/", "PUT storage", "."):
            hub.faults.clear()
            hub.faults.add(match, kind, times=None)
            for number, token in enumerate(tokens):
                hub.fresh_cache()
                other = make_set(len(messages) + 1)
                for call in (pull, lambda token, other=other: push(other, token=token)):
                    if call is pull or number < 2:
                        with contextlib.suppress(HubError) as _, _noted(messages, traces):
                            call(token=token)
    assert len(messages) > 20
    told = "\n".join(messages) + "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("neuronsteer")
    )
    assert "X-Amz" not in told
    assert not [token for token in tokens if token in told + "\n".join(traces)]


@contextlib.contextmanager
def _noted(messages, traces):
    try:
        yield
    except HubError as error:
        messages.append(str(error))
        traces += traceback.format_exception(error)
        raise
