"""Every way of generating gives what one forward pass with per-token labels gives."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import DynamicCache, TextIteratorStreamer, pipeline

from neuronsteer.steering.schedule import Condition, Schedule
from neuronsteer.steering.steerer import attach
from tests.steering.sets import FAMILIES, greedy, toy_set
from tests.tiny_models import tiny_ids, tiny_model, tiny_tokenizer

SCHEDULE = Schedule("en", (4, "fr"), (8, "ja"))
CASES = [
    pytest.param(SCHEDULE, id="switches"),
    pytest.param(Schedule("fr"), id="constant"),
    pytest.param(Schedule("fr", prompt=False), id="constant, not the prompt"),
    pytest.param(Schedule(None, (5, "fr")), id="unsteered first"),
    pytest.param(Schedule.parse("en,3~9:fr"), id="ramp"),
    pytest.param(Schedule.cycle(["en", "fr", None], every=3), id="cycle"),
]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def model(family):
    with torch.no_grad():
        yield tiny_model(family)


def test_steering_changes_the_output_and_detaching_restores_it(model):
    ids = tiny_ids(3)
    plain, logits = greedy(model, ids), model(ids).logits
    with attach(model, toy_set(model)) as steer:
        assert torch.equal(model(ids).logits, logits), "attached but off must be bit-identical"
        assert torch.equal(greedy(model, ids), plain)
        steer.to("fr")
        assert not torch.equal(greedy(model, ids), plain)
        steer.off()
        assert torch.equal(model(ids).logits, logits)
    assert torch.equal(model(ids).logits, logits)
    assert not {"generate", "prepare_inputs_for_generation"} & set(model.__dict__)


@pytest.mark.parametrize("schedule", CASES)
def test_cached_generation_equals_one_teacher_forced_forward(model, schedule):
    ids = tiny_ids(2)
    with attach(model, toy_set(model)) as steer:
        steer.to(schedule, prompt_length=ids.shape[1])
        new = greedy(model, ids)
        whole = model(torch.cat([ids, new], dim=1)).logits
        assert torch.equal(whole[:, ids.shape[1] - 1 : -1].argmax(-1), new)


def test_without_a_cache_nothing_changes(model):
    ids = tiny_ids(2)
    with attach(model, toy_set(model)) as steer:
        steer.to(SCHEDULE)
        assert torch.equal(greedy(model, ids, use_cache=False), greedy(model, ids))


def test_one_label_per_row_equals_rows_alone(model):
    ids = tiny_ids(3)
    targets = ["fr", SCHEDULE, None]
    with attach(model, toy_set(model)) as steer:
        together = greedy(model, ids, use_cache=True) if steer.to(targets) else None
        for row, target in enumerate(targets):
            steer.to(target)
            assert torch.equal(greedy(model, ids[row : row + 1])[0], together[row])


def test_left_padding_does_not_move_a_switch(model):
    short, long = tiny_ids(1, length=4, seed=1), tiny_ids(1, length=9, seed=2)
    padded = torch.cat([torch.cat([torch.zeros(1, 5, dtype=torch.long), short], 1), long])
    mask = torch.cat([torch.tensor([[0] * 5 + [1] * 4]), torch.ones(1, 9, dtype=torch.long)])
    with attach(model, toy_set(model)) as steer:
        for target in (SCHEDULE, "fr"):
            steer.to(target)
            both = greedy(model, padded, mask=mask)
            assert torch.equal(both[0], greedy(model, short)[0])
            assert torch.equal(both[1], greedy(model, long)[0])


def test_beams_and_returned_sequences_share_their_rows_label(model):
    ids = tiny_ids(2)
    with attach(model, toy_set(model)) as steer:
        steer.to(["fr", SCHEDULE])
        beams = greedy(model, ids, num_beams=3)
        several = greedy(model, ids, num_beams=3, num_return_sequences=3)
        assert torch.equal(several[::3], beams)
        for row, target in enumerate(["fr", SCHEDULE]):
            steer.to(target)
            assert torch.equal(greedy(model, ids[row : row + 1], num_beams=3)[0], beams[row])


@pytest.mark.parametrize("switch", [1, 3, 5])
def test_prompt_lookup_equals_greedy(model, switch):
    ids = tiny_ids(1, length=12)
    with attach(model, toy_set(model)) as steer:
        steer.to(Schedule("en", (switch, "fr"), (switch + 3, "ja")))
        plain = greedy(model, ids)
        assert torch.equal(greedy(model, ids, prompt_lookup_num_tokens=3), plain)


@pytest.mark.parametrize("switch", [2, 5])
def test_assisted_decoding_equals_greedy(model, family, switch):
    ids = tiny_ids(1)
    draft = tiny_model(family)
    torch.manual_seed(1)
    for parameter in draft.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.01)
    draft.generation_config.num_assistant_tokens = 4
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    with attach(model, toy_set(model)) as steer:
        steer.to(Schedule("en", (switch, "fr")))
        assert torch.equal(greedy(model, ids, assistant_model=draft), greedy(model, ids))


def test_chunked_prefill_equals_whole_prefill(model):
    ids = tiny_ids(2, length=11)
    with attach(model, toy_set(model)) as steer:
        for schedule in (SCHEDULE, Schedule("en", (2, "fr"), prompt=True)):
            steer.to(schedule)
            whole = greedy(model, ids)
            assert torch.equal(greedy(model, ids, prefill_chunk_size=4), whole)


def test_static_cache_equals_dynamic_cache(model, family):
    if not model._can_compile_fullgraph:
        pytest.skip(f"{family} has no static cache in transformers")
    ids = tiny_ids(2)
    with attach(model, toy_set(model)) as steer:
        steer.to(SCHEDULE)
        static = greedy(model, ids, cache_implementation="static", disable_compile=True)
        assert torch.equal(static, greedy(model, ids))


def test_continuing_a_filled_cache_counts_from_the_new_prompt():
    model, ids = tiny_model("llama"), tiny_ids(2, length=9)
    with torch.no_grad(), attach(model, toy_set(model)) as steer:
        cache = DynamicCache(config=model.config)
        model(ids[:, :5], past_key_values=cache)
        steer.to(SCHEDULE)
        assert torch.equal(greedy(model, ids, past_key_values=cache), greedy(model, ids))


def test_a_custom_loop_with_a_cache_is_placed_by_it():
    model, ids = tiny_model("llama"), tiny_ids(2)
    with torch.no_grad(), attach(model, toy_set(model)) as steer:
        steer.to(SCHEDULE)
        want = greedy(model, ids)
        cache, step, got = DynamicCache(config=model.config), ids, []
        for _ in range(want.shape[1]):
            step = model(step, past_key_values=cache).logits[:, -1:].argmax(-1)
            got.append(step)
        assert torch.equal(torch.cat(got, 1), want)


def test_embeddings_instead_of_ids():
    model, ids = tiny_model("llama"), tiny_ids(2)
    with torch.no_grad(), attach(model, toy_set(model)) as steer:
        steer.to(SCHEDULE)
        embeds = model.get_input_embeddings()(ids)
        mask = torch.ones_like(ids)
        got = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=12)
        assert torch.equal(got, greedy(model, ids))


def test_streamer_and_pipeline_are_steered():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    inputs = tokenizer("Hello there", return_tensors="pt")
    with attach(model, toy_set(model)) as steer:
        steer.to(SCHEDULE)
        want = tokenizer.decode(greedy(model, inputs.input_ids)[0])
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        options = {**inputs, "max_new_tokens": 12, "do_sample": False, "streamer": streamer}
        thread = threading.Thread(target=model.generate, kwargs=options)
        thread.start()
        assert "".join(streamer) == want
        thread.join()
        pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
        out = pipe("Hello there", max_new_tokens=12, do_sample=False, return_full_text=False)
        assert out[0]["generated_text"] == tokenizer.decode(
            greedy(model, inputs.input_ids)[0], skip_special_tokens=True
        )


def test_generating_twice_starts_counting_again():
    model, ids = tiny_model("llama"), tiny_ids(2)
    with attach(model, toy_set(model)) as steer:
        steer.to(SCHEDULE)
        assert torch.equal(greedy(model, ids), greedy(model, ids))


class _Switcher:
    """A streamer that changes the language after `at` tokens, as a user interface would."""

    def __init__(self, steer, at, target):
        self.steer, self.at, self.target, self.seen = steer, at, target, -1

    def put(self, _value):
        self.seen += 1  # the first call is the prompt
        if self.seen == self.at:
            thread = threading.Thread(target=self.steer.to, args=(self.target,))
            thread.start()
            thread.join()

    def end(self):
        pass


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("at", [1, 4, 11])
def test_a_switch_from_another_thread_takes_effect_at_the_next_token(at, cached):
    model, ids = tiny_model("llama"), tiny_ids(1)
    with attach(model, toy_set(model)) as steer:
        steer.to(Schedule("en", prompt=False))
        live = greedy(model, ids, streamer=_Switcher(steer, at, "fr"), use_cache=cached)
        assert steer.spans() == [(0, at, "en"), (at, 12, "fr")]
        assert steer.timeline.at(at) == ("fr", 1.0)
        steer.to(steer.timeline)
        assert torch.equal(greedy(model, ids), live)


@pytest.mark.parametrize("beams", [1, 3])
def test_text_triggers_are_recomputed_from_the_tokens(beams):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    ids = tiny_ids(2)
    with torch.no_grad(), attach(model, toy_set(model), tokenizer=tokenizer) as steer:
        steer.to("en")
        plain = greedy(model, ids, num_beams=beams)
        # A character that the first row produces early on, so that the trigger certainly fires.
        stop = next(c for c in tokenizer.decode(plain[0, 2:8]) if c.isprintable() and c != "�")
        steer.to(Schedule("en", (Condition.after_text(stop), "fr"), prompt=True))
        new = greedy(model, ids, num_beams=beams)
        spans = [steer.spans(0)] if beams == 1 else []
        uncached = greedy(model, ids, num_beams=beams, use_cache=False)
        assert torch.equal(new, uncached)
        if beams == 1:
            (start, end, label), *rest = spans[0]
            assert (start, label) == (0, "en") and rest, "the trigger fired"
            assert stop in tokenizer.decode(new[0, :end])
            assert stop not in tokenizer.decode(new[0, : end - 1])
            lookup = greedy(model, ids[:1], prompt_lookup_num_tokens=3)
            assert torch.equal(lookup[0], new[0])
            steer.to(steer.schedule, prompt_length=ids.shape[1], prompt=True)
            whole = model(torch.cat([ids, new], 1)).logits[:, ids.shape[1] - 1 : -1]
            assert torch.equal(whole.argmax(-1), new)


def test_half_precision_is_steered_in_its_own_dtype():
    ids = tiny_ids(2)
    for dtype in (torch.bfloat16, torch.float16):
        model = tiny_model("llama", dtype=dtype)
        with attach(model, toy_set(model)) as steer:
            steer.to(SCHEDULE)
            new = greedy(model, ids, use_cache=False)
            steer.to(SCHEDULE, prompt_length=ids.shape[1])
            whole = model(torch.cat([ids, new], 1)).logits[:, ids.shape[1] - 1 : -1]
            assert whole.dtype == dtype
            assert torch.equal(whole.argmax(-1), new)
