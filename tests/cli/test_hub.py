"""Push, pull and show against a Hub, and what is said when it does not work."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from neuronsteer.hub import errors as hub_errors
from neuronsteer.neuron_set import NeuronSet, card

pytest_plugins = ("tests.hub_server.fixtures",)


@pytest.fixture(autouse=True)
def _quick(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(hub_errors, "sleep", hub.sleep)
    monkeypatch.setattr(card, "draw_layers", lambda _layers: b"\x89PNG\0")
    monkeypatch.chdir(tmp_path)


def test_push_show_pull(hub, disk, call):
    pushed = call("push", disk.set, "ann/set", "--message", "Mine")
    assert pushed.code == 0, pushed.err
    oid = hub.repo("ann/set").resolve("main").oid
    assert pushed.out.strip() == f"{hub.url}/ann/set/commit/{oid}"
    assert "neuronsteer show ann/set" in pushed.err
    assert hub.repo("ann/set").pushes[-1].title == "Mine"
    hub.fresh_cache()
    hub.login(hub.add_token("bob", "read"))
    shown = call("show", "ann/set", "--json")
    assert json.loads(shown.out)["labels"] == ["en", "fr", "ja"]
    pulled = call("pull", "ann/set")
    assert pulled.out.strip() == "set" and pulled.code == 0
    assert NeuronSet.from_pretrained("set").fingerprint == json.loads(shown.out)["fingerprint"]
    assert {path.name for path in Path("set").iterdir()} == {
        "adapter_config.json",
        "neurons.safetensors",
        "README.md",
        "layer_profile.png",
    }
    assert 'from_pretrained("ann/set")' in Path("set/README.md").read_text("utf-8")
    assert call("pull", "ann/set").code == 2
    assert call("pull", "ann/set", "--overwrite").code == 0


def test_card_and_picture_are_of_the_same_commit_as_the_set(hub, disk, call):
    """Wherever the branch moves while they are fetched one after the other."""
    rows = NeuronSet.from_pretrained(disk.set)
    repo, fingerprints, commits = None, {}, []
    for each in (rows, rows.only("fr")):
        each.push_to_hub("ann/set", peft=False)
        repo = hub.repo("ann/set")
        commits.append(repo.branches["main"])
        fingerprints[repo.files()["README.md"]] = each.fingerprint
    seen = set()
    for moment in range(1, 99):
        count, repo.branches["main"] = 0, commits[0]

        def moves(entry, moment=moment):
            nonlocal count
            count += 1
            if count == moment:
                repo.branches["main"] = commits[1]
            return False

        hub.faults.clear()
        hub.fresh_cache()
        hub.faults.add(moves, "drop")
        assert call("pull", "ann/set", "-o", f"at{moment}").code == 0
        found = NeuronSet.from_pretrained(f"at{moment}").fingerprint
        assert fingerprints[Path(f"at{moment}/README.md").read_bytes()] == found
        seen.add(found)
        if count < moment:
            break
    assert len(seen) == 2


def test_options(hub, disk, call):
    told = call("push", disk.set, "ann/set", "--private", "--subfolder", "a/b", "--json", "-q")
    assert json.loads(told.out)["url"].startswith(hub.url) and told.err == ""
    assert hub.repo("ann/set").private
    token = hub.token
    hub.fresh_cache()
    hub.login(None)
    where = ("ann/set", "--subfolder", "a/b")
    assert call("show", *where).code == 2
    assert call("show", *where, "--token", token).code == 0
    assert call("pull", *where, "--token", token, "--peft", "-o", "x/y").code == 0
    assert Path("x/y/adapter_model.safetensors").exists()
    branch = call("push", "x/y", "ann/set", "--revision", "v2", "--token", token)
    assert branch.code == 0 and "neurons.safetensors" in hub.repo("ann/set").files("v2")
    assert call("show", "ann/set", "--revision", "v2", "--token", token).code == 0
    proposed = call("push", "x/y", "ann/set", "--create-pr", "--token", token)
    assert proposed.out.strip().endswith("/ann/set/discussions/1")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("show ann/none", "or it is private.*hf auth login"),
        ("pull ann/none", "or it is private.*hf auth login"),
        ("show ann/model", "full model.*AutoModelForCausalLM"),
        ("pull ann/model", "full model.*AutoModelForCausalLM"),
        ("pull https://huggingface.co/ann/set", "pass the repository id 'ann/set'"),
        ("show https://huggingface.co/ann/set", "pass the repository id 'ann/set'"),
        ("push @set ann/model", "holds a full model.*Nothing was uploaded"),
        ("push @set bob/set", "lacks the permission to write"),
        ("push ./nowhere ann/set", "No folder './nowhere'"),
        ("pull ann/model -o full", "holds letter.txt; expected a place for a neuron set"),
    ],
)
def test_what_does_not_work(hub, disk, call, line, message):
    hub.add_token("bob")
    hub.server.make_repo("ann/model", {"config.json": b"{}"})
    Path("full").mkdir()
    Path("full/letter.txt").write_text("mine")
    done = call(*line.replace("@set", disk.set).split())
    assert done.code == 2 and done.out == ""
    assert re.search(message, done.err), done.err
    assert hub.token not in done.err


def test_offline(hub, disk, call):
    assert call("push", disk.set, "ann/set").code == 0
    assert call("pull", "ann/set").code == 0
    shutil.rmtree("set")
    with hub.down():
        assert call("pull", "ann/set").code == 0
        assert call("push", disk.set, "ann/set").code == 2
    with hub.offline():
        assert call("pull", "ann/set", "-o", "again").code == 0
    assert NeuronSet.from_pretrained("again") == NeuronSet.from_pretrained("set")
