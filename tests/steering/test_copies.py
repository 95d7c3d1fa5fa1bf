"""A copy of an attached model is a model of its own, or is refused; dropped models are freed.

A steerer belongs to one model. What is copied, saved, quantised, exported or wrapped while it is
attached either is a plain model that computes with its own weights, or the attempt ends in a
`HookError` that says why.
"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
import weakref

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import HookError
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_ids, tiny_model

FAMILIES = ("llama", "mixtral")


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Collect only what these tests make: all of torch and transformers takes a while."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def with_logits(model, ids, new=10):
    """Return the generated tokens and the logits that they were chosen from."""
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return found.sequences, torch.stack(found.logits)


def behaviour(model, ids):
    """Return what there is to compare: a direct call, the decoder alone, and a generation."""
    with torch.no_grad():
        direct = model(ids).logits
        decoder = model.model(ids).last_hidden_state
    return direct, decoder, *with_logits(model, ids)


def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def or_refused(make):
    """Return what `make` returns, or `None` if it is refused with a reason."""
    try:
        return make()
    except HookError as error:
        message = str(error)
        assert "detach" in message or "attach" in message, message
        assert len(message) > 40, message
        return None


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def deepcopied_dict(model):
    """Copy as a container does that holds the model among other things."""
    return copy.deepcopy({"model": model, "name": "mine"})["model"]


#: Ways to copy, and whether being refused is good enough.
COPIES = {
    "deepcopy": (copy.deepcopy, False),
    "deepcopy inside": (deepcopied_dict, False),
    "pickle": (pickled, True),
    "torch.save": (saved, True),
}


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def copied(how, model):
    make, may_refuse = COPIES[how]
    return or_refused(lambda: make(model)) if may_refuse else make(model)


def zero_head(model):
    with torch.no_grad():
        model.lm_head.weight.zero_()


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("target", [None, "fr", "en,4:fr"])
def test_a_copy_is_a_plain_model(family, how, target):
    """S9: what is copied while attached behaves as the model did before it was attached."""
    model, ids = tiny_model(family), tiny_ids(2)
    plain_direct = behaviour(model, ids)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(target)
        steered = with_logits(model, ids)
        other = copied(how, model)
        if other is None:
            assert same(with_logits(model, ids), steered)
            return
        assert same(behaviour(other, ids), plain_direct)
        # Whatever is done to the original is not done to the copy, and the other way round.
        steer.to("ja")
        assert same(behaviour(other, ids), plain_direct)
        steer.to(target)
        assert same(with_logits(model, ids), steered)
        if target is not None:  # what the copy generated is not counted here
            assert steer.report()["generations"] == 2
    assert same(behaviour(other, ids), plain_direct)
    assert same(behaviour(model, ids), plain_direct)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("target", [None, "fr"])
def test_a_copy_computes_with_its_own_weights(family, how, target):
    """S9: changing the copy's weights changes what the copy generates, and only that."""
    model, ids = tiny_model(family), tiny_ids(1)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(target)
        steered = with_logits(model, ids)
        other = copied(how, model)
        if other is None:
            return
        zero_head(other)
        assert not with_logits(other, ids)[1].any(), "the copy generates with other weights"
        assert same(with_logits(model, ids), steered)
    # After detach as well.
    assert not with_logits(other, ids)[1].any()
    assert with_logits(model, ids)[1].any()


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_can_be_steered_on_its_own(family, how):
    """S9: original and copy are attached, steered and detached independently."""
    model, ids = tiny_model(family), tiny_ids(1)
    neurons = toy_set(model)
    plain = with_logits(model, ids)
    wanted = {}
    with ns.attach(model, neurons) as steer:
        for label in ("en", "fr"):
            steer.to(label)
            wanted[label] = with_logits(model, ids)
        other = copied(how, model)
        if other is None:
            return
        with ns.attach(other, neurons) as second:
            second.to("en")
            assert same(with_logits(other, ids), wanted["en"])
            assert same(with_logits(model, ids), wanted["fr"])
            steer.detach()
            assert same(with_logits(model, ids), plain)
            assert same(with_logits(other, ids), wanted["en"])
        assert same(with_logits(other, ids), plain)
    assert not {"generate", "prepare_inputs_for_generation"} & set(vars(other))


