"""`steer.keep`: texts are steered where they leave their language, and only there."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import texts
from neuronsteer.errors import HookError, LabelError, ParameterError, ScheduleError

LANGUAGES = ("de", "en", "es", "fr")
PROMPTS = {
    "de": "Der alte Mann wartet auf den Zug, und meine kleine Schwester",
    "en": "The old man waits for the train, and my little sister",
    "es": "El hombre viejo espera el tren en el mercado, y mi hermana",
    "fr": "Le vieil homme attend le train, et ma petite soeur",
}


@pytest.fixture(scope="module")
def model():
    found = AutoModelForCausalLM.from_pretrained(model_folder()).eval()
    found.generation_config.eos_token_id = None
    return found


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_folder(), padding_side="left")


@pytest.fixture(scope="module")
def neurons(model, tokenizer):
    written = {label: texts(label, 20, 3, seed=1) for label in LANGUAGES}
    return ns.detect(ns.collect(model, tokenizer, written, progress=False), "diffmean")


@pytest.fixture
def steer(model, tokenizer, neurons):
    with ns.attach(model, neurons, tokenizer=tokenizer) as found:
        yield found


@pytest.fixture
def write(model, tokenizer):
    def generate(*labels, **options):
        given = tokenizer([PROMPTS[x] for x in labels], return_tensors="pt", padding=True)
        options = {"max_new_tokens": 24, "do_sample": False, **options}
        found = model.generate(**given, **options)
        return found[:, given["input_ids"].shape[1] :]

    return generate


WAYS = [
    {},
    {"num_beams": 3},
    {"prompt_lookup_num_tokens": 3},
    {"do_sample": True, "top_k": 8},
    {"num_beams": 3, "num_return_sequences": 2},
    {"use_cache": False},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_text_that_stays_in_its_language_is_not_touched(steer, write, options):
    for label in LANGUAGES:
        torch.manual_seed(3)
        plain = write(label, **options)
        torch.manual_seed(3)
        steer.keep(label)
        assert torch.equal(write(label, **options), plain)
        assert steer.pulled_back() == [] and steer.spans() == [(0, plain.shape[1], None)]
        steer.off()


def test_logits_are_the_same_bit_by_bit(model, tokenizer, steer):
    given = tokenizer(PROMPTS["de"], return_tensors="pt")
    options = {"max_new_tokens": 12, "do_sample": False, "output_logits": True}
    plain = model.generate(**given, return_dict_in_generate=True, **options).logits
    steer.keep("de")
    kept = model.generate(**given, return_dict_in_generate=True, **options).logits
    assert all(torch.equal(a, b) for a, b in zip(plain, kept, strict=True))


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_a_text_in_another_language_is_pulled_back(steer, write, tokenizer, options):
    torch.manual_seed(3)
    plain = tokenizer.decode(write("en", **options)[0])
    torch.manual_seed(3)
    steer.keep("fr")
    kept = tokenizer.decode(write("en", **options)[0])
    first = steer.pulled_back()[0]
    assert (first.language, first.left) == ("fr", "en") and first.token <= 4
    assert steer.spans()[1][2] == "fr"
    assert kept != plain


@pytest.mark.parametrize("options", [{}, {"use_cache": False}], ids=str)
def test_pulling_back_is_steering_for_so_long(steer, write, options):
    steer.keep("fr", strength=2, hold=5)
    kept = write("en", **options)
    found = steer.pulled_back()
    assert found and all(each.tokens <= 5 for each in found)
    points = [(0, None)]
    for each in found:
        assert each.left == "en", "of two languages the test would need two sources"
        points = [point for point in points if point[0] < each.token]
        points += [(each.token, "fr"), (each.token + each.tokens, None)]
    steer.to(ns.Schedule(*points), strength=2, source="en")
    assert torch.equal(write("en", **options), kept)


def test_rows_are_kept_each_in_its_language(steer, write):
    targets = ["de", "fr", None, "es"]
    steer.keep(targets)
    together = write("de", "en", "en", "es")
    assert [bool(steer.pulled_back(row)) for row in range(4)] == [False, True, False, False]
    assert [each.row for each in steer.pulled_back(1)] == [1] * len(steer.pulled_back(1))
    for row, label in enumerate(targets):
        # Padding changes the last bits, so the batch stays the same.
        steer.keep([label if k == row else None for k in range(4)])
        assert torch.equal(write("de", "en", "en", "es")[row], together[row])


def test_a_schedule_says_what_is_kept_when(steer, write):
    steer.keep("en,10:de")
    write("en")
    first = steer.pulled_back()[0]
    assert (first.language, first.left) == ("de", "en") and first.token in (10, 11)


def test_switching_between_steering_and_keeping_while_a_text_is_written(steer, write):
    class At:
        seen = -1

        def put(self, _value):
            self.seen += 1
            if self.seen == 6:
                steer.keep("fr")
            if self.seen == 16:
                steer.to("de")

        def end(self):
            pass

    steer.to("en")
    write("en", streamer=At())
    assert [str(each) for each in [steer.schedule]] == ["de"]
    steer.keep("fr")
    write("en")
    assert steer.pulled_back()


def test_code_and_addresses_are_not_taken_for_another_language(neurons, model, tokenizer):
    from neuronsteer.steering.keeping.language_sensor import LanguageSensor

    with ns.attach(model, neurons, tokenizer=tokenizer) as steer:
        sensor = LanguageSensor(steer._state.reader, tokenizer)
        labels = steer._state.reader.labels
        english = torch.tensor([1.0 if label == "en" else 0.0 for label in labels])

        def pulls(before, text):
            watch = sensor.start([], "de")
            for part, likeness in ((before, None), (text, english)):
                for token in tokenizer(part, add_special_tokens=False).input_ids:
                    watch = sensor.after(watch, token, likeness, "de")
                    if watch.pulled:
                        return True
            return False

        assert pulls("", " the old man waits")
        assert not pulls("```\n", "while true: wait()\n")
        assert not pulls("<think>", "the old man waits")
        assert pulls("<think>warten</think>", "the old man waits")
        assert not pulls("https://", "theoldman")


def test_what_cannot_be_kept_is_refused(model, tokenizer, neurons, steer, write):
    with pytest.raises(LabelError, match="'xx'"):
        steer.keep("xx")
    with pytest.raises(ParameterError, match="where='thinking'"):
        steer.keep("fr", where="thinking")
    with pytest.raises(ParameterError, match="hold=0"):
        steer.keep("fr", hold=0)
    with ns.attach(model, neurons) as other, pytest.raises(ParameterError, match="tokenizer"):
        other.keep("fr")
    blind = neurons.replace(values={}, means_of=(), source=None, operation={"name": "zero"})
    with (
        ns.attach(model, blind, tokenizer=tokenizer) as other,
        pytest.raises(ParameterError, match="means of several labels"),
    ):
        other.keep("fr")
    steer.keep("fr")
    with pytest.raises(ScheduleError, match="model.generate"):
        model(torch.tensor([[5, 6]]))


def test_compiled_layers_are_refused(model, tokenizer, neurons):
    torch.compiler.reset()
    with ns.attach(model, neurons, tokenizer=tokenizer) as steer:
        steer.keep("fr")
        given = tokenizer(PROMPTS["en"], return_tensors="pt")
        forward = model.forward
        model.forward = torch.compile(forward, backend="eager", dynamic=True)
        try:
            with pytest.raises(HookError, match="compiled"):
                model.generate(**given, max_new_tokens=6, do_sample=False)
        finally:
            del model.forward


def test_the_gate_and_the_neurons_together(model, tokenizer, neurons, write):
    plain = write("en")
    with ns.keep(model, tokenizer, "fr", neurons=neurons) as kept:
        found = write("en")
        assert kept.report() == kept.report(row=0) == kept.steer.pulled_back()
        assert kept.report(row=1) == []
    assert not torch.equal(found, plain)
    assert torch.equal(write("en"), plain)
    with pytest.raises(ParameterError, match="where='thinking'"):
        ns.keep(model, tokenizer, "fr", neurons=neurons, where="thinking")
    with pytest.raises(LabelError):
        ns.keep(model, tokenizer, "pl", neurons=neurons)
    assert torch.equal(write("en"), plain)
