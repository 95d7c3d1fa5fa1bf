"""Schedules mean what they say: in every notation, at every length, in every kind of generation."""

from __future__ import annotations

import contextlib
import gc
import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    ContinuousBatchingConfig,
)

import neuronsteer as ns
from neuronsteer.errors import (
    HookError,
    LayoutError,
    NeuronSteerError,
    ParameterError,
    ScheduleError,
)
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_config, tiny_ids, tiny_model, tiny_tokenizer

REFUSALS = (HookError, ParameterError, ScheduleError)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Look only at what these tests make: all of torch and transformers takes a while."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@contextlib.contextmanager
def memory_for(megabytes):
    """Let the process grow by so much; beyond it a `MemoryError` is raised, not the machine lost.

    This is a safety net for the tests of endless ramps. Where there is no such limit they run
    without it.
    """
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def alive():
    """Return `(bytes of tensors, number of objects)` that are alive."""
    gc.collect()
    objects = gc.get_objects()
    stores = {}
    for each in objects:
        if issubclass(type(each), torch.Tensor):
            store = each.untyped_storage()
            stores[store.data_ptr()] = store.nbytes()
    return sum(stores.values()), len(objects)


def with_logits(model, ids, new=12, **options):
    """Return the generated tokens and the logits that they were chosen from."""
    options = {"do_sample": False, "attention_mask": torch.ones_like(ids), **options}
    found = model.generate(
        ids, max_new_tokens=new, output_logits=True, return_dict_in_generate=True, **options
    )
    return found.sequences[:, ids.shape[1] :], torch.stack(found.logits)


def assert_close(found, wanted):
    assert torch.equal(found[0], wanted[0])
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-4)


class Script:
    """A streamer that runs `actions[n]` when generated token number `n` has arrived."""

    def __init__(self, actions):
        self.actions, self.seen = actions, -1

    def put(self, _value):
        self.seen += 1  # the first call brings the prompt
        if self.seen in self.actions:
            self.actions[self.seen]()

    def end(self):
        pass


# --- S11 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("started", [False, True], ids=["made", "started"])
@pytest.mark.parametrize("target", ["en,3:fr", ns.Schedule("fr", prompt=False), ["fr"]], ids=str)
def test_a_schedule_set_after_continuous_batching_began_is_refused(target, started):
    """S11: a manager that exists already is not an excuse to follow a schedule as one label.

    Whether `to`, `add_request` or the request itself says so is left open.
    """
    model, ids = tiny_model("llama"), tiny_ids(1)
    model.generation_config.eos_token_id = -1
    config = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to("en")
        manager = model.init_continuous_batching(continuous_batching_config=config)
        if started:
            manager.start()
        try:
            steer.to(target)
            manager.start()
            name = manager.add_request(ids[0].tolist(), max_new_tokens=6)
            result = manager.get_result(request_id=name, timeout=200)
        except REFUSALS as error:
            assert len(str(error)) > 40
        else:
            refused = result is None or result.error is not None
            assert refused, f"followed as one label: {result.generated_tokens}"
        finally:
            manager.stop(block=True, timeout=60)


def test_one_label_is_followed_by_continuous_batching():
    """S11, control: one label is what can be followed there, also one set after the beginning."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    model.generation_config.eos_token_id = -1
    config = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to("fr")
        wanted = greedy(model, ids, new=6).tolist()
        steer.to("en")
        manager = model.init_continuous_batching(continuous_batching_config=config)
        steer.to("fr")
        manager.start()
        try:
            for row, tokens in zip(ids.tolist(), wanted, strict=True):
                name = manager.add_request(row, max_new_tokens=6)
                result = manager.get_result(request_id=name, timeout=200)
                assert result.error is None and result.generated_tokens == tokens
        finally:
            manager.stop(block=True, timeout=60)


# --- S14 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize(
    "kind", [AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification]
)
def test_models_that_cannot_generate_are_refused_and_left_as_they_were(kind, family, private):
    """S14: a clear error, and not one hook more than before."""
    neurons = toy_set(tiny_model(family))
    model = kind.from_config(tiny_config(family)).eval()
    methods = set(vars(model))
    implementation = getattr(model.config, "_experts_implementation", None)
    with torch.no_grad():
        before = model(tiny_ids(1))[0]
        for _ in range(2):
            with pytest.raises((HookError, ParameterError, LayoutError)) as caught:
                ns.attach(model, neurons, private=private)
            message = str(caught.value)
            assert type(model).__name__ in message and "CausalLM" in message, message
        assert torch.equal(model(tiny_ids(1))[0], before)
    hooks = [
        each
        for module in model.modules()
        for each in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if "neuronsteer" in getattr(each, "__module__", type(each).__module__)
    ]
    assert not hooks
    assert set(vars(model)) == methods
    assert getattr(model.config, "_experts_implementation", None) == implementation


# --- S17 --------------------------------------------------------------------------------------


def stepwise(first, last, label):
    """Return the ramp `first~last:label` with every step written out."""
    length = last - first
    steps = [{"at": first + i, "label": label, "strength": (i + 1) / length} for i in range(length)]
    points = steps if first == 0 else [{"at": 0, "label": None}, *steps]
    return ns.Schedule.from_dict({"points": points})


@pytest.mark.parametrize("operation", [None, "zero", {"name": "add", "value": "mean"}], ids=str)
def test_every_step_of_a_ramp_has_its_strength(operation):
    """S17, control: a ramp is its steps written out."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with ns.attach(model, toy_set(model, per_layer=40)) as steer:
        steer.to(stepwise(2, 9, "fr"), operation=operation)
        wanted = with_logits(model, ids)
        steer.to("2~9:fr", operation=operation)
        assert_close(with_logits(model, ids), wanted)
        assert steer.spans() == [(0, 2, None), (2, 12, "fr")]


