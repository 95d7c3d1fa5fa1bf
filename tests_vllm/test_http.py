"""The server as users meet it: `neuronsteer serve` and the plain `openai` client."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder, set_folder
from tests_vllm.servers import PROMPT, ask, client_of, ids, serving


@pytest.fixture(scope="module")
def server(storage: Path) -> Iterator[str]:
    command = ["neuronsteer.cli", "serve", "demo", "demo", "--manage"]
    with serving(command, storage / "server.log") as address:
        yield address


@pytest.fixture(scope="module")
def client(server: str) -> openai.OpenAI:
    return client_of(server)


@pytest.fixture(scope="module")
def reference():
    """What `model.generate` writes with hooks."""
    folder = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    steer = ns.attach(model, ns.NeuronSet.from_pretrained(set_folder()), tokenizer=tokenizer)

    def write(schedule: str | None, tokens: int) -> list[int]:
        inputs = tokenizer(PROMPT, return_tensors="pt")
        steer.to(schedule)
        out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    return write


def labels() -> tuple[str, ...]:
    return ns.NeuronSet.from_pretrained(set_folder()).labels


def test_languages_at_once_each_as_if_alone(client: openai.OpenAI, reference):
    a, b = [label for label in labels() if label in ("fr", "ru", "ja", "de", "zh")][:2]
    schedules = [None, a, b, f"{a},10:{b}", f"{a},{b}@6", f"{b}*0.5", f"-,8:{a}", f"3-9:{b}"] * 2
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda schedule: ask(client, schedule), schedules))
    for schedule, answer in zip(schedules, answers, strict=True):
        assert ids(answer) == reference(schedule, 24), schedule
    assert len({answer.choices[0].text for answer in answers}) >= 6


def test_a_stream_switches_in_the_middle(client: openai.OpenAI, reference):
    a, b = [label for label in labels() if label in ("fr", "ru", "ja", "de", "zh")][:2]
    schedule = f"{a},12:{b}"
    pieces: list[int] = []
    for chunk in ask(client, schedule, 24, stream=True):
        pieces += (chunk.choices[0].model_extra or {}).get("token_ids") or []
    assert pieces == reference(schedule, 24)
    constant = reference(f"{a},prompt=no", 24)
    assert pieces[:12] == constant[:12] and pieces[12:] != constant[12:]


def test_the_list_of_models_is_unchanged(client: openai.OpenAI):
    assert [model.id for model in client.models.list()] == ["demo"]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("xx", "Unknown label 'xx': this server has"),
        ("fr,24", "only the first part may be a bare label"),
        ("fr,9:de,3:fr", "strictly increasing order"),
        ("fr,sentence:de", "waits for text, which a server cannot do"),
        (["fr"], "expected a schedule as text"),
        (7, "expected a schedule as text"),
    ],
)
def test_mistakes_are_bad_requests_with_the_reason(client: openai.OpenAI, schedule, message):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            answer = ask(client, schedule, stream=stream)
            list(answer)
        assert caught.value.status_code == 400
        assert message in str(caught.value.body["message"])  # pyright: ignore
        assert caught.value.param == "neuronsteer"


def test_texts_are_kept_in_a_language_beside_others(client: openai.OpenAI):
    """`neuronsteer_keep` over HTTP gives what `ns.keep` gives, steered elsewhere or not."""
    folder = model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    steer = ns.attach(model, ns.NeuronSet.from_pretrained(set_folder()), tokenizer=tokenizer)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    wanted = [(schedule, kept) for schedule in (None, *labels()) for kept in (None, "en", "ru")]

    def write(schedule: str | None, kept: str | None) -> list[int]:
        steer.to(schedule)
        with ns.keep(model, tokenizer, kept):
            out = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        return out[0, inputs["input_ids"].shape[1] :].tolist()

    def answer(job: tuple[str | None, str | None]) -> list[int]:
        given = dict(zip(("neuronsteer", "neuronsteer_keep"), job, strict=True))
        extra = {name: value for name, value in given.items() if value is not None}
        return ids(ask(client, None, extra_body={"vllm_xargs": extra}))

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        found = list(pool.map(answer, wanted))
    assert found == [write(*job) for job in wanted]
    plain = [write(schedule, None) for schedule, _ in wanted]
    assert sum(a != b for a, b in zip(found, plain, strict=True)) >= 2


@pytest.mark.parametrize(
    "extra",
    [
        {"neuronsteer_keep": 7},
        {"neuronsteer_keep": 0.5},
        {"neuronsteer_keep": ["ko"]},
        {"neuronsteer_keep": {"language": "ko"}},
        {"neuronsteer_keep": ""},
        {"neuronsteer_keep": "korean"},
        {"neuronsteer_keep": "en,sentence:ko"},
        {"neuronsteer_keep": "ko*0.5,3:en"},
        {"neuronsteer_thinking": "none"},
        {"neuronsteer_kep": "ko"},
    ],
)
def test_what_cannot_be_kept_is_a_bad_request(client: openai.OpenAI, extra):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            list(ask(client, None, stream=stream, extra_body={"vllm_xargs": extra}))
        assert caught.value.status_code == 400
    assert len(ids(ask(client, None, 4))) == 4, "the server goes on"


def test_a_misspelt_field_is_not_taken_for_no_steering(client: openai.OpenAI):
    extra = {"vllm_xargs": {"neuron-steer": "fr"}}
    with pytest.raises(openai.BadRequestError, match="did you mean 'neuronsteer'"):
        ask(client, None, extra_body=extra)


def test_beam_search_is_refused_and_not_answered_unsteered(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="Beam search cannot be steered"):
        ask(client, "fr", n=2, extra_body={"use_beam_search": True})
    kept = {"use_beam_search": True, "vllm_xargs": {"neuronsteer_keep": "en"}}
    with pytest.raises(openai.BadRequestError, match="Beam search cannot be kept"):
        ask(client, None, n=2, extra_body=kept)
    assert ask(client, None, n=2, extra_body={"use_beam_search": True}).choices


def test_sets_come_and_go_over_http(client: openai.OpenAI, storage: Path, reference):
    route = "/neuronsteer/sets"
    first = labels()[0]
    zeroed = storage / "zeroed"
    neurons = ns.NeuronSet.from_pretrained(set_folder()).only(first)
    neurons.relabel({first: "off"}).replace(operation={"name": "zero"}).save_pretrained(zeroed)
    listed = client.get(route, cast_to=dict)
    assert list(listed["sets"]) == ["demo"]
    with pytest.raises(openai.BadRequestError, match="Unknown label 'off'"):
        ask(client, "off")
    listed = client.post(route, cast_to=dict, body={"source": str(zeroed), "name": "z"})
    assert listed["sets"]["z"]["labels"] == ["off"]
    assert ids(ask(client, "off", 16)) != ids(ask(client, None, 16))
    assert ids(ask(client, f"off,4:{first}", 16))
    listed = client.delete(f"{route}/z", cast_to=dict)
    assert list(listed["sets"]) == ["demo"]
    with pytest.raises(openai.BadRequestError, match="Unknown label 'off'"):
        ask(client, "off")
    for body, message in (
        ({"source": "/nowhere/set"}, "/nowhere/set"),
        ({"name": "x"}, '"source"'),
        ({"source": str(zeroed), "nmae": "x"}, "Unknown field 'nmae'"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            client.post(route, cast_to=dict, body=body)
    assert ids(ask(client, first)) == reference(first, 24)
