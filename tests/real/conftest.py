"""Pretrained models for the tests marked `real`, which skip without them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuronsteer.evaluation import readers
from neuronsteer.stats import Stats, collect

LANGUAGES = ("en", "de", "fr", "zh", "ru", "ar")
#: Of the twelve built-in sentences of each language, these many are for finding neurons.
FOR_DETECTION = 8


def _tool() -> Any:
    path = Path(__file__).parents[2] / "tools" / "real_models.py"
    spec = importlib.util.spec_from_file_location("real_models", path)
    assert spec is not None and spec.loader is not None
    # A dataclass looks its own module up.
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = _tool()


class Loaded(NamedTuple):
    """A model with its tokenizer and what the recipe says of it."""

    name: str
    model: Any
    tokenizer: Any
    recipe: Any


def folder_of(name: str) -> Path:
    """Return the folder of a model, or skip the test."""
    folder = TOOL.models_folder()
    if not TOOL.is_complete(folder, name):
        pytest.skip(
            f"{folder / name} is not there. `make real` lays out all models and runs these tests; "
            f"`python tools/real_models.py {name}` lays out this one"
        )
    return folder / name


def load(name: str, dtype: torch.dtype = torch.float32) -> Loaded:
    folder = folder_of(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return Loaded(name, model, tokenizer, TOOL.MODELS[name])


@pytest.fixture(scope="session", params=list(TOOL.MODELS))
def each(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    # One of them at a time: together they take four gigabytes.
    yield load(request.param)


@pytest.fixture(scope="module")
def gemma() -> Loaded:
    return load("gemma")


@pytest.fixture(scope="session")
def sentences() -> dict[str, list[str]]:
    texts = readers.EvaluationData(None, LANGUAGES).get("texts").items
    return {label: list(found) for label, found in texts.items()}


@pytest.fixture(scope="module")
def gemma_stats(gemma: Loaded, sentences: dict[str, list[str]]) -> Stats:
    texts = {label: found[:FOR_DETECTION] for label, found in sentences.items()}
    return collect(gemma.model, gemma.tokenizer, texts, progress=False)