def test_a_ramp_to_a_sum_goes_evenly_from_untouched_to_the_whole_of_it():
    """S17: where operations follow one another, it is their joint effect that grows."""
    model, ids = tiny_model("llama", layers=1), tiny_ids(1, 9)
    neurons = [toy_set(model, per_layer=40, seed=i) for i in range(2)]
    down, seen = model.model.layers[0].mlp.down_proj, []
    with torch.no_grad(), ns.attach(model, neurons) as steer:
        # Registered after attach, so that it sees what steering made of the neurons.
        handle = down.register_forward_pre_hook(lambda _m, args: seen.append(args[0][0]))
        for target in (None, "fr*0.5 + ja - en", "0~5:fr*0.5 + ja - en"):
            steer.to(target, prompt_length=1)
            model(ids)
        handle.remove()
    plain, whole, ramp = seen
    for token in range(9):
        share = min(1.0, (token + 1) / 5)
        torch.testing.assert_close(ramp[token], torch.lerp(plain[token], whole[token], share))


@pytest.mark.parametrize("length", [8000, 1_999_999_999])
def test_a_ramp_costs_no_more_for_being_long(length):
    """S17: neither time nor memory depends on how many tokens a ramp lasts."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    neurons = toy_set(model)
    with ns.attach(model, neurons) as steer:
        points = [{"at": i, "label": "fr", "strength": (i + 1) / length} for i in range(6)]
        steer.to(ns.Schedule.from_dict({"points": points}))
        wanted = with_logits(model, ids, new=6)
    with ns.attach(model, neurons) as steer:
        greedy(model, ids, new=2)
        size, count = alive()
        with memory_for(400):
            steer.to(f"0~{length}:fr")
            found = with_logits(model, ids, new=6)
        spans = steer.spans()
        more, many = alive()
        more -= sum(tensor.nbytes for tensor in found)
        assert_close(found, wanted)
        assert spans == [(0, 6, "fr")]
        assert more - size < 300_000
        assert many - count < 2_000


@pytest.mark.parametrize("text", ["0~1999999999:fr", "en,5~2000000004:fr", "3~30000000:-"])
def test_schedules_with_endless_ramps_answer_questions(text):
    """S17: reading, writing, asking and comparing do not unroll a ramp."""
    with memory_for(400):
        schedule = ns.Schedule.parse(text)
        assert ns.Schedule.parse(str(schedule)) == schedule
        assert ns.Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
        assert hash(schedule) == hash(ns.Schedule.parse(text))
        point = schedule.points[-1]
        half = point.at + point.ramp // 2
        label, strength = schedule.at(half)
        assert label == point.label
        assert label is None or strength == pytest.approx(0.5, abs=1e-6)
        if label is not None:
            assert schedule.at(point.at + point.ramp + 5) == (label, 1.0)
        assert [end - start for start, end, _ in schedule.spans(8)] in ([8], [3, 5], [5, 3])


def test_endless_ramps_per_row_in_repeats_and_cut_short():
    """S17: wherever a ramp may stand."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    with ns.attach(model, toy_set(model)) as steer, memory_for(400):
        steer.to(["0~1999999999:fr", "ja,4~1999999999:en"])
        greedy(model, ids)
        assert steer.spans(0) == [(0, 12, "fr")]
        assert steer.spans(1) == [(0, 4, "ja"), (4, 12, "en")]
        steer.to("0~1999999999:fr,repeat=2000000000")
        greedy(model, ids)
        assert steer.spans() == [(0, 12, "fr")]
        steer.to("0~1999999999:fr,6:ja")
        greedy(model, ids)
        assert steer.spans() == [(0, 6, "fr"), (6, 12, "ja")]
        steer.to("0~1999999999:fr", prompt_length=3)
        model(ids)


