"""What is left: given, the label before a switch, or what the prompt is written in."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import texts
from neuronsteer.errors import ArtifactError, HookError, LabelError, ParameterError, ScheduleError

from .sets import greedy

LANGUAGES = ("de", "en", "es", "fr")
PROMPTS = {
    "de": "Der alte Mann wartet auf den Zug, und meine kleine Schwester",
    "en": "The old man waits for the train, and my little sister",
    "es": "El hombre viejo espera el tren en el mercado, y mi hermana",
    "fr": "Le vieil homme attend le train, et ma petite soeur",
}


@pytest.fixture(scope="module")
def demo_model():
    return AutoModelForCausalLM.from_pretrained(model_folder()).eval()


@pytest.fixture(scope="module")
def demo_tokenizer():
    return AutoTokenizer.from_pretrained(model_folder(), padding_side="left")


@pytest.fixture(scope="module")
def stats(demo_model, demo_tokenizer):
    written = {label: texts(label, 20, 3, seed=1) for label in LANGUAGES}
    return ns.collect(demo_model, demo_tokenizer, written, progress=False)


@pytest.fixture(scope="module", params=["effect", "diffmean"])
def neurons(request, stats):
    options = {"rate": 0.05} if request.param == "effect" else {}
    return ns.detect(stats, request.param, **options)


@pytest.fixture
def batch(demo_tokenizer):
    def encode(*labels):
        return demo_tokenizer([PROMPTS[x] for x in labels], return_tensors="pt", padding=True)

    return encode


def written(model, encoded, **options):
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    return greedy(model, ids, mask=mask, **options).tolist()


@pytest.mark.parametrize("prompt", LANGUAGES)
def test_the_prompt_tells_what_is_left(demo_model, neurons, batch, prompt):
    encoded, target = batch(prompt), "fr" if prompt != "fr" else "de"
    with ns.attach(demo_model, neurons) as steer:
        given = written(demo_model, encoded)
        steer.to(target)
        read = written(demo_model, encoded)
        steer.to(target, source=prompt)
        assert written(demo_model, encoded) == read != given
        wrong = next(x for x in LANGUAGES if x not in (prompt, target))
        steer.to(target, source=wrong)
        assert written(demo_model, encoded) != read
        steer.to(target, source="prompt")
        assert written(demo_model, encoded) == read


def test_every_row_leaves_its_own_language(demo_model, neurons, batch):
    encoded = batch("en", "de", "es", "fr")
    with ns.attach(demo_model, neurons) as steer:
        steer.to("fr")
        together = written(demo_model, encoded)
        for row in range(4):
            alone = {name: part[row : row + 1] for name, part in encoded.items()}
            assert written(demo_model, alone) == [together[row]]
        steer.to(["fr", "en", "de", None])
        for row, target in enumerate(("fr", "en", "de", None)):
            alone = {name: part[row : row + 1] for name, part in encoded.items()}
            together = written(demo_model, encoded)
            steer.to(target)
            assert written(demo_model, alone) == [together[row]]
            steer.to(["fr", "en", "de", None])


def test_text_in_the_language_already_is_left_alone(demo_model, stats, batch):
    encoded = batch("fr")
    plain = demo_model(**encoded).logits
    for neurons in (ns.detect(stats, "effect", rate=0.05), ns.detect(stats, "diffmean")):
        with ns.attach(demo_model, neurons) as steer:
            steer.to("fr")
            assert torch.equal(demo_model(**encoded).logits, plain)
            steer.to("fr", source="en")
            assert not torch.equal(demo_model(**encoded).logits, plain)


def test_after_a_switch_the_label_before_is_left(demo_model, neurons, batch):
    encoded = batch("en")
    with ns.attach(demo_model, neurons) as steer:
        steer.to("fr", source="en")
        first = written(demo_model, encoded, new=6)
        steer.to("fr,6:de", prompt=True)
        both = written(demo_model, encoded, new=14)
        assert both[0][:6] == first[0]
        # The same two shifts, one after the other, as forward passes of one's own.
        rest = continued(demo_model, steer, encoded, first, "de", "fr", 8)
        assert both[0][6:] == rest
        steer.to("fr,6:de", prompt=True, source="others")
        assert written(demo_model, encoded, new=14) != both


def continued(model, steer, encoded, first, target, source, new):
    """Return what `target`, leaving `source`, writes after `first` was written with what was set.

    The tokens before are steered as they were: their cache is kept.
    """
    steer.to("fr", source="en")
    ids = torch.cat([encoded["input_ids"], torch.tensor(first)], 1)
    cache = model(ids[:, :-1], use_cache=True).past_key_values
    steer.to(target, source=source)
    token, found = ids[:, -1:], []
    for _ in range(new):
        token = model(token, past_key_values=cache).logits[:, -1:].argmax(-1)
        found.append(int(token))
    return found


def test_a_live_switch_leaves_the_label_in_force(demo_model, neurons, batch):
    encoded = batch("en")

    class Switch:
        def __call__(self, input_ids, scores, **_):
            if input_ids.shape[1] - encoded["input_ids"].shape[1] == 6:
                steer.to("de")
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    with ns.attach(demo_model, neurons) as steer:
        steer.to("fr,6:de", prompt=True)
        planned = written(demo_model, encoded, new=14)
        steer.to("fr")
        live = written(demo_model, encoded, new=14, stopping_criteria=[Switch()])
        assert live == planned
        # From unsteered text: what it is written in so far.
        steer.to(ns.Schedule.window("de", 6, 99), source="en")
        planned = written(demo_model, encoded, new=14)
        steer.to(None)
        assert written(demo_model, encoded, new=14, stopping_criteria=[Switch()]) == planned


def test_a_round_begins_with_leaving_its_last_label(demo_model, neurons, batch):
    encoded = batch("en")
    with ns.attach(demo_model, neurons) as steer:
        steer.to(ns.Schedule("fr", (4, "de"), repeat=8))
        assert written(demo_model, encoded, new=16) == written(demo_model, encoded, new=16)
        again = written(demo_model, encoded, new=16)
        steer.to("fr,4:de,8:fr,12:de")
        assert written(demo_model, encoded, new=16) == again


def test_away_from_is_the_source_of_differences(demo_model, neurons, batch):
    encoded = batch("en")
    with ns.attach(demo_model, neurons) as steer:
        steer.to("fr", source="es")
        wanted = written(demo_model, encoded)
        steer.to("fr", away_from="es")
        assert written(demo_model, encoded) == wanted
        steer.to("fr", source=["es", "de"])
        assert written(demo_model, encoded) != wanted


def test_what_is_read_may_be_no_label_of_another_set(demo_model, neurons, batch):
    """A page's control: the same labels under other names, whose means have those names, too."""
    others = neurons.random_like(0)
    others = others.relabel({label: f"random-{label}" for label in others.labels})
    encoded = batch("en")
    with ns.attach(demo_model, others) as steer:
        steer.to("random-fr", source="others")
        wanted = written(demo_model, encoded)
    with ns.attach(demo_model, [neurons, others]) as steer:
        steer.to("random-fr")
        assert written(demo_model, encoded) == wanted
        steer.to("fr,4:random-fr,8:fr")
        assert written(demo_model, encoded) != wanted
        with pytest.raises(LabelError, match="'en'"):
            steer.to("random-fr", source="en")


