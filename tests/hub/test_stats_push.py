"""Statistics on a Hub: pushed as sets are, with the same words."""

from __future__ import annotations

import contextlib
import io
import re

import pytest
from huggingface_hub import CommitInfo, ModelCard

from neuronsteer.errors import HubError, ParameterError
from neuronsteer.neuron_set import card
from neuronsteer.stats import Stats
from tests.hub_server.cards import validate
from tests.sharing import make_set, make_stats, same_stats

pytest_plugins = ("tests.hub_server.fixtures",)


def pull(repo_id="ann/stats", **options):
    return Stats.from_pretrained(repo_id, **options)


def test_push_then_pull_with_an_empty_cache_and_another_token(hub):
    made = make_stats().push_to_hub("ann/stats")
    assert isinstance(made, CommitInfo)
    assert made.oid == hub.repo("ann/stats").resolve("main").oid
    hub.fresh_cache()
    hub.login(None)
    assert same_stats(pull(), make_stats())
    repo = hub.repo("ann/stats")
    assert set(repo.files()) == {"stats.json", "stats.safetensors", "README.md"}
    assert [commit.title for commit in repo.pushes] == ["Upload statistics of neurons (en, fr, ja)"]


def test_saving_can_push_as_in_transformers(hub, tmp_path):
    stats = make_stats()
    folder = stats.save_pretrained(tmp_path / "stats", push_to_hub=True, private=True)
    assert same_stats(Stats.from_pretrained(folder), stats) and same_stats(pull(), stats)
    assert hub.repo("ann/stats").private
    options = {"repo_id": "ann/other", "commit_message": "Two", "token": hub.add_token("ann")}
    stats.save_pretrained(folder, push_to_hub=True, **options)
    assert [commit.title for commit in hub.repo("ann/other").pushes] == ["Two"]
    with pytest.raises(ParameterError, match="Only push_to_hub=True takes repo_id, token"):
        stats.save_pretrained(tmp_path / "none", repo_id="ann/stats", token="hf_x")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ParameterError, match=r"'privat'.*Did you mean 'private'"):
        stats.push_to_hub("ann/stats", privat=True)


def test_branches_folders_and_pull_requests(hub):
    make_stats().push_to_hub("ann/stats")
    make_stats(1).push_to_hub("ann/stats", revision="v2", subfolder="more")
    assert same_stats(pull(), make_stats())
    assert same_stats(pull(revision="v2", subfolder="more"), make_stats(1))
    text = hub.repo("ann/stats").files("v2")["more/README.md"].decode()
    assert 'from_pretrained("ann/stats", subfolder="more", revision="v2")' in text
    made = make_stats(2).push_to_hub("ann/stats", create_pr=True)
    assert made.pr_url == f"{hub.url}/ann/stats/discussions/1"
    assert same_stats(pull(revision="refs/pr/1"), make_stats(2))


def test_the_card_is_valid_and_its_code_runs(hub):
    make_stats().push_to_hub("ann/stats")
    text = hub.repo("ann/stats").files()["README.md"].decode()
    assert validate(text) == ([], [])
    data = ModelCard(text).data.to_dict()
    assert data["library_name"] == "neuronsteer" and card.STATISTICS in data["tags"]
    assert data["language"] == ["en", "fr", "ja"]
    # The Hub would take the repository for a model made from that one.
    assert not {"base_model", "pipeline_tag", "license"} & set(data)
    (block,) = re.findall(r"```python\n(.*?)```", text, re.S)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(block, "README.md", "exec"), {})
    assert out.getvalue().startswith("Stats(en 100, fr 100, ja 100")


def test_own_words_and_a_chosen_licence_are_kept(hub):
    own = b"---\nlicense: mit\n---\n# My words\n"
    hub.server.make_repo("ann/stats", {"README.md": own})
    make_stats().push_to_hub("ann/stats")
    assert hub.repo("ann/stats").files()["README.md"] == own
    hub.server.make_repo("ann/empty", {"README.md": b"---\nlicense: cc-by-4.0\n---\n"})
    make_stats().push_to_hub("ann/empty")
    text = hub.repo("ann/empty").files()["README.md"].decode()
    assert ModelCard(text).data.license == "cc-by-4.0" and "Stats.from_pretrained" in text


def test_labels_are_no_markup(hub):
    stats = make_stats()
    odd = "fr|<b>\n## x"
    renamed = Stats(
        **{
            **vars(stats),
            "labels": ("en", odd, "ja"),
            "tokens": dict(zip(("en", odd, "ja"), stats.tokens.values(), strict=True)),
            "texts": dict(zip(("en", odd, "ja"), stats.texts.values(), strict=True)),
            "header": {"calibration": {}},
        }
    )
    renamed.push_to_hub("ann/stats")
    text = hub.repo("ann/stats").files()["README.md"].decode()
    assert validate(text) == ([], []) and r"fr\|&lt;b&gt; \#\# x" in text
    assert hub.repo("ann/stats").pushes[0].title == (
        "Upload statistics of neurons (en, fr|<b> ## x, ja)"
    )


def test_a_local_path_is_not_published(hub):
    stats = make_stats()
    header = {**stats.header, "base_model": "/home/ann/models/base"}
    Stats(**{**vars(stats), "header": header}).push_to_hub("ann/stats")
    assert b"/home/ann" not in b"".join(hub.repo("ann/stats").files().values())
    assert pull().base_model is None


def test_a_set_is_not_turned_into_statistics(hub):
    make_set().push_to_hub("ann/set", peft=False)
    before = hub.repo("ann/set").files()
    with pytest.raises(HubError, match=r"holds a neuron set.*Nothing was uploaded.*subfolder="):
        make_stats().push_to_hub("ann/set")
    assert hub.repo("ann/set").files() == before
    make_stats().push_to_hub("ann/set", subfolder="stats")
    assert same_stats(pull("ann/set", subfolder="stats"), make_stats())
    assert before.items() <= hub.repo("ann/set").files().items()
    hub.server.make_repo("ann/model", {"config.json": b"{}"})
    with pytest.raises(HubError, match="holds a full model"):
        make_stats().push_to_hub("ann/model")
