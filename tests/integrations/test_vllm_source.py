"""What is left, on a server: said by a request, the server or the set, and after a switch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import texts
from neuronsteer.errors import (
    ArtifactError,
    LabelError,
    NeuronSteerError,
    ParameterError,
    ScheduleError,
)
from neuronsteer.integrations.vllm import admission
from neuronsteer.integrations.vllm.compiled_labels import WorkerSets, load_set, read_key
from neuronsteer.integrations.vllm.layers import SteeredLayer, TokenRows
from neuronsteer.integrations.vllm.request_schedule import MAX_STEPS
from neuronsteer.integrations.vllm.served_sets import ServedSets
from neuronsteer.integrations.vllm.settings import KEY, SOURCE, ServeSettings, SetSource
from neuronsteer.integrations.vllm.worker_tables import WorkerTables

from .test_vllm_requests import save

LABELS = ("de", "en", "es", "fr")
ADD = {"name": "add", "value": "diffmean", "factor": 1.0}


def relative(folder: Path, *labels: str, **header) -> str:
    """Save a set that adds differences of means."""
    size = 3 * len(labels)
    means = torch.randn(size, len(labels), generator=torch.Generator().manual_seed(3))
    options = {"source": "prompt", "operation": ADD, **header}
    ns.NeuronSet.from_rows(
        list(labels),
        label=torch.arange(size) // 3,
        layer=torch.arange(size) % 2,
        index=torch.arange(size) % 16,
        values={"mlp.neuron.means": means},
        site="mlp.neuron",
        num_layers=2,
        width=16,
        means_of=labels,
        **options,
    ).save_pretrained(folder)
    return str(folder)


def serve(folder: str, **settings) -> ServedSets:
    return ServedSets(ServeSettings.read({"sets": {"one": folder}, **settings}))


def pairs(served: ServedSets, wanted: str | None, source=None) -> list[tuple[str, ...]]:
    """Return label and what it leaves, per step."""
    found = served.resolve(wanted, 5, source)
    assert found is not None
    read = [read_key(step.key) if step.key else ("", "-", ()) for step in found.steps]
    return [(label, *left) for _, label, left in read]


@pytest.fixture
def one(tmp_path: Path) -> str:
    return relative(tmp_path / "one", *LABELS)


# --- who says it ----------------------------------------------------------------------------------


def test_what_a_prompt_would_have_to_tell_must_be_said(one: str):
    served = serve(one)
    for wanted in ("fr", "fr,4:de", "-,4:fr"):
        with pytest.raises(
            ParameterError, match=r"cannot read.*'neuronsteer_source': 'en'.*others"
        ):
            served.resolve(wanted, 5)
    with pytest.raises(ParameterError, match="cannot read"):
        served.resolve("fr", 5, "prompt")
    assert served.resolve("-", 5) is None and served.resolve(None, 5) is None
    assert pairs(served, "fr", "en") == pairs(serve(one, source="en"), "fr") == [("fr", "en")]
    assert pairs(served, "fr", "others") == pairs(served, "fr", "fr") == [("fr",)]
    assert pairs(served, "fr", ["en", "es"]) == [("fr", "en", "es")]
    # A request overrules the server.
    assert pairs(serve(one, source="en"), "fr", "es") == [("fr", "es")]


def test_a_set_may_say_it(tmp_path: Path):
    english = serve(relative(tmp_path / "english", *LABELS, source="en"))
    assert pairs(english, "fr") == [("fr", "en")] and pairs(english, "en") == [("en",)]
    others = serve(relative(tmp_path / "others", *LABELS, source="others"))
    # As with attach(): all others are left then, after a switch as well.
    assert pairs(others, "fr,4:de") == [("fr",), ("de",)]
    assert pairs(others, "fr,4:de", "en") == [("fr", "en"), ("de", "fr")]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("eng", LabelError, r"Unknown label 'eng': the means of the set.*Did you mean 'en'"),
        (3, ParameterError, "'neuronsteer_source' is 3; expected the label"),
        (["en", 3], ParameterError, "expected the label"),
        (["en", "prompt"], ParameterError, "stands alone"),
    ],
)
def test_sources_that_make_no_sense_are_refused(one: str, source, error, message):
    with pytest.raises(error, match=message):
        serve(one).resolve("fr", 5, source)


def test_a_source_that_makes_no_difference_is_refused(one: str, tmp_path: Path):
    plain = save(tmp_path / "plain", "en", "fr", "ja")
    with pytest.raises(ParameterError, match="makes no difference"):
        serve(plain).resolve("fr", 5, "en")
    with pytest.raises(ParameterError, match=r"source cannot be used.*makes no difference"):
        serve(plain, source="en")
    zeroed = {"source": one, "operation": "zero"}
    served = ServedSets(ServeSettings.read({"sets": {"zero": zeroed}}))
    assert pairs(served, "fr") == [("fr",)]
    # Of several sets, it is for those where it does.
    both = {"sets": {"one": one, "plain": plain}, "source": "en"}
    served = ServedSets(ServeSettings.read(both))
    assert pairs(served, "one/fr,4:plain/en,8:de", "es") == [("fr", "es"), ("en",), ("de", "en")]
    with pytest.raises(LabelError, match="Unknown label 'ja': the means of the set"):
        served.resolve("ja,4:one/fr", 5)


def test_a_server_checks_its_source_and_default(one: str):
    with pytest.raises(ParameterError, match=r"source cannot be used: Unknown label 'xx'"):
        serve(one, source="xx")
    with pytest.raises(ParameterError, match="cannot read"):
        serve(one, source="prompt")
    with pytest.raises(ParameterError, match=r"default cannot be used.*cannot read"):
        serve(one, default="fr")
    served = serve(one, default="fr", source=["en", "es"])
    assert pairs(served, None) == [("fr", "en", "es")]
    assert pairs(served, None, "en") == [("fr", "en")]
    with pytest.raises(ParameterError, match="nothing says what to steer to"):
        serve(one).resolve(None, 5, "en")
    block = {"sets": {"one": {"source": one}}, "capacity": 64, "source": ["en", "es"]}
    assert ServeSettings.read(block).to_dict() == block
    with pytest.raises(ParameterError, match="'source' is 3"):
        ServeSettings.read({**block, "source": 3})
    listed = served.describe()
    assert listed["source"] == ["en", "es"] and listed["sets"]["one"]["means_of"] == list(LABELS)


# --- schedules ------------------------------------------------------------------------------------


def test_after_a_switch_the_label_before_is_left(one: str):
    served = serve(one, source="en")
    assert pairs(served, "fr,4:de,9:-,12:de*0.5,15:one/es") == [
        ("fr", "en"), ("de", "fr"), ("-",), ("de", "fr"), ("es", "de"),
    ]  # fmt: skip
    repeated = served.resolve("fr,4:de,repeat=9", 5)
    assert repeated is not None and (repeated.again, repeated.repeat) == (4, 9)
    assert pairs(served, "fr,4:de,repeat=9") == [("fr", "en"), ("de", "fr"), ("fr", "de")]
    once = served.resolve("fr,repeat=9", 5)
    assert once is not None and (once.again, len(once.steps)) == (0, 1)
    later = [f"{i}:{'de' if i % 2 else 'fr'}" for i in range(1, MAX_STEPS)]
    many = ",".join(["fr", *later])
    served.resolve(many, 5)
    with pytest.raises(ScheduleError, match=r"32 switch points and takes 1 more steps"):
        served.resolve(f"{many},repeat=40", 5)


def test_prefixes_are_told_apart_by_what_is_left(one: str):
    served = serve(one)

    def salt(text: str, source: str) -> str:
        found = served.resolve(text, 5, source)
        assert found is not None
        return found.salt

    salts = {salt("fr", source) for source in ("en", "es", "de", "others")}
    assert len(salts) == 4
    assert salt("fr,4:de,repeat=9", "en") != salt("fr,4:de,repeat=9", "es")
    assert salt("fr", "en") == salt("one/fr", "en")


# --- strengths ------------------------------------------------------------------------------------


def test_strength_one_is_what_the_set_was_tuned_to(tmp_path: Path):
    tuned = relative(tmp_path / "tuned", *LABELS, strengths={"fr": 2.5}, source="en")

    def strengths(served: ServedSets, text: str) -> list[float]:
        found = served.resolve(text, 5)
        assert found is not None
        return [step.strength for step in found.steps]

    served = serve(tuned)
    assert strengths(served, "fr,4:de,8:fr*0.5") == [2.5, 1.0, 1.25]
    # An operation of the server's has strengths of its own.
    chosen = {"source": tuned, "operation": ADD}
    own = ServedSets(ServeSettings.read({"sets": {"own": chosen}}))
    assert strengths(own, "fr") == [1.0]
    # They may differ in nothing else, and yet do not mean the same.
    both = {"sets": {"one": tuned, "own": chosen}}
    with pytest.raises(LabelError, match="'one/fr' or 'own/fr'"):
        ServedSets(ServeSettings.read(both)).resolve("fr", 5)


def test_bounded_operations_refuse_what_is_stronger_than_all_of_it(tmp_path: Path):
    served = serve(save(tmp_path / "tuned", "en", "fr", strengths={"fr": 0.5, "en": 2.0}))
    served.resolve("fr*2", 5)
    served.resolve("en*0.5", 5)
    for text in ("fr*2.5", "en"):
        with pytest.raises(NeuronSteerError, match="blends between untouched"):
            served.resolve(text, 5)


# --- room -----------------------------------------------------------------------------------------


def output_processor(**states) -> SimpleNamespace:
    return SimpleNamespace(request_states=states)


def add(output: SimpleNamespace, served: ServedSets, name: str, text: str, source: str) -> None:
    found = served.resolve(text, 5, source)
    assert found is not None
    params = SimpleNamespace(extra_args={KEY: found.to_wire()})

    def original(self, request) -> None:
        self.request_states[request.request_id] = request

    admission._note_rows(original)(output, SimpleNamespace(request_id=name, sampling_params=params))


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(admission, "_refusal", ParameterError)


@pytest.mark.usefixtures("refusals")
def test_requests_share_the_tables(one: str):
    served, output = serve(one, capacity=5), output_processor()
    add(output, served, "a", "fr,4:de", "en")
    add(output, served, "b", "fr,4:de,8:es", "en")
    add(output, served, "c", "fr", "en")
    add(output, served, "d", "fr,4:en", "es")
    with pytest.raises(ParameterError, match=r"hold 5 rows.*need 5 of them, this one 1 more"):
        add(output, served, "e", "fr", "de")
    assert "e" not in output.request_states
    add(output, served, "f", "es", "de")  # a row that is there already
    del output.request_states["d"]
    add(output, served, "e", "fr", "de")
    # Several processes admit requests for the same tables.
    share = ServedSets(ServeSettings.read({"sets": {"one": one}, "capacity": 5}), None, 2)
    del served
    add(output_processor(), share, "a", "fr,4:de", "en")
    with pytest.raises(ParameterError, match="hold 2 rows"):
        add(output_processor(), share, "a", "fr,4:de,8:es", "en")


@pytest.mark.usefixtures("refusals")
def test_workers_may_go_on_with_what_was_given_up(one: str, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    served, output = serve(one, capacity=4), output_processor()

    async def requests() -> None:
        add(output, served, "a", "fr,4:de,8:es,12:en", "en")
        del output.request_states["a"]
        with pytest.raises(ParameterError, match="Try again in a moment"):
            add(output, served, "b", "fr", "es")
        now[0] += 5
        add(output, served, "b", "fr", "es")

    asyncio.run(requests())


@pytest.mark.usefixtures("refusals")
def test_sets_without_pairs_are_never_short_of_room(tmp_path: Path):
    served, output = serve(save(tmp_path / "plain", "en", "fr"), capacity=2), output_processor()
    for name in "abc":
        add(output, served, name, "en,4:fr", None)  # pyright: ignore


def test_a_removed_set_is_needed_whatever_its_labels_leave(one: str, monkeypatch):
    served = serve(one, capacity=4)
    running = served.resolve("fr", 5, "en").keys
    [key] = served.set_keys()
    served.remove("one")
    monkeypatch.setattr("neuronsteer.integrations.vllm.served_sets.GRACE", 0.0)
    other = served.prepare(SetSource("other", save(Path(one).parent / "other", "ja", seed=1)))
    freed = served.check_capacity(other, lambda: running)
    assert len(freed) == 3 and served.set_keys(freed) == [key]
    freed = served.check_capacity(other, lambda: ())
    assert len(freed) == 4 and served.set_keys(freed) == []


# --- requests -------------------------------------------------------------------------------------


def test_admission_reads_and_takes_away_both_fields(one: str):
    def admit(served: ServedSets | None, **extra):
        params = SimpleNamespace(extra_args=extra)
        request = SimpleNamespace(
            prompt_token_ids=[1, 2, 3], prompt_embeds=None, resumable=False, cache_salt=None
        )
        admission._resolve(served, request, params)
        return params.extra_args, request.cache_salt

    served = serve(one)
    extra, salt = admit(served, **{KEY: "fr", SOURCE: "en", "mine": 1})
    assert extra is not None and set(extra) == {KEY, "mine"} and salt
    assert admit(served, **{KEY: "-", SOURCE: "en"}) == (None, None)
    with pytest.raises(ParameterError, match="did you mean 'neuronsteer_source'"):
        admit(served, **{KEY: "fr", "neuronsteer_sorce": "en"})
    with pytest.raises(ParameterError, match="started without neuron steering"):
        admit(None, **{SOURCE: "en"})


# --- what the model gets --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def detected(model, tmp_path_factory: pytest.TempPathFactory):
    tokenizer = AutoTokenizer.from_pretrained(model_folder(), padding_side="left")
    written = {label: texts(label, 20, 3, seed=1) for label in LABELS}
    neurons = ns.detect(ns.collect(model, tokenizer, written, progress=False), "effect", rate=0.05)
    neurons = neurons.replace(strengths={"de": 0.75})
    return neurons, str(neurons.save_pretrained(tmp_path_factory.mktemp("sets") / "one"))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("fr", "en"),
        ("fr", "others"),
        ("fr,4:de", "en"),
        ("fr,3:de*0.5,6:-,8:de", "es"),
        ("fr,4:de,repeat=8", "en"),
        ("-,2:fr,3~6:es,repeat=7", "en"),
        ("fr,4:de,prompt=yes", ["en", "es"]),
    ],
)
def test_the_model_gets_what_attach_gives_it(model, detected, text: str, source):
    neurons, folder = detected
    prompt, count = 5, 30
    ids = torch.randint(5, 60, (1, count), generator=torch.Generator().manual_seed(1))
    with ns.attach(model, neurons) as steer:
        steer.to(text, source=source, prompt_length=prompt)
        wanted = model(ids).logits
    plain = model(ids).logits

    served = serve(folder)
    tokens = TokenRows(count, torch.device("cpu"))
    layers = {}
    for i, layer in enumerate(model.model.layers):
        linear = layer.mlp.down_proj
        linear.input_size = linear.input_size_per_partition = linear.in_features
        linear.tp_rank = 0
        layers[i] = SteeredLayer(i, f"layers.{i}", linear, 3, torch.device("cpu"))
    sets = WorkerSets({i: layer.width for i, layer in layers.items()})
    sets.change((), [load_set(SetSource("one", folder))])
    tables = WorkerTables(layers, tokens, 3, 2, sets)
    for layer in layers.values():
        layer.install(tokens, True)
    try:
        tables.assign(1, served.resolve(text, prompt, source))
        tables.fill(torch.ones(count, dtype=torch.int64), torch.arange(count), count)
        found = model(ids).logits
    finally:
        for layer in layers.values():
            layer.module._forward_pre_hooks.clear()
    assert torch.allclose(found, wanted, atol=1e-4), (found - wanted).abs().max()
    assert not torch.allclose(found, plain, atol=1e-2)


def test_sets_without_means_where_they_are_needed_are_refused(tmp_path: Path):
    at_gate = {**ADD, "site": "mlp.act"}
    with pytest.raises((ArtifactError, ParameterError)):
        load_set(SetSource("one", relative(tmp_path / "one", *LABELS), operation=at_gate))