def slide(steer, model, ids):
    for i in range(5_000):
        steer.to("fr", strength=0.1 + i / 7_000)


def slide_schedules(steer, model, ids):
    for i in range(800):
        steer.to(f"fr*{0.1 + i / 7_000},5:ja*{0.2 + i / 7_000}")


def slide_rows(steer, model, ids):
    for i in range(800):
        steer.to([f"fr*{0.1 + i / 7_000}", "en"])


def slide_while_running(steer, model, ids):
    for i in range(500):
        steer.to("fr", strength=0.1 + i / 7_000)
        with torch.no_grad():
            model(ids)


@pytest.mark.parametrize("slider", [slide, slide_schedules, slide_rows, slide_while_running])
def test_a_strength_slider_does_not_grow(slider):
    """S17: states that nobody uses any more give their place back."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    with ns.attach(model, toy_set(model, operation={"name": "add", "value": "mean"})) as steer:
        for i in range(300):  # whatever is remembered on purpose is remembered by now
            steer.to("fr", strength=2 + i / 7_000)
            steer.to(f"ja*{2 + i / 7_000},5:en")
        with torch.no_grad():
            model(ids)
        size, count = alive()
        slider(steer, model, ids)
        more, many = alive()
        assert more - size < 300_000
        assert many - count < 2_000


def test_states_in_use_outlive_a_slider():
    """S17, control: nothing is given back that a generation still needs."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    adding = {"name": "add", "value": "mean"}
    neurons = toy_set(model, operation=adding)
    with (
        ns.attach(model, neurons, private=True) as steer,
        ns.attach(model, neurons, private=True) as other,
    ):
        steer.to("en,4:fr*0.7,8:ja")
        wanted = with_logits(steer, ids)
        other.to("ja,3:en*0.3")
        beside = with_logits(other, ids)

        def slide():
            for i in range(400):
                steer.to("fr", strength=1 + i / 977)
            steer.to("en,4:fr*0.7,8:ja")

        actions = dict.fromkeys(range(11), slide)
        assert_close(with_logits(steer, ids, streamer=Script(actions)), wanted)
        assert_close(with_logits(other, ids, streamer=Script(actions)), beside)


# --- S18 --------------------------------------------------------------------------------------