def test_direct_calls_read_the_prompt_and_their_cache_remembers(demo_model, neurons, batch):
    encoded = batch("es", "de")
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    with ns.attach(demo_model, neurons) as steer:
        found = []
        for languages in (None, ("es", "de")):
            if languages is None:
                steer.to("fr")
                logits = [demo_model(**encoded, use_cache=True)]
                token = logits[0].logits[:, -1:].argmax(-1)
                longer = torch.cat([mask, torch.ones_like(token)], 1)
                cache = logits[0].past_key_values
                logits.append(demo_model(token, attention_mask=longer, past_key_values=cache))
                found = [each.logits for each in logits]
                continue
            for row, language in enumerate(languages):
                steer.to("fr", source=language)
                out = demo_model(**encoded, use_cache=True)
                assert torch.equal(out.logits[row], found[0][row])
                out = demo_model(token, attention_mask=longer, past_key_values=out.past_key_values)
                assert torch.equal(out.logits[row], found[1][row])
        foreign = demo_model(ids, attention_mask=mask, use_cache=True).past_key_values
        steer.to("fr,4:de")
        with pytest.raises(ScheduleError, match="prompt is unknown"):
            demo_model(token, attention_mask=longer, past_key_values=foreign)


def test_parts_of_the_model_called_alone_need_to_be_told(demo_model, neurons, batch):
    encoded = batch("en")
    with ns.attach(demo_model, neurons) as steer:
        steer.to("fr")
        with pytest.raises(HookError, match="source="):
            demo_model.get_decoder()(**encoded)
        steer.to("fr", source="en")
        demo_model.get_decoder()(**encoded)


def test_reading_leaves_nothing_behind(demo_model, neurons, batch):
    encoded = batch("en")
    plain = written(demo_model, encoded)
    steer = ns.attach(demo_model, neurons)
    steer.to("fr")
    written(demo_model, encoded)
    layers = steer.report()["layers"]
    assert all(
        each["positions"] == each["calls"] + encoded["input_ids"].shape[1] - 1 for each in layers
    )
    steer.off()
    assert written(demo_model, encoded) == plain
    steer.detach()
    assert not demo_model._forward_hooks and not demo_model._forward_pre_hooks


