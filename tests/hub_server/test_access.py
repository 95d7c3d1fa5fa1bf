"""Who may see and change what on the test Hub, through the unmodified client."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi, create_repo, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from tests.hub_server.samples import FILES, WEIGHTS, get, pushed, write_folder

pytest_plugins = ("tests.hub_server.fixtures",)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "folder")


def test_private_repositories_do_not_exist_for_others(hub):
    hub.server.make_repo("ann/hidden", FILES, private=True)
    assert get("neurons.safetensors", "ann/hidden") == WEIGHTS
    for token, status in ((hub.add_token("bob"), 404), (None, 401)):
        hub.login(token)
        hub.fresh_cache()
        for call in (hf_hub_download, HfApi().get_paths_info):
            with pytest.raises(RepositoryNotFoundError) as caught:
                call("ann/hidden", "README.md")
            assert caught.value.response.status_code == status
        with pytest.raises(RepositoryNotFoundError) as caught:
            snapshot_download("ann/missing")
        assert caught.value.response.status_code == status


def test_visibility_can_change(hub):
    hub.server.make_repo("ann/set", FILES)
    HfApi().update_repo_settings("ann/set", private=True, gated="auto")
    assert HfApi().model_info("ann/set").private and hub.repo("ann/set").gated == "auto"


def test_gated_repositories_show_names_and_withhold_contents(hub):
    repo = hub.server.make_repo("meta/gated", FILES, gated="manual")
    for token, status in ((hub.token, 403), (None, 401)):
        hub.login(token)
        assert HfApi().model_info("meta/gated").gated == "manual"
        with pytest.raises(GatedRepoError, match="is restricted") as caught:
            hf_hub_download("meta/gated", "neurons.safetensors")
        assert caught.value.response.status_code == status
    hub.login(hub.add_token("ann", "read"))
    HfApi(token=hub.add_token("meta")).grant_access("meta/gated", "ann")
    assert repo.granted == {"ann"}
    assert get("neurons.safetensors", "meta/gated") == WEIGHTS
    HfApi().auth_check("meta/gated")


def test_organisation_members_write_and_readers_do_not(hub):
    hub.server.accounts.add_org("lab", "ann")
    create_repo("lab/set")
    assert HfApi().whoami()["orgs"][0]["name"] == "lab"
    for token in (hub.add_token("ann", "read"), hub.add_token("bob")):
        with pytest.raises(HfHubHTTPError, match="don't have the rights") as caught:
            create_repo("lab/other", token=token)
        assert caught.value.response.status_code == 403
        with pytest.raises(HfHubHTTPError) as caught:
            HfApi(token=token).delete_repo("lab/set")
        assert caught.value.response.status_code == 403


def test_bad_and_expired_tokens(hub, folder):
    pushed(folder)
    hub.login("hf_invented")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi().whoami()
    with pytest.raises(HfHubHTTPError, match="Invalid credentials in Authorization header"):
        hf_hub_download("ann/set", "README.md")
    hub.login(hub.add_token("ann", expired=True))
    # The client takes any other 401 about a repository for a missing one, even with this text.
    with pytest.raises(RepositoryNotFoundError, match="is expired"):
        hf_hub_download("ann/set", "README.md")
    with pytest.raises(HfHubHTTPError, match="is expired"):
        create_repo("ann/other")
