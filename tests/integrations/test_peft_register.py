"""Registration with PEFT: automatic, in either order of imports, once, and without side effects."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest

pytest.importorskip("peft")

import peft.mapping
from peft import PeftConfig, PeftType, get_peft_config
from transformers.utils import logging

import neuronsteer
from neuronsteer.errors import ParameterError
from neuronsteer.integrations import peft_hook
from neuronsteer.integrations.peft import NeuronSteerConfig, NeuronSteerModel, peft_type
from neuronsteer.integrations.peft.register import register

from .peft_cases import case, fresh

logging.disable_progress_bar()


def run(code, **values):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code.format(**values)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    base = tmp_path_factory.mktemp("base")
    fresh().save_pretrained(base)
    _, neurons = case(base_model=str(base))
    return neurons.save_pretrained(tmp_path_factory.mktemp("set"), peft=True)


def test_the_enum_has_a_member_like_the_others():
    member = PeftType.NEURONSTEER
    assert isinstance(member, PeftType) and isinstance(member, str)
    assert member == "NEURONSTEER" and member.value == member.name == "NEURONSTEER"
    assert PeftType("NEURONSTEER") is PeftType["NEURONSTEER"] is member is peft_type()
    assert list(PeftType).count(member) == 1 and member in PeftType
    assert repr(member) == "<PeftType.NEURONSTEER: 'NEURONSTEER'>"
    assert get_peft_config({"peft_type": "NEURONSTEER"}).peft_type is member
    assert PeftType.LORA.value == "LORA"


def test_registering_again_changes_nothing():
    known = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    before = dict(known)
    register(NeuronSteerConfig, NeuronSteerModel)
    peft_hook.install()
    assert known == before
    assert list(PeftType).count(PeftType.NEURONSTEER) == 1


def test_a_name_that_is_taken_is_left_alone(monkeypatch):
    other = type("OtherConfig", (PeftConfig,), {"__module__": "somebody.else"})
    monkeypatch.setitem(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.NEURONSTEER, other)
    with pytest.raises(ParameterError, match=r"somebody\.else"):
        register(NeuronSteerConfig, NeuronSteerModel)
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.NEURONSTEER] is other


def test_a_peft_that_cannot_be_extended_still_imports(monkeypatch):
    def broken(name):
        raise AttributeError("PeftType")

    monkeypatch.setattr(peft_hook.importlib, "import_module", broken)
    with pytest.warns(UserWarning, match=r"PEFT 9\.9.* AttributeError: PeftType"):
        peft_hook._register(types.SimpleNamespace(__version__="9.9"))


def test_the_public_name():
    assert neuronsteer.NeuronSteerConfig is NeuronSteerConfig


LOAD = """
{imports}
import sys
from transformers import AutoModelForCausalLM
from transformers.utils import logging
logging.disable_progress_bar()
model = AutoModelForCausalLM.from_pretrained({folder!r})
print(type(model).__name__, model.active_adapters()[0])
from peft import PeftModel, PeftType
print(PeftType("NEURONSTEER").value)
"""


@pytest.mark.parametrize(
    "imports", ["import neuronsteer", "import peft, neuronsteer"], ids=["first", "after peft"]
)
def test_a_fresh_process_only_needs_the_import(saved, imports):
    out = run(LOAD, imports=imports, folder=str(saved))
    assert out == ["LlamaForCausalLM", "default", "NEURONSTEER"]


NOT_IMPORTED = """
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM
for load in (PeftConfig.from_pretrained, AutoModelForCausalLM.from_pretrained):
    try:
        load({folder!r})
    except KeyError as error:
        print(error.args[0])
import sys
print("neuronsteer" in sys.modules)
"""


def test_without_the_import_peft_says_what_it_misses(saved):
    """Nothing can be done about it: neither PEFT nor transformers has an entry point for types."""
    assert run(NOT_IMPORTED, folder=str(saved)) == ["NEURONSTEER", "NEURONSTEER", "False"]
