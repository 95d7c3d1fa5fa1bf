"""What steering computes: against hooks written by hand, operation by operation."""

from __future__ import annotations

import pytest
import torch

from neuronsteer.errors import LabelError, ParameterError
from neuronsteer.models import inspect
from neuronsteer.operations import OPERATIONS, operation
from neuronsteer.steering.schedule import Schedule
from neuronsteer.steering.steerer import attach
from tests.steering.sets import FAMILIES, toy_set
from tests.tiny_models import tiny_ids, tiny_model


def by_hand(model, neurons, label, change):
    """Return logits with `change(a, u, values)` done to the label's neurons in plain hooks."""
    anatomy = inspect(model)
    rows, handles, ups = neurons.rows(label), [], {}
    for up in anatomy.up_hook_points():
        hook = lambda _m, _a, out, up=up: ups.__setitem__(up.layer, up.read(out))  # noqa: E731
        handles.append(up.module.register_forward_hook(hook))
    for point in anatomy.hook_points("mlp.neuron"):
        here = rows.layer == point.layer
        columns = rows.index[here].long()

        def pre(_m, args, point=point, here=here, columns=columns):
            x = args[0].clone()
            u = ups[point.layer][..., columns] if ups else torch.ones(())
            x[..., columns] = change(x[..., columns], u, here)
            return (x,)

        handles.append(point.module.register_forward_pre_hook(pre))
    try:
        return model(tiny_ids(2)).logits
    finally:
        for handle in handles:
            handle.remove()


DENSE = [family for family in FAMILIES if family != "mixtral"]


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_operations_do_what_their_formula_says(family, strength):
    model = tiny_model(family)
    neurons = toy_set(model)
    rows = neurons.rows("fr")
    mean, diff = rows.value("mean", "mlp.neuron"), rows.value("diffmean", "mlp.neuron")
    g_mean = rows.value("mean", "mlp.act")
    gated = inspect(model).gated
    if not gated:  # the activation is the neuron: one site, two names for its statistics
        g_mean = rows.value("mean", "mlp.act")

    def blend(f):
        return lambda a, u, here: a + strength * (f(a, u, here) - a)

    cases = {
        "zero": ({"name": "zero"}, lambda a, u, h: 0 * a),
        "scale": ({"name": "scale", "factor": 1.5}, lambda a, u, h: 1.5 * a),
        "set": ({"name": "set", "value": "mean"}, lambda a, u, h: mean[h] + 0 * a),
        "number": ({"name": "set", "value": 2.0}, lambda a, u, h: 2 + 0 * a),
        "add": ({"name": "add", "value": "diffmean", "factor": 2}, lambda a, u, h: a + 2 * diff[h]),
        "pull": (
            {"name": "pull", "share": 0.3, "factor": 0.7},
            lambda a, u, h: a + 0.3 * (mean[h] - a) + 0.7 * diff[h],
        ),
        "set g": (
            {"name": "set", "value": "mean", "site": "mlp.act"},
            lambda a, u, h: g_mean[h] * u + 0 * a,
        ),
        "add g": (
            {"name": "add", "value": "mean", "site": "mlp.act"},
            lambda a, u, h: a + g_mean[h] * u,
        ),
    }
    with torch.no_grad(), attach(model, neurons) as steer:
        for name, (spec, formula) in cases.items():
            steer.to("fr", operation=spec, strength=strength)
            got = model(tiny_ids(2)).logits
            steer.off()
            want = by_hand(model, neurons, "fr", blend(formula))
            torch.testing.assert_close(got, want, msg=lambda m, name=name: f"{name}: {m}")


def test_every_registered_operation_is_affine_and_describes_itself():
    rows = toy_set(tiny_model("llama")).rows("fr")
    for name, kind in OPERATIONS.items():
        made = operation(name)
        assert isinstance(made, kind) and made.name == name
        assert operation(made.to_dict()) == made
        scale, shift = made.affine(rows, "mlp.neuron")
        assert scale.shape == shift.shape == (len(rows),)
        for strength in (0.0, 0.5, 1.0):
            s, t = made.blended(rows, "mlp.neuron", strength)
            a = torch.randn(len(rows))
            want = a + strength * (a * scale + shift - a)
            torch.testing.assert_close(a * s + t, want)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"])
def test_experts_are_steered_per_expert(family):
    model = tiny_model(family)
    neurons = toy_set(model, per_layer=40)
    ids = tiny_ids(2)
    anatomy = inspect(model)
    with torch.no_grad():
        plain = model(ids).logits
        weights = {}
        with attach(model, neurons) as steer:
            steer.to("fr", operation="zero")
            got = model(ids).logits
            steer.to("fr", operation={"name": "set", "value": 1.5, "site": "mlp.act"})
            assert not torch.equal(model(ids).logits, got)
            steer.off()
            assert torch.equal(model(ids).logits, plain)
            report = steer.report()
        rows = neurons.rows("fr")
        for point in anatomy.hook_points(
            "mlp.neuron"
        ):  # zeroing a neuron is zeroing its weight column
            if point.experts is None:
                continue
            module = point.experts.module
            down = module.down_proj.data
            weights[module] = down.clone()
            for flat in rows.index[rows.layer == point.layer].tolist():
                expert, i = point.experts.locate(int(flat))
                if expert == point.experts.num_experts:
                    shared = point.experts.shared.module
                    weights.setdefault(shared, shared.weight.data.clone())
                    shared.weight.data[:, i] = 0
                elif module.is_transposed:
                    down[expert, i] = 0
                else:
                    down[expert, :, i] = 0
        want = model(ids).logits
        for module, before in weights.items():
            parameter = module.weight if hasattr(module, "weight") else module.down_proj
            parameter.data.copy_(before)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert (got - plain).abs().max() > 1e-2
    assert any(layer["calls"] for layer in report["layers"])


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "phi3"])
@pytest.mark.parametrize("site", ["attn.q", "attn.v", "attn.o", "resid"])
def test_other_sites_are_steered_in_their_own_columns(family, site):
    model, ids = tiny_model(family), tiny_ids(2)
    neurons = toy_set(model, site=site, per_layer=3)
    rows = neurons.rows("ja")
    anatomy = inspect(model)
    with torch.no_grad():
        with attach(model, neurons) as steer:
            steer.to("ja", operation={"name": "set", "value": 1.25})
            got = model(ids).logits
        handles = []
        for point in anatomy.hook_points(site):
            neurons_here = rows.index[rows.layer == point.layer].long()
            columns = torch.arange(point.tensor_width)
            columns = columns if point.columns is None else columns[point.columns]

            def post(_m, _a, out, columns=columns[neurons_here]):
                tensor = out[0] if isinstance(out, tuple) else out
                tensor[..., columns] = 1.25

            handles.append(point.module.register_forward_hook(post))
        want = model(ids).logits
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(got, want)


