"""What SKILL.md tells coding agents runs as written, in the order in which it stands there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .cli.conftest import Result, call
from .documents import MODEL, ROOT, blocks, languages, newcomer

__all__ = ["call", "newcomer"]

pytest_plugins = ("tests.hub_server.fixtures",)

SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")


def test_every_block_runs(
    newcomer: Path, hub: Any, call: Callable[..., Result], capsys: pytest.CaptureFixture[str]
):
    names: dict[str, Any] = {}
    found = re.findall(r"^```(\w+)\n(.*?)^```", SKILL, flags=re.MULTILINE | re.DOTALL)
    assert {language for language, _ in found} == {"bash", "python", "text"}
    said = ""
    for language, block in found:
        if language == "text":
            assert said == block
        elif language == "python":
            capsys.readouterr()
            exec(compile(block.replace(MODEL, "model"), "SKILL.md", "exec"), names)
            said = capsys.readouterr().out
        else:
            for line in block.strip().splitlines():
                # `ann` is who is logged in on the imitation of the Hub.
                line = line.replace(MODEL, "model").replace("user/", "ann/")
                done = call(*shlex.split(line, comments=True)[1:])
                assert done.code == 0, (line, done.err)
    new = names["french"][:, names["batch"]["input_ids"].shape[1] :]
    assert languages(names["tok"].batch_decode(new, skip_special_tokens=True)) == ["fr", "fr"]
    assert "model-index" in Path("language-neurons", "README.md").read_text("utf-8")
    assert Path("pulled", "neurons.safetensors").is_file()
    assert hub.repo("ann/model-language-neurons").private


def test_the_front_matter_is_what_agents_read():
    front = yaml.safe_load(SKILL.split("---")[1])
    assert front["name"] == "neuronsteer" and 0 < len(front["description"]) <= 1024
    for name in re.findall(r"`((?:docs/)?[\w-]+\.md)`", SKILL):
        assert (ROOT / name).exists() or name == "report.md", name
    # What is not a block is not run: commands in sentences must at least exist.
    assert len(blocks(SKILL, "bash")) == 3 and len(blocks(SKILL, "python")) == 3
