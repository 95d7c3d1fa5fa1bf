"""Serving with vLLM, on its CPU build. Needs the environment that `make test-vllm` creates."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# Read by vLLM when it is imported. In one process, a test can look into the engine.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_configure(config):
    if importlib.util.find_spec("vllm") is None:
        print("vLLM is not installed here; run: make test-vllm", file=sys.stderr)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    # One compile cache for all engines of a run, none from an earlier run.
    os.environ["VLLM_CACHE_ROOT"] = str(tmp_path_factory.mktemp("vllm-cache"))


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where checkpoints and neuron sets of this run are kept."""
    return tmp_path_factory.mktemp("storage")