class CountingTokenizer:
    """A tokenizer that counts the tokens it is asked to turn into text."""

    def __init__(self, inner):
        self.inner, self.tokens = inner, 0

    def _count(self, ids):
        if isinstance(ids, int):
            return 1
        if isinstance(ids, torch.Tensor):
            return ids.numel()
        return sum(self._count(each) for each in ids)

    def decode(self, ids, *args, **kwargs):
        self.tokens += self._count(ids)
        return self.inner.decode(ids, *args, **kwargs)

    def batch_decode(self, ids, *args, **kwargs):
        self.tokens += self._count(ids)
        return self.inner.batch_decode(ids, *args, **kwargs)

    def convert_ids_to_tokens(self, ids, *args, **kwargs):
        self.tokens += self._count(ids)
        return self.inner.convert_ids_to_tokens(ids, *args, **kwargs)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("en,text=NEVERSEEN:fr", {}),
        ("en,sentence@100000:fr", {}),
        ("en,sentence:fr,text=NEVERSEEN:ja", {}),
        ("en,text=NEVERSEEN:fr", {"num_beams": 3}),
        ("en,text=NEVERSEEN:fr", {"use_cache": False}),
        ("en,text=NEVERSEEN:fr", {"prompt_lookup_num_tokens": 3}),
    ],
    ids=str,
)
def test_waiting_for_text_costs_the_same_for_every_token(schedule, options):
    """S18: four times as many tokens, four times as much decoding, not sixteen times."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    costs = []
    for new in (40, 160):
        tokenizer = CountingTokenizer(tiny_tokenizer())
        with ns.attach(model, toy_set(model), tokenizer=tokenizer) as steer:
            steer.to(schedule)
            greedy(model, ids, new=new, **options)
            steer.spans()
        costs.append(tokenizer.tokens + new)
    assert costs[1] <= 7 * costs[0], costs


def first_with(tokenizer, tokens, text, since=0, after=0):
    """Return after how many tokens the text since token `since` contains `text`, or `None`."""
    for count in range(max(since + 1, after), len(tokens) + 1):
        if text in tokenizer.decode(tokens[since:count]):
            return count
    return None


def runs(new, *points):
    """Return spans from `(token, label)`, leaving out what is never reached."""
    starts = [(at, label) for at, label in points if at is not None and at < new]
    ends = [at for at, _ in starts[1:]] + [new]
    return [(at, end, label) for (at, label), end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize(("start", "length"), [(1, 1), (9, 2), (1, 5), (9, 24)])
def test_text_is_found_at_the_token_that_completes_it(start, length):
    """S18, control: however much or little is decoded at a time, also across many tokens."""
    model, tokenizer, ids, new = tiny_model("llama"), tiny_tokenizer(), tiny_ids(1), 40
    # Pairs of letters, and the two bytes of an accented one: many tokens, all of them readable.
    readable = [i for i in range(3, len(tokenizer)) if len(tokenizer.decode([i])) == 2]
    accented = tokenizer("é", add_special_tokens=False).input_ids
    assert len(readable) > 50 and len(accented) == 2
    rest = sorted({*range(len(tokenizer))} - {*readable, *accented})
    with ns.attach(model, toy_set(model), tokenizer=tokenizer) as steer:

        def sample():
            torch.manual_seed(3)
            options = {"do_sample": True, "suppress_tokens": rest, "temperature": 3.0}
            return greedy(model, ids, new=new, **options)[0].tolist()

        steer.to("en")
        plain = sample()
        pieces = [i for i in plain if i in readable]
        text = tokenizer.decode([i for i in plain[start : start + length] if i in readable])
        for wanted, after in ((text, 0), (text, 6), ("é", 0), (tokenizer.decode(pieces[:1]), 20)):
            condition = ns.Condition.after_text(wanted or "th", after)
            steer.to(ns.Schedule("en", (condition, "fr"), prompt=True))
            found = sample()
            fired = first_with(tokenizer, found, condition.text, after=after)
            assert steer.spans() == runs(new, (0, "en"), (fired, "fr"))
        # The second text is looked for from where the first one was found on.
        for first, second in ("ae", "ea", "os", "th"):
            conditions = [ns.Condition.after_text(each) for each in (first, second)]
            switches = zip(conditions, ("fr", "ja"), strict=True)
            steer.to(ns.Schedule("en", *switches, prompt=True))
            found = sample()
            one = first_with(tokenizer, found, first)
            two = None if one is None else first_with(tokenizer, found, second, since=one)
            assert steer.spans() == runs(new, (0, "en"), (one, "fr"), (two, "ja"))


# --- S19 --------------------------------------------------------------------------------------


def points(*entries, **rest):
    return {"points": [{"at": at, "label": label} for at, label in entries], **rest}


def test_stored_switch_points_may_be_whole_floats():
    """S19: JSON written elsewhere knows only one kind of number."""
    stored = points((0, "en"), (3.0, "fr"))
    schedule = ns.Schedule.from_dict(stored)
    assert schedule == ns.Schedule("en", (3, "fr"))
    assert str(schedule) == "en,3:fr"
    assert schedule.at(2) == ("en", 1.0) and schedule.at(3) == ("fr", 1.0)
    ramp = {"points": [{"at": 2.0, "label": "fr", "ramp": 4.0}], "repeat": 8.0}
    assert ns.Schedule.from_dict(ramp) == ns.Schedule.parse("2~6:fr,repeat=8")
    after = {"kind": "sentence", "after": 4.0}
    waiting = {"points": [{"at": 0, "label": "en"}, {"when": after, "label": "fr"}]}
    assert ns.Schedule.from_dict(waiting) == ns.Schedule.parse("en,sentence@4:fr")


@pytest.mark.parametrize(
    "stored",
    [
        points((0, "en"), (3.5, "fr")),
        points((0, "en"), ("3", "fr")),
        points((0, "en"), (None, "fr")),
        points((0, "en"), (float("nan"), "fr")),
        points((0, "en"), (float("inf"), "fr")),
        points((0, "en"), ([3], "fr")),
        points((0, "en"), (4, "fr"), repeat=8.5),
        points((0, "en"), (4, "fr"), repeat="8"),
        points((0, "en"), (4, "fr"), repeat=float("nan")),
        {"points": [{"at": 2, "label": "fr", "ramp": 2.5}]},
        {"points": [{"at": 2, "label": "fr", "ramp": "4"}]},
        {"points": [{"at": 2, "label": "fr", "strength": "much"}]},
        {"points": [{"at": 2, "label": "fr", "strength": float("nan")}]},
        {"points": [{"at": 0, "label": 5}]},
    ],
    ids=str,
)
def test_stored_schedules_that_make_no_sense_are_refused(stored):
    """S19: a switch point that could never be reached is an error, not a silence."""
    with pytest.raises(ScheduleError):
        ns.Schedule.from_dict(stored)


@pytest.mark.parametrize("at", [3.5, "3", float("nan")], ids=str)
def test_switch_points_that_are_no_token_are_refused(at):
    """S19, control: in Python, too."""
    with pytest.raises(ScheduleError):
        ns.Schedule("en", (at, "fr"))


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, lambda n: np.arange(9)[n]])
def test_numpy_integers_are_integers(kind):
    """S19: positions often come out of an array."""
    schedule = ns.Schedule("en", (kind(3), "fr"), (kind(5), "ja"), repeat=kind(8))
    assert schedule == ns.Schedule("en", (3, "fr"), (5, "ja"), repeat=8)
    assert hash(schedule) == hash(ns.Schedule("en", (3, "fr"), (5, "ja"), repeat=8))
    assert str(schedule) == "en,3:fr,5:ja,repeat=8"
    assert ns.Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    assert ns.Schedule.window("fr", kind(2), kind(5)) == ns.Schedule.window("fr", 2, 5)
    assert ns.Schedule.cycle(["en", "fr"], kind(3)) == ns.Schedule.cycle(["en", "fr"], 3)
    later = ns.Condition.sentence_end(kind(4))
    assert str(ns.Schedule("en", (later, "fr"))) == "en,sentence@4:fr"
    assert schedule.at(kind(4)) == ("fr", 1.0)


STRENGTHS = [0.1, 1 / 3, 0.123456789, 2.0, 1e-7, 1e-300, 5e-324, 123456789.0, 1e16, 1.7e308]


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("label", ["fr", "fr - en", "a*b", "zh-Hant"])
def test_strengths_are_written_with_all_their_digits(strength, label):
    """S19: what is written down is what is read back, to the last bit."""
    for extra in ({}, {"ramp": 4}):
        entries = [{"at": 0, "label": "en"}, {"at": 3, "label": label, "strength": strength}]
        entries[1].update(extra)
        schedule = ns.Schedule.from_dict({"points": entries})
        again = ns.Schedule.parse(str(schedule))
        assert again == schedule
        assert [p.strength for p in again.points] == [1.0, strength]
        assert ns.Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_ordinary_strengths_are_still_written_as_people_write_them():
    """S19, control."""
    for text in ("fr*0.5", "en,24:fr*2", "0~10:fr*0.25", "(fr - en)*0.5"):
        assert str(ns.Schedule.parse(text)) == text


ODD = ["(a)", "((a))", "(a", "a)", "(a)(b)", "-", "a-b", "(-)", "%", "=", "a@3", "3:a", "sentence"]


@pytest.mark.parametrize("label", ODD)
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_labels_with_brackets_and_signs_come_back(label, strength):
    """S19: whatever a label is called, a schedule with it can be written and read."""
    for at in (0, 5):
        entries = [{"at": at, "label": label, "strength": strength}]
        schedule = ns.Schedule.from_dict({"points": entries})
        again = ns.Schedule.parse(str(schedule))
        assert again == schedule and again.labels == (label,)


def test_brackets_belong_to_a_label_unless_they_hold_a_sum():
    """S19: `"(a)*0.5"` is half of the label "(a)"; brackets around a sum are the sum's."""
    assert ns.Schedule.parse("(a)*0.5").labels == ("(a)",)
    assert ns.Schedule.parse("(a)*0.5").points[0].strength == 0.5
    assert ns.Schedule.parse("(a - b)*0.5").labels == ("a - b",)
    model, ids = tiny_model("llama"), tiny_ids(1)
    with ns.attach(model, toy_set(model, labels=("(a)", "a", "b"))) as steer:
        steer.to("(a)", strength=0.5)
        wanted = with_logits(model, ids)
        steer.to("a", strength=0.5)
        assert not torch.equal(with_logits(model, ids)[1], wanted[1])
        for target in ("(a)*0.5", ["(a)*0.5"], "(a)*0.5,90:b,prompt=yes"):
            steer.to(target)
            assert_close(with_logits(model, ids), wanted)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("name", ["zero", "set", "add", "scale"])
