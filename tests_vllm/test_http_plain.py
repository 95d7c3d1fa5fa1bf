"""vLLM's own server where this package is installed, but was started without neuron sets."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from neuronsteer.demo import model_folder
from tests_vllm.servers import ask, client_of, ids, serving


def test_a_server_without_sets_says_how_to_start_one_with(storage: Path):
    command = ["vllm.entrypoints.openai.api_server", "--model", str(model_folder())]
    command += ["--served-model-name", "demo"]
    with serving(command, storage / "plain.log") as address:
        client = client_of(address)
        with pytest.raises(openai.BadRequestError, match="neuronsteer serve MODEL SET"):
            ask(client, "fr")
        assert ids(ask(client, None, 4))
