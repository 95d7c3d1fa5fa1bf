"""The same journey on the real Hub, for whoever has a token and asks for it.

    NEURONSTEER_NETWORK_TESTS=1 HF_TOKEN=… python -m pytest -m network tests/hub/test_hub_network.py

Makes a private repository with a random name under the token's owner and deletes it again. In a
process of its own, because the test run itself is offline.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sharing import make_set

JOURNEY = """
import secrets, sys, tempfile
from huggingface_hub import HfApi
from neuronsteer import NeuronSet
from neuronsteer.errors import ArtifactError, HubError

def refused(call, kind, text):
    try:
        call()
    except kind as error:
        assert text in str(error), str(error)
    else:
        raise AssertionError(f"not refused: {text}")

api = HfApi()
repo = f"{api.whoami()['name']}/neuronsteer-test-{secrets.token_hex(4)}"
first = NeuronSet.from_pretrained(sys.argv[1])
second = first.without("ja")
try:
    print(first.push_to_hub(repo, private=True, peft=False))
    def pull(**options):
        with tempfile.TemporaryDirectory() as cache:
            return NeuronSet.from_pretrained(repo, cache_dir=cache, **options)
    assert pull() == first
    assert len(api.list_repo_commits(repo)) == 2
    second.push_to_hub(repo, subfolder="two", peft=False)
    second.push_to_hub(repo, revision="other", peft=False)
    assert second.push_to_hub(repo, create_pr=True, peft=False).pr_url.endswith("/discussions/1")
    assert pull() == first and pull(subfolder="two") == second
    assert pull(revision="other") == second == pull(revision="refs/pr/1")
    refused(lambda: pull(revision="none"), HubError, "no revision")
    refused(lambda: pull(token=False), HubError, "private")
    with tempfile.TemporaryDirectory() as cache:
        NeuronSet.from_pretrained(repo, cache_dir=cache)
        again = NeuronSet.from_pretrained(repo, cache_dir=cache, local_files_only=True)
        assert again == first
    refused(lambda: NeuronSet.from_pretrained("openai-community/gpt2"), ArtifactError, "full model")
    refused(lambda: NeuronSet.from_pretrained("rajpurkar/squad"), HubError, "dataset")
finally:
    api.delete_repo(repo, missing_ok=True)
"""


@pytest.mark.network
@pytest.mark.skipif(
    os.environ.get("NEURONSTEER_NETWORK_TESTS") != "1" or not os.environ.get("HF_TOKEN"),
    reason="needs NEURONSTEER_NETWORK_TESTS=1 and HF_TOKEN",
)
def test_the_journey_on_the_real_hub(tmp_path):
    make_set().save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", JOURNEY, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "0"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