def test_strengths_that_are_no_number_are_refused(strength, name):
    """S19: nan and inf end in an error, not in a model that says nothing."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    specs = {
        "zero": {"name": "zero"},
        "set": {"name": "set", "value": "mean"},
        "add": {"name": "add", "value": "mean"},
        "scale": {"name": "scale", "factor": 1.5},
    }
    with ns.attach(model, toy_set(model)) as steer:
        steer.to("en")
        wanted = greedy(model, ids)
        for target in ("fr", "fr,4:ja", ["fr"], "fr - en", None):
            with pytest.raises((ParameterError, ScheduleError), match="(?i)strength|finite"):
                steer.to(target, operation=specs[name], strength=strength)
        for text in (f"fr*{strength}", f"en,4:fr*{strength}", f"(fr - en)*{strength}"):
            with pytest.raises((ParameterError, ScheduleError)):
                steer.to(text, operation=specs[name])
        # A refused call changes nothing.
        assert torch.equal(greedy(model, ids), wanted)
        assert str(steer.schedule) == "en"


# --- S20 --------------------------------------------------------------------------------------


LIVE = {
    "repeat before": ("en,4:fr,repeat=8", {22: "ja"}),
    "repeat after": ("en", {5: "fr,3:ja,repeat=6"}),
    "repeat twice": ("en,2:fr,repeat=5", {7: "ja,3:en,repeat=4", 16: "fr,1:ja,repeat=2"}),
    "ramp before": ("2~20:fr", {9: "ja"}),
    "ramp after, from its middle": ("en", {6: "2~14:fr"}),
    "ramp after, later": ("en", {6: "10~20:fr"}),
    "ramp in a repeat": ("0~6:fr,6:en,repeat=9", {20: "ja"}),
    "strength": ("en*0.5,4:fr*0.25", {10: "ja*0.75,20:en"}),
    "unsteered": ("en", {6: None, 12: "fr"}),
    "several": ("en,10:fr", {4: "ja", 8: "fr,9:-", 15: "en,3:ja,18:fr"}),
}


@pytest.mark.parametrize("case", LIVE)
def test_the_timeline_of_live_switches_is_what_happened(case):
    """S20: repeats and ramps of what was switched from and to are in it."""
    model, ids, new = tiny_model("llama"), tiny_ids(1), 30
    target, switches = LIVE[case]
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(target)
        actions = {at: (lambda then=then: steer.to(then)) for at, then in switches.items()}
        live = with_logits(model, ids, new=new, streamer=Script(actions))
        spans, timeline = steer.spans(), steer.timeline
        assert timeline.spans(new) == spans
        steer.to(timeline)
        assert_close(with_logits(model, ids, new=new), live)
        assert steer.spans() == spans
        # And it can be stored.
        steer.to(ns.Schedule.parse(str(timeline)))
        assert_close(with_logits(model, ids, new=new), live)


WAITING = {
    "fired before the switch": ("en,text=X:fr", {25: "ja"}),
    "not fired before the switch": ("en,text=NEVERSEEN:fr", {6: "ja"}),
    "after the switch": ("en", {3: "ja,text=X:fr"}),
    "sentence, then a switch": ("en,sentence:fr", {20: "ja"}),
    "no switch": ("en,text=X:fr", {}),
}


@pytest.mark.parametrize("case", WAITING)
def test_the_timeline_keeps_what_waited_for_text(case):
    """S20: a replay switches where the conditions switched, and only there."""
    model, tokenizer, ids, new = tiny_model("llama"), tiny_tokenizer(), tiny_ids(1), 30
    target, switches = WAITING[case]

    def sample(**options):
        torch.manual_seed(5)
        return with_logits(model, ids, new=new, do_sample=True, **options)

    with ns.attach(model, toy_set(model), tokenizer=tokenizer) as steer:

        def run(text):
            steer.to(target.replace("X", text))
            actions = {
                at: (lambda then=then: steer.to(then.replace("X", text)))
                for at, then in switches.items()
            }
            return sample(streamer=Script(actions))

        # A letter that occurs late enough to matter, and occurs before the switch.
        if "X" in target + "".join(filter(None, switches.values())):
            for text in "abcdefghijklmnopqrstuvwxyz":
                live = run(text)
                found = steer.spans()
                starts = [start for start, _, label in found if label == "fr"]
                if starts and 5 <= starts[0] <= 20:
                    break
            else:
                raise AssertionError("no letter of this text is of use for the test")
        else:
            live = run("")
        spans = steer.spans()
        steer.to(steer.timeline)
        assert_close(sample(), live)
        assert steer.spans() == spans


def test_timelines_of_rows_are_kept_apart():
    """S20: one timeline per row, each with what was switched for that row."""
    model, ids, new = tiny_model("llama"), tiny_ids(2), 24
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(["en,4:fr,repeat=8", "2~20:ja"])
        script = Script({14: lambda: steer.to(["ja", "en,16:fr,repeat=20"])})
        # Streamers take one row, so a logits processor plays the user here.

        def processor(_ids, scores):
            script.put(None)
            return scores

        script.seen = 0
        live = with_logits(model, ids, new=new, logits_processor=[processor])
        spans = [steer.spans(row) for row in range(2)]
        timelines = steer.timeline
        assert [each.spans(new) for each in timelines] == spans
        steer.to(timelines)
        assert_close(with_logits(model, ids, new=new), live)
        assert [steer.spans(row) for row in range(2)] == spans


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"num_beams": 3, "use_cache": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("text", list("aeions"))
def test_spans_of_a_row_are_those_of_the_sequence_returned_for_it(options, text):
    """S20: with beams, `spans(row)` tells of the text that row got, not of some beam."""
    model, tokenizer, ids, new = tiny_model("llama"), tiny_tokenizer(), tiny_ids(3), 24
    with ns.attach(model, toy_set(model), tokenizer=tokenizer) as steer:
        steer.to(ns.Schedule("en", (ns.Condition.after_text(text), "fr"), prompt=True))
        found = greedy(model, ids, new=new, **options).tolist()
        each = len(found) // len(ids)
        for row in range(len(ids)):
            fired = first_with(tokenizer, found[row * each], text)
            assert steer.spans(row) == runs(new, (0, "en"), (fired, "fr"))


@pytest.mark.parametrize("text", list("aeions"))
def test_spans_do_not_tell_of_drafts_that_were_rejected(text):
    """S20: guessed tokens are not part of the text."""
    model, tokenizer, ids, new = tiny_model("llama"), tiny_tokenizer(), tiny_ids(1, 12), 24
    with ns.attach(model, toy_set(model), tokenizer=tokenizer) as steer:
        steer.to(ns.Schedule("en", (ns.Condition.after_text(text), "fr"), prompt=True))
        found = greedy(model, ids, new=new, prompt_lookup_num_tokens=4)[0].tolist()
        fired = first_with(tokenizer, found, text)
        assert steer.spans() == runs(len(found), (0, "en"), (fired, "fr"))


# --- S21 --------------------------------------------------------------------------------------

SCALED = ("granite", "gemma2", "gemma3_text", "olmo2", "olmo3", "glm4", "exaone4")
PLAIN = ("llama", "qwen3", "mixtral")
LAYER, FEATURES = 1, 8


def feature_model(family):
    options = {"residual_multiplier": 0.22} if family == "granite" else {}
    return tiny_model(family, layers=3, **options)


def feature_set(model, site, seed=0):
    """Return features of two labels in one layer, with their decoder rows."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, model.config.hidden_size, generator=generator) * 2
    return ns.NeuronSet.from_rows(
        ["en", "fr"],
        [0, 1, 1, 1],
        [LAYER] * 4,
        [0, 1, 2, 5],
        values={f"{site}.direction": rows, f"{site}.max": [1.0, 0.5, 1.5, 2.0]},
        site=site,
        num_layers=3,
        width=FEATURES,
        model_type=model.config.model_type,
        operation={"name": "add", "value": "max"},
    )


