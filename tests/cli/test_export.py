"""`export` and `bake` write what they say, read little, and explain what they cannot do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import neuronsteer as ns

from ..tiny_models import tiny_ids
from .conftest import Disk, Result

Call = Callable[..., Result]


def test_bake_writes_the_steered_model(disk: Disk, call: Call, tmp_path: Path):
    out = str(tmp_path / "fr")
    done = call(*f"bake {disk.model} {disk.set} --to fr --operation set -o {out} --json".split())
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert (told["path"], told["format"]) == (out, "baked")
    assert "model.safetensors" in told["files"]
    assert "mlp_bias" in told["notes"][0]
    model = AutoModelForCausalLM.from_pretrained(disk.model).eval()
    baked = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad(), ns.attach(model, disk.set) as steer:
        steer.to("fr", operation="set")
        torch.testing.assert_close(baked(tiny_ids()).logits, model(tiny_ids()).logits)


def test_export_as_the_readme_types_it(disk: Disk, call: Call, tmp_path: Path):
    out = tmp_path / "fr"
    common = f"export {disk.set} --model {disk.model} --to fr -o {out}"
    done = call(*f"{common} --format ia3 --operation zero".split())
    assert done.code == 0
    assert "zero the neurons of fr" in done.err
    assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "IA3"
    # The second run must not replace the first unasked.
    done = call(*f"{common} --format lora --operation scale --value 2".split())
    assert done.code == 2
    assert "--overwrite" in done.err
    done = call(*f"{common} --format lora --operation scale --value 2 --overwrite -q".split())
    assert (done.code, done.out, done.err) == (0, "", "")
    assert json.loads((out / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_a_control_vector_says_what_is_missing(disk: Disk, call: Call, tmp_path: Path):
    common = f"export {disk.set} --model {disk.model} --to fr --format gguf --operation add"
    common += " --source others"
    done = call(*f"{common} -o {tmp_path}/v".split())
    assert done.code == 2
    assert "--skip-first" in done.err
    done = call(*f"{common} --skip-first -o {tmp_path}/v".split())
    assert done.code == 0
    assert "NOT the same" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("export @set --model @model --to fr --operation set -o @out", "IA3 multiplies"),
        ("export @set --model @model --to rf --operation zero -o @out", "Did you mean 'fr'"),
        ("export @set --model @model --format lorra --to fr -o @out", "Did you mean 'lora'"),
        ("export @set --model @model --to fr --operation sett -o @out", "Unknown operation"),
        ("export @set --model ./nowhere --to fr --operation zero -o @out", "nowhere"),
        ("export @set --model @model --operation zero -o @out", "no label"),
        ("export @set --model @model --to fr --skip-first -o @out", "--format gguf"),
        ("export @set --model @model --to fr --part some --format lora -o @out", "--part 'some'"),
        ("bake @model @set --to fr --operation scale --value much -o @out", "needs a number"),
        ("bake @set @model --to fr -o @out", "holds a full model"),
        ("bake @model @set --to fr --operation zero --overwrite -o @model", "is the model itself"),
    ],
)
def test_mistakes_are_one_message(disk: Disk, call: Call, tmp_path: Path, words: str, message: str):
    for name, value in (("model", disk.model), ("set", disk.set), ("out", f"{tmp_path}/out")):
        words = words.replace(f"@{name}", value)
    done = call(*words.split())
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())
