"""Training under steering: what backward recomputes is what forward computed."""

from __future__ import annotations

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import HookError
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_ids, tiny_model

PROMPT = 4
TARGETS = {
    "constant": "fr",
    "not the prompt": ns.Schedule("fr", prompt=False),
    "schedule": "en,2:fr",
    "ramp": "1~4:ja",
    "one per row": ["fr", "ja"],
    "a schedule per row": ["en,1:fr", None],
    "unsteered": None,
}
AT_GATE = {"name": "set", "value": "mean", "site": "mlp.act"}


@pytest.fixture(params=["llama", "mixtral"])
def model(request):
    return tiny_model(request.param).train()


def checkpoint(model, reentrant):
    """Make the model forget its activations, or, with `None`, keep them."""
    if reentrant is None:
        model.gradient_checkpointing_disable()
    else:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})


def loss(model, ids):
    return model(ids, use_cache=False).logits.square().mean()


def gradients(model):
    """Return and forget the gradients, by the parameter's name."""
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], msg=lambda m, n=name: f"{n}: {m}")


def differ(one, other):
    return any(not torch.allclose(one[name], other[name]) for name in one)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize(
    ("target", "operation"),
    [
        *((target, None) for target in TARGETS),
        *((target, AT_GATE) for target in ("constant", "schedule", "one per row")),
    ],
    ids=lambda value: value if isinstance(value, str) else "neuron" if value is None else "gate",
)
def test_checkpointing_does_not_change_gradients(model, reentrant, target, operation):
    """S13: layers that are run again in `backward()` are steered as they were in `forward`."""
    ids = tiny_ids(2)
    loss(model, ids).backward()
    plain = gradients(model)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(TARGETS[target], operation=operation, prompt_length=PROMPT)
        loss(model, ids).backward()
        wanted = gradients(model)
        assert differ(wanted, plain) == (target != "unsteered")
        checkpoint(model, reentrant)
        loss(model, ids).backward()
        assert_same(gradients(model), wanted)
    loss(model, ids).backward()
    assert_same(gradients(model), plain)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
@pytest.mark.parametrize("then", ["ja", "-,1:en", ["en", "ja"], None, "another forward"], ids=str)
@pytest.mark.parametrize("target", ["constant", "schedule", "one per row", "unsteered"])
def test_what_happens_between_forward_and_backward_does_not_matter(reentrant, then, target):
    """S13: `backward()` belongs to its own forward pass, whatever has been asked for since."""
    model, ids = tiny_model("llama").train(), tiny_ids(2)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(TARGETS[target], prompt_length=PROMPT)
        loss(model, ids).backward()
        wanted = gradients(model)
        checkpoint(model, reentrant)
        held = loss(model, ids)
        if then == "another forward":
            steer.to("en,1:ja", prompt_length=2)
            with torch.no_grad():
                model(tiny_ids(3, 5), use_cache=False)
        else:
            steer.to(then)
        held.backward()
        assert_same(gradients(model), wanted)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_two_forwards_before_one_backward(model, reentrant):
    """S13: losses under different labels may be added up."""
    ids = tiny_ids(2)

    def both():
        steer.to("en,2:fr", prompt_length=PROMPT)
        first = loss(model, ids)
        steer.to(["ja", "en"])
        (first + loss(model, ids)).backward()
        return gradients(model)

    with ns.attach(model, toy_set(model)) as steer:
        wanted = both()
        checkpoint(model, reentrant)
        assert_same(both(), wanted)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_two_steerers_and_checkpointing(model, reentrant):
    """S13: every steerer's part is recomputed, and a private one's is nothing."""
    ids = tiny_ids(2)
    sets = [toy_set(model, seed=i) for i in range(3)]
    with (
        ns.attach(model, sets[0]) as one,
        ns.attach(model, sets[1]) as two,
        ns.attach(model, sets[2], private=True) as three,
    ):
        one.to("fr")
        two.to("en,2:ja", prompt_length=PROMPT)
        loss(model, ids).backward()
        wanted = gradients(model)
        three.to("en")
        checkpoint(model, reentrant)
        loss(model, ids).backward()
        assert_same(gradients(model), wanted)