def test_a_direct_call_keeps_no_model_alive(neurons, batch):
    model = AutoModelForCausalLM.from_pretrained(model_folder()).eval()
    seen = weakref.ref(model)
    steer = ns.attach(model, neurons)
    steer.to("fr")
    with torch.no_grad():
        model(**batch("en"))
    del model, steer
    gc.collect()
    assert seen() is None


def test_sets_that_do_not_know_are_told_apart(demo_model, stats, batch):
    lape = ns.detect(stats, "lape", rate=0.05)
    with ns.attach(demo_model, lape) as steer:
        steer.to("fr")  # set to the mean: nothing is left
        with pytest.raises(ParameterError, match="makes no difference"):
            steer.to("fr", source="en")
        with pytest.raises(LabelError, match="'ru'"):
            steer.to("fr", "add", source="ru")
        steer.to("fr", "add", source="en")
    old = ns.NeuronSet.from_pretrained("demo")
    with (
        ns.attach(demo_model, old) as steer,
        pytest.raises(ParameterError, match="detect it again"),
    ):
        steer.to(old.labels[0], source=old.labels[1])
    with pytest.raises(ArtifactError, match="means of every label"):
        old.leaving("en").value("diffmean", "mlp.neuron")


def test_beams_samples_and_assisted_decoding(demo_model, neurons, batch):
    encoded = batch("en", "es")
    with ns.attach(demo_model, neurons) as steer:
        for options in ({"num_beams": 3}, {"prompt_lookup_num_tokens": 3}):
            part = {name: each[:1] for name, each in encoded.items()}
            inputs = encoded if "num_beams" in options else part
            steer.to("fr")
            read = written(demo_model, inputs, **options)
            steer.to("fr", source="en")
            assert written(demo_model, part, **options)[0] == read[0]


def test_strength_one_is_what_the_set_was_tuned_to(demo_model, neurons, batch, tmp_path):
    encoded = batch("en")
    neurons.replace(strengths={"fr": 0.5}).save_pretrained(tmp_path)
    tuned = ns.NeuronSet.from_pretrained(tmp_path)
    with ns.attach(demo_model, neurons) as steer:
        steer.to("fr", strength=0.5)
        half = demo_model(**encoded).logits
        steer.to("de")
        other = demo_model(**encoded).logits
    with ns.attach(demo_model, tuned) as steer:
        steer.to("fr")
        assert torch.equal(demo_model(**encoded).logits, half)
        steer.to("de")
        assert torch.equal(demo_model(**encoded).logits, other)
        # An operation of one's own has strengths of its own.
        steer.to("fr", neurons.operation, strength=0.5)
        assert torch.equal(demo_model(**encoded).logits, half)
    assert tuned.only("de").strengths == {} and tuned.relabel({"fr": "x"}).strengths == {"x": 0.5}
    for wrong in ({"xx": 1.0}, {"fr": -1.0}, {"fr": "1"}):
        with pytest.raises(ArtifactError, match="strengths"):
            neurons.replace(strengths=wrong)


def chat(tokenizer, *turns, opening=()):
    """Return the ids of turns that end in the model's end token, as templates of chats write."""
    ids = [tokenizer.bos_token_id]
    for turn in turns:
        ids += tokenizer(turn, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return ids + list(opening)


def read(model, steer, rows):
    width = max(map(len, rows))
    ids = torch.tensor([[2] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    steer.to("fr")
    model.generate(ids, attention_mask=mask, max_new_tokens=1, pad_token_id=2)
    return list(steer._state.last.languages)


def test_of_a_chat_the_last_turn_tells_what_is_left(demo_model, demo_tokenizer, neurons):
    system = PROMPTS["en"] + ". " + PROMPTS["en"]
    german, spanish = PROMPTS["de"], PROMPTS["es"]
    opening = demo_tokenizer(" the man", add_special_tokens=False)["input_ids"]
    asked = chat(demo_tokenizer, system, german, opening=opening)
    several = chat(demo_tokenizer, system, german, system, spanish, opening=opening)
    begun = chat(
        demo_tokenizer,
        system,
        german,
        opening=demo_tokenizer(spanish * 2, add_special_tokens=False)["input_ids"],
    )
    plain = demo_tokenizer(german)["input_ids"]
    with ns.attach(demo_model, neurons) as steer:
        rows = [asked, several, begun, plain]
        assert read(demo_model, steer, rows) == ["de", "es", "es", "de"]
        assert [read(demo_model, steer, [row])[0] for row in rows] == ["de", "es", "es", "de"]
        ends = demo_model.generation_config.eos_token_id
        demo_model.generation_config.eos_token_id = None
        try:  # the control: without knowing where turns end, the longer part outweighs
            assert read(demo_model, steer, [asked]) == ["en"]
        finally:
            demo_model.generation_config.eos_token_id = ends