def direction(neurons, label):
    rows = neurons.rows(label)
    site = rows.site
    return rows.values[f"{site}.max"] @ rows.values[f"{site}.direction"]


@contextlib.contextmanager
def added(module, change):
    """Add `change(positions)` to what a module puts out."""

    def post(_module, _args, output):
        if isinstance(output, tuple):
            return (output[0] + change(output[0]), *output[1:])
        return output + change(output)

    handle = module.register_forward_hook(post)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("family", [*SCALED, *PLAIN])
def test_mlp_features_are_added_to_the_output_of_the_mlp(family):
    """S21: before the norm or the factor that a family puts between MLP and stream."""
    model, ids = feature_model(family), tiny_ids(2)
    neurons = feature_set(model, "sae.mlp")
    mlp = model.model.layers[LAYER].mlp
    with torch.no_grad():
        plain = model(ids).logits
        for label in ("en", "fr"):
            vector = direction(neurons, label)
            for strength in (1.0, 0.5):
                with added(mlp, lambda _x, v=strength * vector: v):
                    wanted = model(ids).logits
                assert not torch.allclose(wanted, plain, atol=1e-2)
                with ns.attach(model, neurons) as steer:
                    steer.to(label, strength=strength)
                    torch.testing.assert_close(model(ids).logits, wanted, rtol=1e-4, atol=1e-4)
        with ns.attach(model, neurons) as steer:
            steer.to("fr - en")
            found = model(ids).logits
        with added(mlp, lambda _x: direction(neurons, "fr") - direction(neurons, "en")):
            torch.testing.assert_close(found, model(ids).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(model(ids).logits, plain)


@pytest.mark.parametrize("family", ["granite", "gemma2", "llama"])
def test_features_of_stream_and_mlp_in_one_layer(family):
    """S21: each where it was read, at the tokens that a schedule says."""
    model, ids = feature_model(family), tiny_ids(2)
    inner, outer = feature_set(model, "sae.mlp"), feature_set(model, "sae.resid", seed=1)
    layer = model.model.layers[LAYER]
    places = torch.arange(ids.shape[1])[None, :, None]

    def by_schedule(neurons):
        en, fr = direction(neurons, "en"), direction(neurons, "fr")
        # The prompt is 3 tokens long; "en" begins where the first new token is predicted.
        return lambda _x: torch.where(places < 2, 0 * en, torch.where(places < 4, en, fr))

    with torch.no_grad():
        with added(layer.mlp, by_schedule(inner)), added(layer, by_schedule(outer)):
            wanted = model(ids).logits
        with ns.attach(model, [inner, outer]) as steer:
            steer.to("en,2:fr", prompt_length=3)
            torch.testing.assert_close(model(ids).logits, wanted, rtol=1e-4, atol=1e-4)
            steer.to(["fr", None])
            rows = model(ids).logits
        with (
            added(layer.mlp, lambda _x: direction(inner, "fr")),
            added(layer, lambda _x: direction(outer, "fr")),
        ):
            torch.testing.assert_close(rows[0], model(ids).logits[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(rows[1], model(ids).logits[1], rtol=1e-4, atol=1e-4)


# --- S22 --------------------------------------------------------------------------------------


def large_set(model, value=1e5, **options):
    """Return a set whose label "fr" has one value in layer 1 that float16 cannot hold."""
    neurons = toy_set(model, **options)
    column = neurons.values["mlp.neuron.mean"].clone()
    row = int(((neurons.label == neurons.labels.index("fr")) & (neurons.layer == 1)).nonzero()[0])
    column[row] = value
    return neurons.replace(values={**neurons.values, "mlp.neuron.mean": column})


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("value", [1e5, -1e5])
@pytest.mark.parametrize(
    ("target", "operation", "strength"),
    [
        ("fr", None, 1.0),
        ("en,4:fr", None, 1.0),
        (["fr", "en"], None, 1.0),
        ("fr", {"name": "add", "value": "mean"}, 1.0),
        ("fr", {"name": "add", "value": "mean", "factor": 0.5}, 2.0),
    ],
    ids=str,
)
def test_values_too_large_for_half_precision_are_refused(
    family, value, target, operation, strength
):
    """S22: a shift that would be infinite is an error that names label, layer and dtype."""
    model, ids = tiny_model(family, dtype=torch.float16), tiny_ids(2)
    with ns.attach(model, large_set(model, value)) as steer:
        steer.to("en")
        wanted = greedy(model, ids, new=3)
        with pytest.raises(NeuronSteerError) as caught:
            steer.to(target, operation=operation, strength=strength)
            greedy(model, ids, new=6)
        message = str(caught.value)
        assert "'fr'" in message and "float16" in message
        assert "layer 1" in message.lower() or "layers.1" in message
        # Other labels go on working.
        steer.to("en")
        assert torch.equal(greedy(model, ids, new=3), wanted)
        # And so does this one where its values fit.
        steer.to("fr", operation={"name": "add", "value": "mean"}, strength=0.25)
        assert not torch.equal(greedy(model, ids, new=3), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_values_that_fit_are_taken(dtype):
    """S22, control: the other formats reach far enough."""
    model, ids = tiny_model("llama", dtype=dtype), tiny_ids(1)
    with torch.no_grad(), ns.attach(model, large_set(model)) as steer:
        plain = model(ids).logits
        steer.to("fr")
        found = model(ids).logits
        assert found.isfinite().all() and not torch.equal(found, plain)
