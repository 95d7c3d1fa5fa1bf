"""Spaces on the Hub: made, updated, and never at the cost of somebody else's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml
from huggingface_hub import HfApi, SpaceCardData, metadata_load

from neuronsteer.cli import main
from neuronsteer.errors import HubError, ParameterError
from neuronsteer.space.publish import publish, requirement, space_files

from .conftest import PATIENCE

pytest_plugins = ("tests.hub_server.fixtures",)

FILES = {"README.md", "app.py", "requirements.txt"}
REPOSITORY = Path(__file__).resolve().parents[2]


def front_matter(readme: bytes) -> dict:
    return yaml.safe_load(readme.decode().split("---")[1])


def test_the_files_in_the_repository_are_those_of_the_command():
    made = space_files(repo_id="owner/neuronsteer")
    there = {file.name: file.read_bytes() for file in (REPOSITORY / "spaces_app").iterdir()}
    there = {name: data for name, data in there.items() if name in FILES}
    assert there == made, "run: neuronsteer space owner/neuronsteer -o spaces_app"


def test_front_matter_is_what_spaces_read():
    import gradio

    found = front_matter(space_files("a/model", "a/set", title='Say "hi": x')["README.md"])
    assert found["sdk"] == "gradio" and found["app_file"] == "app.py"
    assert found["title"] == 'Say "hi": x'
    assert found["models"] == ["a/model", "a/set"]
    assert len(found["short_description"]) <= 60
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {found["colorFrom"], found["colorTo"]} <= colours
    # The version that Spaces install is one that this code was written for.
    assert found["sdk_version"].split(".")[0] == gradio.__version__.split(".")[0]
    SpaceCardData(**found)


def test_the_package_has_a_fixed_version():
    line = space_files()["requirements.txt"].decode().strip()
    assert re.fullmatch(r"neuronsteer\[space\]==\d+\.\d+\.\S+", line) and line == requirement()
    other = "neuronsteer[space] @ https://example.org/neuronsteer-1-py3-none-any.whl"
    assert space_files(package=other)["requirements.txt"].decode() == other + "\n"


@pytest.mark.parametrize(
    ("model", "neurons"), [("a/model", "demo"), ("/tmp/model", "a/set"), ("a/model", "./set")]
)
def test_what_a_space_could_not_load_is_refused(model, neurons):
    with pytest.raises(ParameterError):
        space_files(model, neurons)


def test_the_app_is_python_that_names_model_and_set():
    text = space_files("a/model", "a/set")["app.py"].decode()
    compile(text, "app.py", "exec")
    assert 'model="a/model", neurons="a/set"' in text


def test_tools_for_agents_are_asked_for():
    files = space_files(mcp=True)
    assert 'from_environment(model="demo", neurons="demo", mcp=True)' in files["app.py"].decode()
    assert files["requirements.txt"].decode().startswith("neuronsteer[space,mcp]==")


def test_the_app_in_the_repository_serves_the_page(tmp_path):
    # Without a port: a free one that is looked for here may be taken by the time it is used. On
    # Spaces (SPACE_ID) the port is fixed.
    ours = ("NEURONSTEER", "GRADIO", "SPACE_ID")
    env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    env |= {"GRADIO_SERVER_NAME": "127.0.0.1", "NEURONSTEER_SPACE_PUBLIC": "1"}
    app = subprocess.Popen(
        [sys.executable, REPOSITORY / "spaces_app" / "app.py"],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        # A process started in the background inherits that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        url = app.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        answer = json.loads(urllib.request.urlopen(f"{url}/welcome", timeout=PATIENCE).read())
        assert answer["settings"]["public"] and answer["settings"]["model"] == "demo"
        assert b"<title>neuronsteer" in urllib.request.urlopen(url, timeout=PATIENCE).read()
        app.send_signal(signal.SIGINT)
        assert app.wait(PATIENCE) == 0
    finally:
        app.kill()


def test_a_space_is_made_and_updated(hub):
    url = publish("ann/play")
    assert url.endswith("/spaces/ann/play")
    repo = hub.repo("ann/play", "space")
    assert repo.space["sdk"] == "gradio" and len(repo.pushes) == 1
    assert set(HfApi().list_repo_files("ann/play", repo_type="space")) >= FILES
    HfApi().upload_file(
        path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="ann/play", repo_type="space"
    )
    publish("ann/play", "a/model", "a/set", title="Other", hardware="zero-a10g")
    there = set(HfApi().list_repo_files("ann/play", repo_type="space"))
    assert FILES | {"notes.txt"} <= there
    card = HfApi().hf_hub_download("ann/play", "README.md", repo_type="space")
    assert metadata_load(card)["title"] == "Other"
    assert repo.space["hardware"] == "zero-a10g"


def test_private_spaces(hub):
    publish("ann/secret", private=True)
    assert hub.repo("ann/secret", "space").private


def test_somebody_elses_space_is_left_alone(hub):
    api = HfApi()
    api.create_repo("ann/game", repo_type="space", space_sdk="gradio")
    api.upload_file(
        path_or_fileobj=b"print()", path_in_repo="app.py", repo_id="ann/game", repo_type="space"
    )
    with pytest.raises(HubError, match="something else"):
        publish("ann/game")
    api.create_repo("ann/page", repo_type="space", space_sdk="static")
    with pytest.raises(HubError, match="static"):
        publish("ann/page")


def test_without_permission_nothing_is_made(hub):
    hub.login(hub.add_token("bob"))
    with pytest.raises(HubError, match="refuses"):
        publish("ann/play")
    hub.login(None)
    with pytest.raises(HubError):
        publish("ann/play")


def test_the_command(hub, monkeypatch, capsys, tmp_path):
    def call(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["neuronsteer", "space", *args])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0)

    assert call("ann/play", "--title", "Play") == 0
    out, err = capsys.readouterr()
    assert out.strip().endswith("/spaces/ann/play") and "Traceback" not in err
    assert call("ann/play", "--model", "a/model") == 2
    assert "belong together" in capsys.readouterr().err
    assert call("ann/play", "-o", str(tmp_path / "app")) == 0
    assert {file.name for file in (tmp_path / "app").iterdir()} == FILES
    assert hub.token not in "".join(capsys.readouterr())
