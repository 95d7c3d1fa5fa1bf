"""`generate(custom_generate=callable)`: why docs/hub_registration.md offers none."""

from __future__ import annotations

import torch
from transformers.generation.streamers import BaseStreamer

from tests.tiny_models import tiny_model


class Seen(BaseStreamer):
    """Counts what is streamed."""

    def __init__(self) -> None:
        self.calls = 0

    def put(self, value) -> None:
        self.calls += 1

    def end(self) -> None:
        pass


def test_a_callable_gets_neither_streamer_nor_assistant():
    """If transformers hands them over one day, such a callable could be offered after all."""
    model, ids, seen = tiny_model("llama"), torch.tensor([[5, 6, 7]]), []

    def loop(model, input_ids, streamer=None, assistant_model=None, **_options):
        seen.append((streamer, assistant_model))
        return input_ids

    options = {"max_new_tokens": 2, "do_sample": False, "custom_generate": loop}
    model.generate(ids, streamer=Seen(), **options)
    model.generate(ids, assistant_model=tiny_model("llama"), **options)
    assert seen == [(None, None)] * 2


def test_a_callable_is_used_whatever_the_beams():
    model, ids, rows = tiny_model("llama"), torch.tensor([[5, 6, 7]]), []

    def loop(model, input_ids, generation_config=None, **_options):
        rows.append((len(input_ids), generation_config.num_beams))
        return input_ids

    model.generate(ids, max_new_tokens=2, num_beams=2, do_sample=False, custom_generate=loop)
    assert rows == [(2, 2)]