def test_a_copy_outlives_the_original(family):
    """S9: a copy does not keep the original alive, and works when it is gone."""
    model, ids = tiny_model(family), tiny_ids(1)
    plain = with_logits(model, ids)
    steer = ns.attach(model, toy_set(model)).to("fr")
    other = copy.deepcopy(model)
    gone = weakref.ref(model)
    del model, steer
    gc.collect()
    assert gone() is None
    assert same(with_logits(other, ids), plain)


def test_a_copy_made_during_a_generation_is_a_plain_model():
    """S9: a generation that runs in this thread does not reach a copy made in it."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    plain = with_logits(model, ids)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to("en,2:fr")
        wanted, found = greedy(model, ids), []

        class Copier:
            def put(self, _value):
                if not found:
                    other = copy.deepcopy(model)
                    found.append(with_logits(other, ids))

            def end(self):
                pass

        assert torch.equal(greedy(model, ids, streamer=Copier()), wanted)
        assert same(found[0], plain)


def test_a_copied_part_of_the_model_is_not_steered():
    """S9: a layer that is copied alone computes what it did before attach."""
    model = tiny_model("llama")
    hidden = torch.randn(1, 3, model.config.hidden_size)
    with torch.no_grad():
        plain = model.model.layers[1].mlp(hidden)
        with ns.attach(model, toy_set(model)) as steer:
            steer.to("fr")
            layer = copy.deepcopy(model.model.layers[1].mlp)
            assert torch.equal(layer(hidden), plain)
            assert not torch.equal(model.model.layers[1].mlp(hidden), plain)


def quantised(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("target", [None, "fr", "en,4:fr"])
def test_dynamic_quantisation_of_an_attached_model(target):
    """S9: the quantised model generates with the quantised weights, or is refused."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    wanted = with_logits(quantised(model), ids)
    assert not torch.equal(wanted[1], with_logits(model, ids)[1])
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(target)
        steered = with_logits(model, ids)
        other = or_refused(lambda: quantised(model))
        assert same(with_logits(model, ids), steered)
        if other is not None:
            assert same(with_logits(other, ids), wanted)
    if other is not None:
        assert same(with_logits(other, ids), wanted)


@pytest.mark.parametrize("target", [None, "fr", ns.Schedule("en", (2, "fr"))], ids=str)
def test_export_of_an_attached_model(target):
    """S9: an exported graph computes what the model does at that moment, or is refused.

    It must not go on listening to the steerer: a program is a copy.
    """
    model, ids = tiny_model("llama"), tiny_ids(1)
    model.config.use_cache = False
    with torch.no_grad(), ns.attach(model, toy_set(model)) as steer:
        steer.to(target)
        wanted = model(ids).logits
        program = or_refused(lambda: torch.export.export(model, (ids,), strict=False))
        if program is None:
            return
        exported = program.module()
        torch.testing.assert_close(exported(ids).logits, wanted)
        steer.to("ja")
        torch.testing.assert_close(exported(ids).logits, wanted)
    torch.testing.assert_close(exported(ids).logits, wanted)


def gradients(model):
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    assert found
    return found


def run(forward, ids):
    logits = forward(ids).logits
    logits.square().mean().backward()
    return logits.detach()


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("wrapper", ["DataParallel", "DistributedDataParallel"])
@pytest.mark.parametrize("target", [None, "fr", "en,2:fr", ["fr", "ja,1:en"]], ids=str)
def test_wrapping_an_attached_model_for_training(one_process, wrapper, target):
    """S9, control: a wrapper calls the same model, which is steered as without it."""
    model, ids = tiny_model("llama"), tiny_ids(2)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to(target, prompt_length=4)
        wanted, slopes = run(model, ids), gradients(model)
        wrapped = or_refused(lambda: getattr(torch.nn.parallel, wrapper)(model))
        if wrapped is None:
            return
        found = run(wrapped, ids)
        assert torch.equal(found, wanted)
        assert same(gradients(model), slopes)


