"""What a server makes of settings and of the text of a request. No vLLM is needed for that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import ArtifactError, LabelError, NeuronSteerError, ParameterError
from neuronsteer.integrations.vllm import served_sets as served_sets_module
from neuronsteer.integrations.vllm.compiled_labels import ServedSet, load_set
from neuronsteer.integrations.vllm.request_schedule import (
    MAX_STEPS,
    TOKEN_LIMIT,
    RequestSchedule,
    ScheduleStep,
)
from neuronsteer.integrations.vllm.served_sets import ModelShape, ServedSets
from neuronsteer.integrations.vllm.settings import ServeSettings, SetSource


def save(folder: Path, *labels: str, seed: int = 0, **header) -> str:
    draw = torch.Generator().manual_seed(seed)
    size = 3 * len(labels)
    options = {
        "site": "mlp.neuron",
        "num_layers": 2,
        "width": 16,
        "model_type": "llama",
        "operation": {"name": "set", "value": "mean"},
        **header,
    }
    ns.NeuronSet.from_rows(
        list(labels),
        label=torch.arange(size) // 3,
        layer=torch.arange(size) % 2,
        index=torch.arange(size) % 16,
        values={f"{options['site']}.mean": torch.randn(size, generator=draw)},
        **options,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def two(tmp_path: Path) -> dict:
    return {
        "one": save(tmp_path / "one", "en", "fr", "ja"),
        "other": save(tmp_path / "other", "fr", "de", seed=1),
    }


@pytest.fixture
def served(two: dict) -> ServedSets:
    return ServedSets(ServeSettings.read({"sets": two}), ModelShape("llama", 2, 16))


# --- settings ---------------------------------------------------------------------------------


def test_settings_say_the_same_in_every_form():
    plain = ServeSettings.read({"sets": "user/a"})
    assert (
        plain
        == ServeSettings.read({"sets": ["user/a"]})
        == ServeSettings.read({"sets": {"a": "user/a"}})
    )
    assert plain.sets == (SetSource("a", "user/a"),)
    full = {
        "sets": {"x": {"source": "user/a", "revision": "v2", "operation": {"name": "zero"}}},
        "capacity": 8,
        "default": "fr",
    }
    assert ServeSettings.read(full).to_dict() == full
    assert (
        ServeSettings.read({"sets": [{"source": "user/a", "subfolder": "deep/b"}]}).sets[0].name
        == "b"
    )


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("user/a", "The setting 'neuronsteer' is 'user/a'"),
        ({"set": "user/a"}, "Unknown field 'set' in the setting.*Did you mean 'sets'"),
        ({"sets": 3}, "The field 'sets' is 3"),
        ({"sets": {"a": {"path": "x"}}}, "Unknown field 'path' in a neuron set"),
        ({"sets": {"a": {"revision": "x"}}}, "has no 'source'"),
        ({"sets": {"a": {"source": "x", "revision": 1}}}, "'revision' of the neuron set 'x' is 1"),
        (
            {"sets": {"a": {"source": "x", "operation": 1}}},
            "'operation' of the neuron set 'x' is 1",
        ),
        ({"sets": ["u/a", "v/a"]}, "Two neuron sets are called 'a'"),
        ({"sets": {"-": "u/a"}}, "cannot be called '-'"),
        ({"sets": "u/a", "capacity": 0}, "'capacity' is 0"),
        ({"sets": "u/a", "default": 3}, "'default' is 3"),
    ],
)
def test_settings_that_cannot_be_read_say_which_field(block, message):
    with pytest.raises(ParameterError, match=message):
        ServeSettings.read(block)


# --- schedules ------------------------------------------------------------------------------------


def test_schedules_count_positions_from_the_start_of_the_sequence(served: ServedSets):
    schedule = served.resolve("en,24:de", prompt_tokens=10)
    assert schedule is not None
    assert (schedule.origin, schedule.prompt, schedule.repeat) == (9, False, 0)
    assert [step.start for step in schedule.steps] == [0, 24]
    assert len(schedule.keys) == 2 and not schedule.weighted
    assert served.resolve("en,24:de,prompt=yes", 10).prompt
    assert served.resolve("en,4:de,repeat=8", 10).repeat == 8
    assert [s.ramp for s in served.resolve("-,4~8:de", 10).steps] == [1, 4]
    assert served.resolve("de*0.5", 10).weighted


@pytest.mark.parametrize("text", [None, "-", "en*0", "-,5:-", "en*0,5:-"])
def test_a_schedule_that_never_steers_resolves_to_nothing(served: ServedSets, text):
    assert served.resolve(text, 10) is None


def test_schedules_survive_the_journey_to_the_workers(served: ServedSets):
    import json

    for text in ("de", "en,3:de*0.5,9~12:ja,repeat=20,prompt=yes"):
        schedule = served.resolve(text, 7)
        assert RequestSchedule.from_wire(json.loads(json.dumps(schedule.to_wire()))) == schedule


def test_the_salt_tells_apart_what_must_not_share_cached_prefixes(served: ServedSets, two):
    def salt(text: str, prompt: int = 10, of: ServedSets = served) -> str:
        return of.resolve(text, prompt).salt

    texts = ["en", "de", "de*0.5", "en,5:de", "en,6:de", "en,5:de,prompt=yes", "en,prompt=no"]
    texts += ["en,5:de,repeat=9", "-,5:de", "-,5~7:de", "one/fr", "other/fr"]
    assert len({salt(text) for text in texts}) == len(texts)
    # A label that holds everywhere is the same at any length of the prompt; a switch is not.
    assert salt("en", 10) == salt("en", 99)
    assert salt("en,5:de", 10) != salt("en,5:de", 11)
    # It depends on contents, not on names.
    renamed = ServedSets(
        ServeSettings.read({"sets": {"x": two["one"]}}), ModelShape("llama", 2, 16)
    )
    assert salt("en", of=renamed) == salt("en")
    zeroed = {"x": {"source": two["one"], "operation": "zero"}}
    assert salt("en", of=ServedSets(ServeSettings.read({"sets": zeroed}))) != salt("en")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("xx", "Unknown label 'xx': this server has en, fr, ja, de"),
        ("jp", "Did you mean 'ja'"),
        ("fr", "several of this server's neuron sets; say which: 'one/fr' or 'other/fr'"),
        ("one/de", "Unknown label 'de': the set 'one' has en, fr, ja"),
        ("en,24", "only the first part may be a bare label"),
        ("en,9:de,3:ja", "strictly increasing order"),
        ("", "The schedule is empty"),
        ("en,sentence:de", "waits for text, which a server cannot do"),
        ("en*1.5", "blends between untouched"),
        ("en*-1", "must be a finite number"),
        (["en"], "expected a schedule as text"),
        (3, "expected a schedule as text"),
        (",".join(f"{i}:en" for i in range(MAX_STEPS + 1)), f"a request may have {MAX_STEPS}"),
    ],
)
def test_requests_that_cannot_be_served_are_told_why(served: ServedSets, wanted, message):
    with pytest.raises(NeuronSteerError, match=message):
        served.resolve(wanted, 10)


def test_labels_are_found_in_their_set(served: ServedSets):
    assert served.resolve("one/en", 5) == served.resolve("en", 5)
    assert served.resolve("one/fr", 5).keys != served.resolve("other/fr", 5).keys


def test_a_label_without_neurons_is_refused(tmp_path: Path):
    found = ns.NeuronSet.from_rows(
        ["en", "fr"], [0], [0], [1], site="mlp.neuron", num_layers=2, width=16
    )
    found.save_pretrained(tmp_path / "half")
    served = ServedSets(ServeSettings.read({"sets": str(tmp_path / "half")}))
    with pytest.raises(LabelError, match=r"'fr' has no neurons.*Labels with neurons: en"):
        served.resolve("fr", 5)


def test_the_default_is_for_requests_that_say_nothing(two: dict):
    served = ServedSets(ServeSettings.read({"sets": two, "default": "en,5:de"}))
    assert served.resolve(None, 5) == served.resolve("en,5:de", 5)
    assert served.resolve("-", 5) is None
    with pytest.raises(ParameterError, match=r"default cannot be used: Unknown label 'xx'"):
        ServedSets(ServeSettings.read({"sets": two, "default": "xx"}))


# --- what can be served -----------------------------------------------------------------------


def test_sets_that_a_server_cannot_steer_are_refused(tmp_path: Path):
    attention = save(tmp_path / "attn", "en", site="attn.o")
    with pytest.raises(NeuronSteerError, match=r"are at 'attn\.o'; a server steers MLP neurons"):
        load_set(SetSource("attn", attention))
    gate = save(tmp_path / "gate", "en", site="mlp.act")
    at_gate = {"name": "set", "value": 1.0, "site": "mlp.act"}
    with pytest.raises(ParameterError, match=r"at 'mlp\.act' needs the up projection's output"):
        load_set(SetSource("gate", gate, operation=at_gate))
    # What is the same at both is fine.
    load_set(SetSource("gate", gate, operation={"name": "zero", "site": "mlp.act"}))


def test_sets_for_another_model_are_refused(two: dict):
    with pytest.raises(ArtifactError, match="Field 'num_layers'"):
        ServedSets(ServeSettings.read({"sets": two}), ModelShape("llama", 3, 16))
    with pytest.raises(ArtifactError, match="Field 'width'"):
        ServedSets(ServeSettings.read({"sets": two}), ModelShape("llama", 2, 32))


def test_rows_are_what_the_operation_says_and_sets_travel_as_bytes(two: dict):
    served = load_set(SetSource("one", two["one"]))
    rows = served.neurons.rows("fr")
    assert ServedSet.from_wire(served.to_wire()) == served
    scale, shift = served.operation.affine(rows, "mlp.neuron")
    for layer, (columns, scales, shifts) in served.compile("fr").items():
        mine = rows.layer == layer
        assert torch.equal(columns, rows.index[mine])
        assert torch.equal(scales, scale[mine]) and torch.equal(shifts, shift[mine])


# --- adding and removing sets --------------------------------------------------------------------


def test_the_tables_are_bounded(two: dict):
    with pytest.raises(ParameterError, match=r"'other' has 2 labels.*hold 4 and 3 are taken"):
        ServedSets(ServeSettings.read({"sets": two, "capacity": 4}))


def test_rows_of_a_removed_set_are_kept_while_they_are_needed(two: dict, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(served_sets_module.time, "monotonic", lambda: now[0])
    served = ServedSets(ServeSettings.read({"sets": {"one": two["one"]}, "capacity": 3}))
    running = served.resolve("en", 5).keys
    new = served.prepare(SetSource("other", two["other"]))
    with pytest.raises(ParameterError, match="hold 3 and 3 are taken"):
        served.check_capacity(new, lambda: ())
    served.remove("one")
    with pytest.raises(LabelError, match="Unknown label 'en'"):
        served.resolve("en", 5)
    with pytest.raises(ParameterError, match="still in use"):  # requests may still be on their way
        served.check_capacity(new, lambda: ())
    now[0] += served_sets_module.GRACE
    assert not running & set(served.check_capacity(new, lambda: running))
    freed = served.check_capacity(new, lambda: ())
    assert len(freed) == 3
    served.forget(freed)
    served.add(new)
    assert served.describe()["used"] == 2 and served.names() == ["other"]


def test_a_set_that_comes_back_finds_its_rows(two: dict):
    served = ServedSets(ServeSettings.read({"sets": {"one": two["one"]}, "capacity": 3}))
    served.remove("one")
    new = served.prepare(SetSource("again", two["one"]))
    assert served.check_capacity(new, lambda: ()) == []
    served.add(new)
    assert served.describe()["used"] == 3


def test_names_are_unique_and_must_exist(served: ServedSets, two: dict):
    with pytest.raises(ParameterError, match="called 'one' is served already"):
        served.prepare(SetSource("one", two["one"]))
    with pytest.raises(LabelError, match=r"No neuron set called 'onne'.*Did you mean 'one'"):
        served.remove("onne")


def test_a_step_is_plain_data():
    step = ScheduleStep(3, "key", 0.5, 4)
    assert RequestSchedule(9, (step,)).to_wire() == [9, 0, False, 0, [[3, "key", 0.5, 4]]]


def test_a_long_ramp_is_one_step(served: ServedSets):
    """S17: unrolled, this ramp would have two billion steps."""
    ramp = served.resolve("-,3~2000000000:en", 10)
    assert [(step.start, step.ramp) for step in ramp.steps] == [(0, 1), (3, 1_999_999_997)]


@pytest.mark.parametrize("text", ["en,{}:fr", "en,5~{}:fr", "en,repeat={}"])
def test_numbers_that_a_worker_could_not_store_are_refused(served: ServedSets, text: str):
    with pytest.raises(NeuronSteerError, match="which no text reaches"):
        served.resolve(text.replace("fr", "de").format(TOKEN_LIMIT + 5), 10)