def test_generation_after_a_checkpointed_backward(model):
    """S13: recomputing leaves nothing behind."""
    ids = tiny_ids(2)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to("en,4:fr")
        wanted = greedy(model.eval(), ids)
        model.train()
        checkpoint(model, False)
        steer.to("en,2:fr", prompt_length=PROMPT)
        loss(model, ids).backward()
        gradients(model)
        checkpoint(model, None)
        steer.to("en,4:fr")
        assert torch.equal(greedy(model.eval(), ids), wanted)


# --- S10 --------------------------------------------------------------------------------------


def inside():
    return torch.inference_mode()


def outside():
    return torch.inference_mode(False)


MODES = {"inside": inside, "outside": outside}


@pytest.mark.parametrize("generating", MODES)
@pytest.mark.parametrize("setting", MODES)
@pytest.mark.parametrize("attaching", MODES)
@pytest.mark.parametrize("target", ["fr", ["ja", "en,3:fr*0.5"]], ids=str)
def test_inference_mode_is_allowed_at_every_step(target, attaching, setting, generating):
    """S10: `attach`, `to` and `generate` each work inside and outside `torch.inference_mode()`."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    neurons = toy_set(model)
    with ns.attach(model, neurons) as steer:
        steer.to(target)
        wanted = greedy(model, ids)
    with MODES[attaching]():
        steer = ns.attach(model, neurons)
    for _ in range(2):
        with MODES[setting]():
            steer.to(target)
        with MODES[generating]():
            assert torch.equal(greedy(model, ids), wanted)
        with MODES[setting]():
            steer.to("ja", strength=0.75)  # a state that the tables do not have yet
    with MODES[attaching]():
        steer.detach()


@pytest.mark.parametrize("target", ["fr", "en,2:fr", ["ja", "en"]], ids=str)
def test_training_after_attaching_in_inference_mode(target):
    """S10: tables made in inference mode can be differentiated through afterwards."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    neurons = toy_set(model)
    with ns.attach(model, neurons) as steer:
        steer.to(target, prompt_length=PROMPT)
        loss(model, ids).backward()
        wanted = gradients(model)
    with torch.inference_mode():
        steer = ns.attach(model, neurons)
        steer.to(target, prompt_length=PROMPT)
        model(ids)
    with steer:
        loss(model, ids).backward()
        assert_same(gradients(model), wanted)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_checkpointing_under_a_second_steerer(reentrant):
    """S13: what a steerer left on the layers is not taken for the next one's."""
    model, ids = tiny_model("llama").train(), tiny_ids(2)
    neurons = toy_set(model)
    with ns.attach(model, neurons) as steer:
        steer.to("en,2:fr", prompt_length=PROMPT)
        loss(model, ids).backward()
        wanted = gradients(model)
    checkpoint(model, reentrant)
    for _ in range(2):
        with ns.attach(model, neurons) as steer:
            steer.to("en,2:fr", prompt_length=PROMPT)
            loss(model, ids).backward()
            assert_same(gradients(model), wanted)


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_detaching_before_backward_is_refused_where_layers_run_again(reentrant):
    """S13: a wrong gradient would be silent."""
    model, ids = tiny_model("llama").train(), tiny_ids(2)
    checkpoint(model, reentrant)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to("fr")
        held = loss(model, ids)
    with pytest.raises(HookError, match="before detach"):
        held.backward()


def test_training_after_labels_per_row_were_evaluated_in_inference_mode():
    """S10: what is remembered from an evaluation can be differentiated through."""
    model, ids = tiny_model("llama").train(), tiny_ids(2)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(["1~4:ja", "fr"], prompt_length=PROMPT)
        with torch.inference_mode():
            model(ids, use_cache=False)
        loss(model, ids).backward()
        assert gradients(model)
