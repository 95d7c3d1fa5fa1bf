"""Requests that are kept in a language: settings, admission, and the gate. No vLLM is needed."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from neuronsteer.errors import NeuronSteerError, ParameterError
from neuronsteer.integrations.vllm import admission, worker_gate
from neuronsteer.integrations.vllm.kept_requests import (
    Keeping,
    KeptRequest,
    config_obstacle,
    unreadable,
)
from neuronsteer.integrations.vllm.request_gate import Penalties, RequestGate
from neuronsteer.integrations.vllm.settings import (
    KEEP,
    KEY,
    THINKING,
    KeepSettings,
    ServeSettings,
    steering_of,
)
from neuronsteer.steering.keeping.token_choice import Candidates
from neuronsteer.steering.keeping.vocabulary_gate import VocabularyGate
from neuronsteer.steering.schedule import Schedule

from ..steering.keeping.vocabularies import byte_level

# --- settings -------------------------------------------------------------------------------------


def test_settings_say_the_same_in_every_form():
    plain = ServeSettings.read({"keep": "ko"})
    assert plain.keep == KeepSettings("ko")
    assert plain == ServeSettings.read({"keep": {"language": "ko", "thinking": None}})
    assert ServeSettings.read(plain.to_dict()) == plain
    full = {
        "language": "en,24:ko",
        "thinking": "en",
        "allow": ["北京"],
        "names": 3,
        "reach": 0.5,
        "marks": ["[", "]"],
    }
    found = ServeSettings.read({"keep": full})
    assert found.keep is not None and found.keep.to_dict() == full
    assert found.keep.allow == ("北京",)
    assert ServeSettings.read(found.to_dict()) == found


def test_languages_alone_need_no_hooks():
    def steers(block):
        return steering_of(SimpleNamespace(additional_config={KEY: block})) is not None

    assert not steers({"keep": "ko"}) and not steers({"keep": {}, "sets": {}})
    assert steers({"keep": "ko", "sets": "user/a"}) and steers({"sets": []})


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (3, "The field 'keep' is 3"),
        (["ko"], r"The field 'keep' is \['ko'\]"),
        ("", "'language' is ''"),
        ("korean", "'korean' is not the code"),
        ({"langauge": "ko"}, "Unknown field 'langauge' in the field 'keep'.*'language'"),
        ({"language": 3}, "'language' is 3"),
        ({"thinking": "none"}, "'none' is not the code"),
        ({"thinking": ["en"]}, r"'thinking' is \['en'\]"),
        ({"allow": 3}, "'allow' of 'keep' is 3"),
        ({"allow": [""]}, "'allow' of 'keep'"),
        ({"names": 0}, "'names' of 'keep' is 0"),
        ({"names": True}, "'names' of 'keep' is True"),
        ({"reach": 0}, "'reach' of 'keep' is 0"),
        ({"reach": "much"}, "'reach' of 'keep' is 'much'"),
        ({"marks": "<think>"}, "'marks' of 'keep' is '<think>'"),
        ({"marks": ["a", "b", "c"]}, "'marks' of 'keep'"),
    ],
)
def test_settings_that_cannot_be_read_say_which_field(keep, message):
    with pytest.raises(ParameterError, match=message):
        ServeSettings.read({"keep": keep})


# --- admission ------------------------------------------------------------------------------------


def kept(settings=None, **extra):
    return Keeping(settings, None).resolve(extra)


def test_requests_say_what_they_are_kept_in():
    assert kept() is None
    assert kept(neuronsteer_keep="-") is None
    assert kept(neuronsteer_keep="ko") == KeptRequest(Schedule("ko"))
    assert kept(neuronsteer_keep="en,24:ko") == KeptRequest(Schedule("en", (24, "ko")))
    assert kept(neuronsteer_keep="ko", neuronsteer_thinking="en").thinking == "en"
    assert kept(neuronsteer_thinking="en") == KeptRequest(Schedule(None), "en")
    found = kept(neuronsteer_keep="-,8:ko,repeat=16", neuronsteer_thinking="en")
    assert KeptRequest.from_wire(found.to_wire()) == found


def test_what_a_request_says_replaces_the_default():
    default = KeepSettings("ko", "en")
    assert kept(default) == KeptRequest(Schedule("ko"), "en")
    assert kept(default, neuronsteer_keep="ja") == KeptRequest(Schedule("ja"))
    assert kept(default, neuronsteer_keep="-") is None
    assert kept(default, neuronsteer_thinking="-") == KeptRequest(Schedule("ko"))


MISTAKES = [
    ({KEEP: 7}, "'neuronsteer_keep' is 7; expected the code"),
    ({KEEP: 0.5}, "'neuronsteer_keep' is 0.5; expected the code"),
    ({KEEP: ["ko"]}, r"'neuronsteer_keep' is \['ko'\]; expected the code"),
    ({KEEP: ""}, "'neuronsteer_keep' is ''; expected the code"),
    ({KEEP: "  "}, "expected the code"),
    ({KEEP: "k" * 100_000}, "expected the code"),
    ({KEEP: "korean"}, "'korean' is not the code of a language"),
    ({KEEP: "en,24"}, "only the first part may be a bare label"),
    ({KEEP: "en,9:ko,3:en"}, "strictly increasing order"),
    ({KEEP: "en,sentence:ko"}, "waits for text"),
    ({KEEP: "-,ko*0.5"}, "kept in a language or it is not|bare label"),
    ({KEEP: "ko*0.5,3:en"}, "kept in a language or it is not"),
    ({KEEP: "en,4~9:ko"}, "kept in a language or it is not"),
    ({KEEP: "en,4:ko - en"}, "is not the code of a language"),
    ({KEEP: ",".join(f"{i}:ko" for i in range(1, 60))}, "it may have 32"),
    ({THINKING: 7}, "'neuronsteer_thinking' is 7"),
    ({THINKING: ["en"]}, r"'neuronsteer_thinking' is \['en'\]"),
    ({THINKING: "en,3:ko"}, "'en,3:ko' is not the code"),
]


@pytest.mark.parametrize(("extra", "message"), MISTAKES)
def test_mistakes_are_found_at_admission(extra, message):
    with pytest.raises(NeuronSteerError, match=message) as caught:
        Keeping(None, None).resolve(extra)
    assert len(str(caught.value)) < 1000


def resolved(keeping, extra, **request):
    params = SimpleNamespace(extra_args=extra)
    given = {"prompt_token_ids": [1], "resumable": False, **request}
    admission._resolve_kept(keeping, SimpleNamespace(**given), params)
    return params.extra_args


def test_admission_writes_for_the_workers():
    keeping, extra = Keeping(None, None), {"own": 1, KEEP: "ko", THINKING: "en"}
    assert resolved(keeping, extra) == {"own": 1, KEEP: ["ko", "en"]}
    assert extra == {"own": 1, KEEP: "ko", THINKING: "en"}, "the caller's own stay as they are"
    assert resolved(keeping, {KEEP: "-"}) is None
    assert resolved(keeping, {"own": 1}) == {"own": 1}
    assert resolved(keeping, None) is None
    assert resolved(Keeping(KeepSettings("ko"), None), None) == {KEEP: ["ko", None]}


def test_what_cannot_be_kept_is_refused_and_never_answered_as_if_it_were():
    with pytest.raises(ParameterError, match="serve MODEL --keep ko"):
        resolved(None, {KEEP: "ko"})
    with pytest.raises(ParameterError, match="Cannot keep a text in a language here: no scripts"):
        resolved(Keeping(None, "no scripts."), {KEEP: "ko"})
    assert resolved(Keeping(None, "no scripts."), {KEEP: "-"}) is None
    with pytest.raises(ParameterError, match="This server cannot keep texts"):
        Keeping(KeepSettings("ko"), "no scripts.")
    for request in ({"prompt_token_ids": None}, {"resumable": True}):
        with pytest.raises(ParameterError, match="read off the prompt"):
            resolved(Keeping(None, None), {KEEP: "ko"}, **request)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("neuronsteer_kep", "'neuronsteer_keep'"),
        ("neuron_steer_keep", "'neuronsteer_keep'"),
        ("neuron-steer", "'neuronsteer'"),
        ("neuronsteer_language", "'neuronsteer_thinking'|the fields are"),
    ],
)
def test_misspelt_fields_are_not_taken_for_nothing(name, meant):
    with pytest.raises(ParameterError, match=meant):
        admission._check_names({"own": 1, name: "ko"})
    admission._check_names({"own": 1, KEEP: "ko", KEY: "fr"})


def config(**changes):
    model = SimpleNamespace(skip_tokenizer_init=False, logits_processors=["own:Processor"])
    given = {"model_config": model, "speculative_config": None, "use_v2_model_runner": False}
    return SimpleNamespace(**{**given, "additional_config": {KEY: {"keep": "ko"}}, **changes})


def test_engines_that_can_keep_nothing():
    assert config_obstacle(config()) is None
    assert "speculative" in str(config_obstacle(config(speculative_config=object())))
    skipping = SimpleNamespace(skip_tokenizer_init=True)
    assert "tokenizer" in str(config_obstacle(config(model_config=skipping)))
    assert unreadable(byte_level()) is None
    assert "object does not tell" in str(unreadable(object()))
    assert "NoneType does not tell" in str(unreadable(None))


@pytest.mark.parametrize("runner", [1, 2])
def test_the_processor_of_the_runner_is_added_once(monkeypatch, runner):
    monkeypatch.setattr(admission, "verify", lambda _uses: None)
    made = config(use_v2_model_runner=runner == 2)
    for _ in range(2):
        admission._add_gate(made)
    name = f"neuronsteer.integrations.vllm.gate_v{runner}:KeepV{runner}"
    assert made.model_config.logits_processors == ["own:Processor", name]
    made = config(speculative_config=object())
    admission._add_gate(made)
    assert made.model_config.logits_processors == ["own:Processor"]


# --- the gate -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


def sampling(**options):
    plain = {
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
    }
    return SimpleNamespace(**{**plain, **options})


#: Prompt, what it is kept in, the language of its thoughts, sampling parameters.
REQUESTS = [
    ("the weather Python", "en", None, {}),
    ("the weather Python", None, None, {}),
    ("погода", "ru", None, {}),
    ("오늘", "ko", None, {}),
    ("the weather", "en,6:-,12:ru", None, {}),
    ("the weather<think>", "en", "ru", {}),
    ("the weather<think>", None, "en", {}),
    ("the weather Python weather 天气", "en", None, {}),
    ("the weather Python", "en", None, {"temperature": 1.3}),
    ("오늘", "ko", None, {"temperature": 0.7, "top_p": 0.9}),
    ("the weather", "en", None, {"temperature": 1.0, "top_k": 20}),
    ("the weather", "en", None, {"temperature": 1.0, "top_k": 40, "top_p": 0.8}),
    ("погода", "ru", None, {"temperature": 1.2, "min_p": 0.1}),
    ("the weather", "en", None, {"repetition_penalty": 1.4}),
    ("погода", "ru", None, {"temperature": 0.8, "top_k": 30, "repetition_penalty": 1.2}),
]


class Alone:
    """A request in transformers: its own gate, and penalties before it."""

    def __init__(self, tokenizer, prompt, language, thinking, options, reach):
        given = {"reach": reach}
        if options.get("temperature"):
            chosen = ("temperature", "top_k", "top_p", "min_p")
            given |= {"sampling": True, **{k: v for k, v in options.items() if k in chosen}}
        gate = VocabularyGate(
            tokenizer, language, thinking=thinking, candidates=Candidates(**given)
        )
        penalty = options.get("repetition_penalty", 1.0)
        self.before = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1 else None
        self.processors = LogitsProcessorList([each for each in (self.before, gate) if each])
        self.ids = torch.tensor([prompt])

    def mask(self, scores):
        return torch.isfinite(self.processors(self.ids, scores[None].clone())[0])

    def add(self, token):
        self.ids = torch.cat([self.ids, torch.tensor([[token]])], 1)


def scores_at(step, rows, width):
    draw = torch.Generator().manual_seed(step)
    return torch.empty(rows, width).normal_(0, 3, generator=draw)


def prompt_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_requests_of_a_batch_are_gated_as_in_transformers(tokenizer):
    reach, width = 1e-3, len(tokenizer) + 5
    gate = RequestGate(tokenizer, KeepSettings(reach=reach))
    alone, batch = [], []
    for text, language, thinking, options in REQUESTS:
        prompt = prompt_ids(tokenizer, text)
        alone.append(Alone(tokenizer, prompt, language, thinking, options, reach))
        wanted = KeptRequest(Schedule.parse(language or "-"), thinking)
        batch.append(gate.request(wanted, sampling(**options), prompt, penalise=True))
    held = torch.zeros(len(REQUESTS), dtype=torch.int64)
    for step in range(24):
        logits = scores_at(step, len(REQUESTS), width)
        before = logits.clone()
        gate.apply(logits, enumerate(batch))
        left = torch.isfinite(logits)
        expected = [each.mask(row) for each, row in zip(alone, before, strict=True)]
        assert torch.equal(left, torch.stack(expected))
        assert torch.equal(logits[left], before[left]), "what is left is not changed"
        held += ~left.all(-1)
        for row, token in enumerate(logits.argmax(-1).tolist()):
            alone[row].add(token)
            batch[row].add(token)
    unkept = [language is None and thinking is None for _, language, thinking, _ in REQUESTS]
    assert [bool(count) for count in held] == [not each for each in unkept]


def test_min_p_comes_first_in_vllm(tokenizer):
    # Of .5, .3, .15 and .05, min_p leaves .5 and .3; of these, the first has .62.
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    options = {"sampling": True, "min_p": 0.4, "top_p": 0.6}
    assert Candidates(**options).least(scores).exp().item() == pytest.approx(0.3)
    assert Candidates(**options, min_p_first=True).least(scores).exp().item() == pytest.approx(0.5)


def test_penalties_are_those_of_vllm():
    scores = torch.tensor([2.0, -2.0, 3.0, 4.0, 5.0])
    found = Penalties(2.0, 0.5, 0.25).apply(scores, [0, 1, 99], [3, 3, 1])
    assert found.tolist() == [1.0, -4.0 - 0.75, 3.0, 2.0 - 1.25, 5.0]
    assert scores.tolist() == [2.0, -2.0, 3.0, 4.0, 5.0]
    assert Penalties.of(sampling()) is None


def test_a_text_that_was_cut_back_is_read_again(tokenizer):
    gate = RequestGate(tokenizer, KeepSettings(names=1))
    latin, own = (prompt_ids(tokenizer, text)[0] for text in ("weather", "오늘"))
    scores = torch.full((1, len(tokenizer)), -20.0)
    scores[0, latin], scores[0, prompt_ids(tokenizer, "날씨")[0]] = 2.0, 1.0

    def likeliest(*tokens):
        request.follow(tokens)
        logits = scores.clone()
        gate.apply(logits, [(0, request)])
        return int(logits.argmax())

    request = gate.request(KeptRequest(Schedule("ko")), sampling(), [own], penalise=False)
    assert likeliest() == latin
    assert likeliest(latin) != latin
    assert likeliest(own) == latin
    assert likeliest(latin) != latin
    assert likeliest() == latin


# --- the logits processors of both runners, on stand-ins for vLLM ---------------------------------


@pytest.fixture
def processors(monkeypatch, tokenizer):
    """The classes that vLLM would import, with a base that knows nothing."""
    for name in ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"):
        module = ModuleType(name)
        module.LogitsProcessor = type("LogitsProcessor", (), {})
        monkeypatch.setitem(sys.modules, name, module)
    found = ModuleType("vllm.tokenizers")
    found.cached_tokenizer_from_config = lambda _config: tokenizer
    monkeypatch.setitem(sys.modules, "vllm.tokenizers", found)
    package = worker_gate.__name__.rpartition(".")[0]
    names = [f"{package}.gate_v1", f"{package}.gate_v2"]
    made = [importlib.import_module(name) for name in names]
    yield made[0].KeepV1, made[1].KeepV2
    for name in names:
        sys.modules.pop(name, None)


def test_runner_2_reads_tokens_from_the_device(processors, tokenizer):
    keep = processors[1]
    prompts = [prompt_ids(tokenizer, text) for text in ("the weather", "오늘", "the weather")]
    latin, own = (prompt_ids(tokenizer, text)[0] for text in ("weather", "날씨"))
    states = SimpleNamespace(
        prompt_len=SimpleNamespace(np=np.zeros(4, np.int32)),
        prefill_len=SimpleNamespace(np=np.zeros(4, np.int32)),
        all_token_ids=SimpleNamespace(gpu=torch.zeros(4, 16, dtype=torch.int32)),
    )
    settings = {KEY: {"keep": {"names": 1}}}
    processor = keep(config(additional_config=settings), states)
    lengths = [0] * 4

    def enter(slot, prompt, language, generated=()):
        ids = [*prompt, *generated]
        states.prompt_len.np[slot], states.prefill_len.np[slot] = len(prompt), len(ids)
        states.all_token_ids.gpu[slot, : len(ids)] = torch.tensor(ids)
        lengths[slot] = len(ids)
        extra = None if language is None else {KEEP: [language, None]}
        return processor.add_request(slot, sampling(extra_args=extra))

    def draw(slots, short=0):
        """Return which token each slot would take, of a Latin and a Korean one."""
        logits = torch.full((len(slots), len(tokenizer)), -20.0)
        logits[:, latin], logits[:, own] = 2.0, 1.0
        ends = [lengths[slot] - 1 - short for slot in slots]
        ctx = SimpleNamespace(
            idx_mapping_np=np.array(slots),
            expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
            pos=torch.tensor(ends),
            input_ids=states.all_token_ids.gpu[slots, ends],
        )
        return processor.apply(logits, ctx).argmax(-1).tolist()

    def add(slot, token):
        states.all_token_ids.gpu[slot, lengths[slot]] = token
        lengths[slot] += 1

    assert not enter(0, prompts[0], None)
    assert enter(2, prompts[1], "ko") and enter(3, prompts[2], "en")
    assert draw([2, 0, 3], short=1) == [latin] * 3  # in the middle of their prompts
    assert draw([2, 0, 3]) == [latin] * 3
    for slot in (0, 2, 3):
        add(slot, latin)
    assert draw([3, 2, 0]) == [latin, own, latin]
    add(2, own)
    assert draw([0, 2]) == [latin, latin]
    # It left the batch, and comes back with what it had written.
    assert enter(1, prompts[1], "ko", [own, latin])
    assert draw([1]) == [own]
    # Another request takes the slot.
    assert not enter(1, prompts[1], None)
    assert draw([1]) == [latin]
    assert enter(1, prompts[1], "ko")
    assert draw([1]) == [latin]


def test_where_nothing_can_be_kept_the_processor_does_nothing(processors, tokenizer):
    for made in (config(speculative_config=object()), config(additional_config={})):
        processor = processors[1](made, None)
        params = sampling(extra_args={KEEP: ["ko", None]})
        assert not processor.add_request(0, params)
    assert not processors[0](config(), None, False).is_argmax_invariant()