def test_the_source_is_deactivated_first_and_the_target_wins_on_shared_neurons():
    model, ids = tiny_model("llama"), tiny_ids(2)
    neurons = toy_set(model, per_layer=40)  # of 80: many neurons are shared
    add = {"name": "add", "value": 3.0}
    with torch.no_grad(), attach(model, neurons) as steer:
        steer.to("fr", operation=add, away_from="en")
        got = model(ids).logits
        steer.off()
        en, fr = neurons.rows("en"), neurons.rows("fr")

        def both(a, _u, _here):  # columns of fr and of en together
            return a

        handles = []
        for point in inspect(model).hook_points("mlp.neuron"):
            off = en.index[en.layer == point.layer].long()
            on = fr.index[fr.layer == point.layer].long()

            def pre(_m, args, off=off, on=on):
                x = args[0].clone()
                x[..., off] = 0
                x[..., on] += 3
                return (x,)

            handles.append(point.module.register_forward_pre_hook(pre))
        torch.testing.assert_close(model(ids).logits, got)
        for handle in handles:
            handle.remove()
        steer.to(None, away_from="en")
        off = model(ids).logits
        steer.to("en", operation="zero")
        torch.testing.assert_close(off, model(ids).logits)


def test_sets_are_applied_in_the_order_they_are_attached():
    model, ids = tiny_model("llama"), tiny_ids(1)
    first = toy_set(model, operation={"name": "set", "value": 1.0})
    second = toy_set(model, operation={"name": "scale", "factor": 3.0})
    with torch.no_grad():
        with attach(model, [first, second]) as steer:
            got = model(ids).logits if steer.to("fr") else None
        with attach(model, first) as steer:
            steer.to("fr", operation={"name": "set", "value": 3.0})
            torch.testing.assert_close(model(ids).logits, got)
        with attach(model, [second, first]) as steer:
            reverse = model(ids).logits if steer.to("fr") else None
        with attach(model, first) as steer:
            steer.to("fr")
            torch.testing.assert_close(model(ids).logits, reverse)


def test_many_states_grow_the_tables_without_losing_any():
    model, ids = tiny_model("llama"), tiny_ids(1)
    with torch.no_grad(), attach(model, toy_set(model), capacity=3) as steer:
        factors = [0.1 * i for i in range(1, 40)]
        seen = []
        for factor in factors:
            steer.to("fr", operation={"name": "scale", "factor": factor})
            seen.append(model(ids).logits)
        for factor, before in zip(factors, seen, strict=True):
            steer.to("fr", operation={"name": "scale", "factor": factor})
            assert torch.equal(model(ids).logits, before)


def test_impossible_requests_say_what_is_possible():
    model = tiny_model("llama")
    with attach(model, toy_set(model, empty=("ja",))) as steer:
        with pytest.raises(LabelError, match="Did you mean 'fr'"):
            steer.to("fra")
        with pytest.raises(LabelError, match=r"'ja' has no neurons.*en, fr"):
            steer.to("ja")
        with pytest.raises(LabelError, match="Unknown label 'de'"):
            steer.to("en,4:de")
        with pytest.raises(ParameterError, match="between untouched"):
            steer.to("fr", operation="zero", strength=1.5)
        with pytest.raises(ParameterError, match="no parameter 'factr'"):
            steer.to("fr", operation={"name": "scale", "factr": 2})
        with pytest.raises(ParameterError, match="expected a number, one of"):
            steer.to("fr", operation={"name": "set", "value": "average"})
        with pytest.raises(ParameterError, match="2 labels were given"):
            steer.to(["fr", "en"])
            model.generate(tiny_ids(3), attention_mask=torch.ones(3, 7), max_new_tokens=2)
        with pytest.raises(ParameterError, match="names no label"):
            steer.to([])


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"target": 5}, "Cannot steer to 5: expected a label"),
        ({"target": ["fr", 5]}, "Cannot steer to 5"),
        ({"target": {"fr": 1}}, "Cannot steer to {'fr': 1}"),
        ({"target": "fr", "strength": "much"}, "strength is 'much'"),
        ({"target": "fr", "away_from": 5}, "list of labels; found 5"),
        ({"target": "fr", "source": [5]}, "list of labels; found .5."),
        ({"target": "fr", "operation": 5}, "or the name of one; got 5"),
    ],
)
def test_what_is_no_label_is_told(arguments, found):
    model = tiny_model("llama")
    with attach(model, toy_set(model)) as steer:
        with pytest.raises(ParameterError, match=found):
            steer.to(**arguments)
        assert steer.schedule == Schedule(None)