# --- S16 --------------------------------------------------------------------------------------


def nothing(_model, _steer):
    pass


def direct(model, steer):
    steer.to("fr")
    with torch.no_grad():
        model(tiny_ids(1))


def generation(model, steer):
    steer.to("en,2:fr")
    greedy(model, tiny_ids(1), new=4)


def own_generation(_model, steer):
    ids = tiny_ids(2)
    steer.to(["fr", "en,2:ja"])
    steer.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)


def at_the_gate(model, steer):
    steer.to("fr", operation={"name": "set", "value": "mean", "site": "mlp.act"})
    greedy(model, tiny_ids(1), new=4)


def broken(model, steer):
    steer.to("fr")
    handle = model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        greedy(model, tiny_ids(1), new=4)
    handle.remove()


USES = {
    each.__name__: each
    for each in (nothing, direct, generation, own_generation, at_the_gate, broken)
}


def test_a_model_that_was_never_attached_is_freed(family):
    """S16, control: the tests below can tell."""
    model = tiny_model(family)
    greedy(model, tiny_ids(1), new=4)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("end", ["dropped", "detached"])
def test_a_model_that_is_dropped_is_freed(family, use, end):
    """S16: after `del model, steer` both are gone, whether or not anybody called `detach()`."""
    model = tiny_model(family)
    steer = ns.attach(model, toy_set(model))
    USES[use](model, steer)
    if end == "detached":
        steer.detach()
    gone = [weakref.ref(model), weakref.ref(steer), weakref.ref(model.lm_head.weight)]
    del model, steer
    gc.collect()
    assert [each() is None for each in gone] == [True] * len(gone)


@pytest.mark.parametrize("private", [False, True], ids=["public", "private"])
def test_several_steerers_that_are_dropped_are_freed(family, private):
    """S16: however many are attached, and some of them detached."""
    model = tiny_model(family)
    steerers = [ns.attach(model, toy_set(model, seed=i), private=private) for i in range(3)]
    for steer in steerers:
        generation(model, steer)
    steerers[1].detach()
    gone = [weakref.ref(each) for each in (model, *steerers)]
    del model, steerers, steer
    gc.collect()
    assert [each() is None for each in gone] == [True] * len(gone)


def test_a_detached_steerer_does_not_keep_the_model():
    """S16: who keeps a detached steerer, to read its report, does not keep the model with it."""
    model = tiny_model("llama")
    steer = ns.attach(model, toy_set(model))
    generation(model, steer)
    steer.detach()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert steer.report()["generations"] == 1
    assert steer.spans() == [(0, 2, "en"), (2, 4, "fr")]
    with pytest.raises(HookError, match="detached"):
        steer.to("fr")


def test_a_detached_steerer_is_freed_while_its_model_lives_on():
    """S16, control: the tables of a visitor who has left go with the steerer."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    plain = with_logits(model, ids)
    steer = ns.attach(model, toy_set(model), private=True)
    own_generation(model, steer)
    gone = weakref.ref(steer)
    steer.detach()
    del steer
    gc.collect()
    assert gone() is None
    assert same(with_logits(model, ids), plain)


def test_a_public_steerer_that_nobody_holds_still_steers():
    """S16, control: `ns.attach(model, neurons).to("fr")` is enough to steer a model."""
    model, ids = tiny_model("llama"), tiny_ids(1)
    with ns.attach(model, toy_set(model)) as steer:
        steer.to("fr")
        wanted = with_logits(model, ids)
    ns.attach(model, toy_set(model)).to("fr")
    gc.collect()
    assert same(with_logits(model, ids), wanted)
