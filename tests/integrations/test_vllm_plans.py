"""What a server makes of settings and of a request's text. No vLLM is needed for that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import ArtifactError, LabelError, NeuronSteerError, ParameterError
from neuronsteer.integrations.vllm import served_sets as catalogue_module
from neuronsteer.integrations.vllm.compiled_labels import Move, load
from neuronsteer.integrations.vllm.request_schedule import MAX_STEPS, Plan, Step
from neuronsteer.integrations.vllm.served_sets import Catalogue, Shape
from neuronsteer.integrations.vllm.settings import Settings, Source


def save(folder: Path, *labels: str, seed: int = 0, **header) -> str:
    draw = torch.Generator().manual_seed(seed)
    size = 3 * len(labels)
    options = {
        "site": "mlp.neuron",
        "num_layers": 2,
        "d_ff": 16,
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
def catalogue(two: dict) -> Catalogue:
    return Catalogue(Settings.read({"sets": two}), Shape("llama", 2, 16))


# --- settings ---------------------------------------------------------------------------------


def test_settings_say_the_same_in_every_form():
    plain = Settings.read({"sets": "user/a"})
    assert plain == Settings.read({"sets": ["user/a"]}) == Settings.read({"sets": {"a": "user/a"}})
    assert plain.sets == (Source("a", "user/a"),)
    full = {
        "sets": {"x": {"source": "user/a", "revision": "v2", "operation": {"name": "zero"}}},
        "capacity": 8,
        "default": "fr",
    }
    assert Settings.read(full).to_dict() == full
    assert (
        Settings.read({"sets": [{"source": "user/a", "subfolder": "deep/b"}]}).sets[0].name == "b"
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
        Settings.read(block)


# --- plans ------------------------------------------------------------------------------------


def test_plans_count_positions_from_the_start_of_the_sequence(catalogue: Catalogue):
    plan = catalogue.plan("en,24:de", prompt_tokens=10)
    assert plan is not None
    assert (plan.origin, plan.prompt, plan.repeat) == (9, False, 0)
    assert [step.start for step in plan.steps] == [0, 24]
    assert len(plan.keys) == 2 and not plan.weighted
    assert catalogue.plan("en,24:de,prompt=yes", 10).prompt
    assert catalogue.plan("en,4:de,repeat=8", 10).repeat == 8
    assert [s.ramp for s in catalogue.plan("-,4~8:de", 10).steps] == [1, 4]
    assert catalogue.plan("de*0.5", 10).weighted


@pytest.mark.parametrize("text", [None, "-", "en*0", "-,5:-", "en*0,5:-"])
def test_a_schedule_that_never_steers_is_no_plan(catalogue: Catalogue, text):
    assert catalogue.plan(text, 10) is None


def test_plans_survive_the_journey_to_the_workers(catalogue: Catalogue):
    import json

    for text in ("de", "en,3:de*0.5,9~12:ja,repeat=20,prompt=yes"):
        plan = catalogue.plan(text, 7)
        assert Plan.from_wire(json.loads(json.dumps(plan.to_wire()))) == plan


def test_the_salt_tells_apart_what_must_not_share_cached_prefixes(catalogue: Catalogue, two):
    def salt(text: str, prompt: int = 10, of: Catalogue = catalogue) -> str:
        return of.plan(text, prompt).salt

    texts = ["en", "de", "de*0.5", "en,5:de", "en,6:de", "en,5:de,prompt=yes", "en,prompt=no"]
    texts += ["en,5:de,repeat=9", "-,5:de", "-,5~7:de", "one/fr", "other/fr"]
    assert len({salt(text) for text in texts}) == len(texts)
    # A label that holds everywhere is the same at any length of the prompt; a switch is not.
    assert salt("en", 10) == salt("en", 99)
    assert salt("en,5:de", 10) != salt("en,5:de", 11)
    # It speaks of contents, not of names.
    renamed = Catalogue(Settings.read({"sets": {"x": two["one"]}}), Shape("llama", 2, 16))
    assert salt("en", of=renamed) == salt("en")
    zeroed = {"x": {"source": two["one"], "operation": "zero"}}
    assert salt("en", of=Catalogue(Settings.read({"sets": zeroed}))) != salt("en")


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
        ("en*-1", "must be finite and not negative"),
        (["en"], "expected a schedule as text"),
        (3, "expected a schedule as text"),
        (",".join(f"{i}:en" for i in range(MAX_STEPS + 1)), f"a request may have {MAX_STEPS}"),
    ],
)
def test_requests_that_cannot_be_served_are_told_why(catalogue: Catalogue, wanted, message):
    with pytest.raises(NeuronSteerError, match=message):
        catalogue.plan(wanted, 10)


def test_labels_are_found_in_their_set(catalogue: Catalogue):
    assert catalogue.plan("one/en", 5) == catalogue.plan("en", 5)
    assert catalogue.plan("one/fr", 5).keys != catalogue.plan("other/fr", 5).keys


def test_a_label_without_neurons_is_refused(tmp_path: Path):
    found = ns.NeuronSet.from_rows(
        ["en", "fr"], [0], [0], [1], site="mlp.neuron", num_layers=2, d_ff=16
    )
    found.save_pretrained(tmp_path / "half")
    catalogue = Catalogue(Settings.read({"sets": str(tmp_path / "half")}))
    with pytest.raises(LabelError, match=r"'fr' has no neurons.*Labels with neurons: en"):
        catalogue.plan("fr", 5)


def test_the_default_is_for_requests_that_say_nothing(two: dict):
    catalogue = Catalogue(Settings.read({"sets": two, "default": "en,5:de"}))
    assert catalogue.plan(None, 5) == catalogue.plan("en,5:de", 5)
    assert catalogue.plan("-", 5) is None
    with pytest.raises(ParameterError, match=r"default cannot be used: Unknown label 'xx'"):
        Catalogue(Settings.read({"sets": two, "default": "xx"}))


# --- what can be served -----------------------------------------------------------------------


def test_sets_that_a_server_cannot_steer_are_refused(tmp_path: Path):
    attention = save(tmp_path / "attn", "en", site="attn.o")
    with pytest.raises(NeuronSteerError, match=r"live at 'attn\.o'; a server steers MLP neurons"):
        load(Source("attn", attention))
    gate = save(tmp_path / "gate", "en", site="mlp.act")
    at_gate = {"name": "set", "value": 1.0, "site": "mlp.act"}
    with pytest.raises(ParameterError, match=r"at 'mlp\.act' needs the up projection's output"):
        load(Source("gate", gate, operation=at_gate))
    # What is the same at both is fine.
    load(Source("gate", gate, operation={"name": "zero", "site": "mlp.act"}))


def test_sets_for_another_model_are_refused(two: dict):
    with pytest.raises(ArtifactError, match="Field 'num_layers'"):
        Catalogue(Settings.read({"sets": two}), Shape("llama", 3, 16))
    with pytest.raises(ArtifactError, match="Field 'd_ff'"):
        Catalogue(Settings.read({"sets": two}), Shape("llama", 2, 32))


def test_moves_are_what_the_operation_says_and_travel_as_bytes(two: dict):
    served = load(Source("one", two["one"]))
    rows = served.neurons.rows("fr")
    move = Move.from_wire(served.moves["fr"].to_wire())
    scale, shift = served.operation.affine(rows, "mlp.neuron")
    for layer, (columns, scales, shifts) in move.layers.items():
        mine = rows.layer == layer
        assert torch.equal(columns, rows.index[mine])
        assert torch.equal(scales, scale[mine]) and torch.equal(shifts, shift[mine])
    assert move.key == served.moves["fr"].key != served.moves["en"].key


# --- sets that come and go --------------------------------------------------------------------


def test_the_tables_are_bounded(two: dict):
    with pytest.raises(ParameterError, match=r"'other' has 2 labels.*hold 4 and 3 are taken"):
        Catalogue(Settings.read({"sets": two, "capacity": 4}))


def test_rows_of_a_removed_set_are_kept_while_they_are_needed(two: dict, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(catalogue_module.time, "monotonic", lambda: now[0])
    catalogue = Catalogue(Settings.read({"sets": {"one": two["one"]}, "capacity": 3}))
    running = catalogue.plan("en", 5).keys
    served = catalogue.prepare(Source("other", two["other"]))
    with pytest.raises(ParameterError, match="hold 3 and 3 are taken"):
        catalogue.room_for(served, lambda: ())
    catalogue.leave("one")
    with pytest.raises(LabelError, match="Unknown label 'en'"):
        catalogue.plan("en", 5)
    with pytest.raises(ParameterError, match="still in use"):  # nobody knows yet who is on the way
        catalogue.room_for(served, lambda: ())
    now[0] += catalogue_module.GRACE
    assert not running & set(catalogue.room_for(served, lambda: running))
    gone = catalogue.room_for(served, lambda: ())
    assert len(gone) == 3
    catalogue.give_up(gone)
    catalogue.enter(served)
    assert catalogue.describe()["used"] == 2 and catalogue.names() == ["other"]


def test_a_set_that_comes_back_finds_its_rows(two: dict):
    catalogue = Catalogue(Settings.read({"sets": {"one": two["one"]}, "capacity": 3}))
    catalogue.leave("one")
    served = catalogue.prepare(Source("again", two["one"]))
    assert catalogue.room_for(served, lambda: ()) == []
    catalogue.enter(served)
    assert catalogue.describe()["used"] == 3


def test_names_are_unique_and_must_exist(catalogue: Catalogue, two: dict):
    with pytest.raises(ParameterError, match="called 'one' is served already"):
        catalogue.prepare(Source("one", two["one"]))
    with pytest.raises(LabelError, match=r"No neuron set called 'onne'.*Did you mean 'one'"):
        catalogue.leave("onne")


def test_a_step_is_plain_data():
    step = Step(3, "key", 0.5, 4)
    assert Plan(9, (step,)).to_wire() == [9, 0, False, [[3, "key", 0.5, 4]]]
