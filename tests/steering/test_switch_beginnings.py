"""Sets may say how a switch begins: the same, whoever switches and however the text is made."""

from __future__ import annotations

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import ArtifactError
from tests.steering.sets import greedy, toy_set
from tests.steering.test_schedule_exactness import Script, assert_close, with_logits
from tests.tiny_models import tiny_ids, tiny_model

SWITCH = {"strength": 1.4, "tokens": 3}
ADD = {"name": "add", "value": "mean"}


@pytest.mark.parametrize(
    ("text", "written_out"),
    [
        ("en,4:fr", "en,4:fr*1.4,7:fr"),
        ("en,2:fr,4:ja,9:-", "en,2:fr*1.4,4:ja*1.4,7:ja,9:-"),
        ("en,6:fr,prompt=yes", "en,6:fr*1.4,9:fr,prompt=yes"),
        (["en,4:fr", "ja"], ["en,4:fr*1.4,7:fr", "ja"]),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}], ids=str
)
def test_a_switch_begins_as_the_set_says(text, written_out, options):
    model, ids = tiny_model("llama"), tiny_ids(1 if "prompt_lookup_num_tokens" in options else 2)
    if isinstance(text, list):
        text, written_out = text[: len(ids)], written_out[: len(ids)]
    plain = toy_set(model, per_layer=40, operation=ADD)
    with ns.attach(model, plain.replace(switch=SWITCH)) as steer:
        steer.to(text)
        found = with_logits(model, ids, **options)
        replay = steer.timeline
        steer.to(replay)
        assert_close(with_logits(model, ids, **options), found)
    with ns.attach(model, plain) as steer:
        steer.to(text)
        assert not torch.equal(with_logits(model, ids, **options)[1], found[1])
        steer.to(written_out)
        assert_close(with_logits(model, ids, **options), found)


def test_a_live_switch_begins_as_the_set_says():
    model, ids = tiny_model("llama"), tiny_ids(1)
    plain = toy_set(model, per_layer=40, operation=ADD)
    with ns.attach(model, plain) as steer:
        steer.to("en,5:fr*1.4,8:fr", prompt=True)
        wanted = with_logits(model, ids)
    with ns.attach(model, plain.replace(switch=SWITCH)) as steer:
        steer.to("en")
        found = with_logits(model, ids, streamer=Script({5: lambda: steer.to("fr")}))
        assert_close(found, wanted)
        assert steer.spans() == [(0, 5, "en"), (5, 12, "fr")]


def test_only_what_sets_do_by_themselves_begins_as_they_say():
    """An operation that is given has no measured beginning; two sets have to agree."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    plain = toy_set(model, per_layer=40, operation=ADD)
    strong, other = plain.replace(switch=SWITCH), toy_set(model, seed=1, operation=ADD)

    def texts(sets, target, **options):
        with ns.attach(model, sets) as steer:
            return with_logits(model, ids) if steer.to(target, **options) else None

    zero = {"operation": "zero"}
    assert_close(texts(strong, "en,4:fr", **zero), texts(plain, "en,4:fr", **zero))
    assert_close(texts([strong, other], "en,4:fr"), texts([plain, other], "en,4:fr"))
    assert_close(texts(strong, "en,4:fr - en"), texts(plain, "en,4:fr - en"))
    both = [strong, other.replace(switch=SWITCH)]
    assert_close(texts(both, "en,4:fr"), texts([plain, other], "en,4:fr*1.4,7:fr"))


def test_compiled_graphs_begin_a_switch_likewise():
    torch.compiler.reset()
    model, ids = tiny_model("llama"), tiny_ids(1)
    strong = toy_set(model, per_layer=40, operation=ADD, switch=SWITCH)
    with ns.attach(model, strong) as steer:
        wanted = greedy(steer.to("en,4:fr") and model, ids)
        model.forward = torch.compile(model.forward, backend="eager", dynamic=True)
        assert torch.equal(greedy(model, ids), wanted)


@pytest.mark.parametrize(
    "switch",
    [{"strength": 1.4}, {"strength": -1, "tokens": 8}, {"strength": 1.4, "tokens": 0}, [1.4, 8]],
    ids=str,
)
def test_a_header_that_says_something_else_is_refused(switch):
    with pytest.raises(ArtifactError, match="'switch'"):
        toy_set(tiny_model("llama"), switch=switch)
