"""Codecs: files, formulas, statistics of features, steering by decoder rows."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from neuronsteer.codecs import open_codec
from neuronsteer.codecs.plain import Autoencoder, PlainCodec
from neuronsteer.codecs.training import train
from neuronsteer.detectors import detect, detector
from neuronsteer.errors import ArtifactError, LayoutError, MismatchError, ParameterError
from neuronsteer.models import inspect
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.operations import operation
from neuronsteer.stats import collect
from neuronsteer.steering.steerer import attach
from tests.steering.sets import greedy
from tests.tiny_models import tiny_ids, tiny_model, tiny_tokenizer

HIDDEN, FEATURES = 32, 12
TEXTS = {
    "a": ["abc abc", "a cab and a bac", "abacus abc cab"],
    "b": ["xyz xyz zyx", "zzy xxy", "x y z zyx xyz"],
}


def autoencoder(seed=0, activation="relu", hidden=HIDDEN, features=FEATURES, centred=True):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return Autoencoder(
        draw(hidden, features),
        draw(features),
        draw(features, hidden),
        draw(hidden),
        activation=activation,
        k=3 if activation == "topk" else None,
        threshold=draw(features).abs() if activation == "jumprelu" else None,
        centred=centred,
    )


def by_loops(each, x):
    """Features of one row, from the formula."""
    found = []
    for f in range(each.encoder.shape[1]):
        total = float(each.encoder_bias[f])
        for h in range(len(x)):
            total += float(x[h] - (each.decoder_bias[h] if each.centred else 0)) * float(
                each.encoder[h, f]
            )
        found.append(max(total, 0.0))
    if each.activation == "topk":
        best = sorted(found, reverse=True)[: each.k]
        found = [value if value in best else 0.0 for value in found]
    if each.activation == "jumprelu":
        found = [v if v > t else 0.0 for v, t in zip(found, each.threshold.tolist(), strict=True)]
    return found


class TestAutoencoder:
    @pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
    @pytest.mark.parametrize("centred", [True, False])
    def test_encodes_by_its_formula(self, activation, centred):
        each = autoencoder(activation=activation, centred=centred)
        rows = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(1))
        found = each.encode(rows)
        for row, x in zip(found, rows, strict=True):
            assert row.tolist() == pytest.approx(by_loops(each, x), abs=1e-4)
        expected = torch.stack([row @ each.decoder + each.decoder_bias for row in found])
        torch.testing.assert_close(each.decode(found), expected)

    def test_what_does_not_fit_is_refused(self):
        good = autoencoder()
        parts = (good.encoder, good.encoder_bias, good.decoder, good.decoder_bias)
        with pytest.raises(ArtifactError, match="decoder has shape"):
            Autoencoder(good.encoder, good.encoder_bias, good.decoder.T, good.decoder_bias)
        for options, said in (
            ({"activation": "gelu"}, "activation is 'gelu'"),
            ({"activation": "topk"}, "k=None"),
            ({"activation": "topk", "k": 99}, "k=99"),
            ({"activation": "jumprelu"}, "no threshold"),
        ):
            with pytest.raises(ArtifactError, match=said):
                Autoencoder(*parts, **options)

    def test_training_finds_directions_that_were_put_in(self):
        generator = torch.Generator().manual_seed(0)
        true = torch.nn.functional.normalize(torch.randn(6, 24, generator=generator), dim=1)
        used = (torch.rand(4000, 6, generator=generator) < 0.2).float()
        used = used * (1 + torch.rand(4000, 6, generator=generator))
        found = train(used @ true + 5, 24, 3, steps=300)
        rows = torch.nn.functional.normalize(found.decoder, dim=1)
        assert float((true @ rows.T).amax(1).min()) > 0.7
        data = used @ true + 5
        error = (found.decode(found.encode(data)) - data).square().mean() / data.var(0).mean()
        assert float(error) < 0.3


class TestFiles:
    @pytest.mark.parametrize("site", ["sae.resid", "sae.mlp"])
    @pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
    def test_round_trip(self, tmp_path, site, activation):
        made = PlainCodec({2: autoencoder(0, activation), 0: autoencoder(1, activation)}, site)
        made.save(tmp_path / "codec")
        found = open_codec(tmp_path / "codec")
        assert found.site == site and found.layers == (0, 2) and found.width(2) == FEATURES
        assert open_codec(found.spec).layers == (0, 2) and open_codec(found) is found
        rows = torch.randn(4, HIDDEN)
        index = torch.tensor([5, 0, 5])
        for layer in (0, 2):
            assert torch.equal(found.directions(layer, index), made.directions(layer, index))
            assert torch.equal(found.encode(layer, rows), made.encode(layer, rows))
            features = found.encode(layer, rows)
            assert torch.equal(found.decode(layer, features), made.decode(layer, features))

    def test_sparsify_folders_are_read(self, tmp_path):
        each = autoencoder(activation="topk")
        folder = tmp_path / "layers.1.mlp"
        folder.mkdir()
        tensors = {
            "encoder.weight": each.encoder.T.contiguous(),
            "encoder.bias": each.encoder_bias,
            "W_dec": each.decoder,
            "b_dec": each.decoder_bias,
        }
        save_file(tensors, folder / "sae.safetensors")
        config = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": 0, "k": 3}
        (folder / "cfg.json").write_text(json.dumps({**config, "d_in": HIDDEN}))
        found = open_codec(tmp_path)
        assert found.site == "sae.mlp" and found.layers == (1,)
        rows = torch.randn(4, HIDDEN)
        torch.testing.assert_close(found.encode(1, rows), each.encode(rows))

    def test_what_is_not_computed_here_is_refused_not_ignored(self, tmp_path):
        PlainCodec({1: autoencoder()}).save(tmp_path)
        path = tmp_path / "layers.1" / "cfg.json"
        for extra in ({"normalize_activations": "layer_norm"}, {"transcode": True}):
            path.write_text(json.dumps({"activation": "relu", **extra}))
            with pytest.raises(ArtifactError, match=next(iter(extra))):
                open_codec(tmp_path).encode(1, torch.zeros(1, HIDDEN))

    def test_other_folders_say_what_they_are(self, tmp_path):
        with pytest.raises(ArtifactError, match="no such folder"):
            open_codec(tmp_path / "nowhere")
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ArtifactError, match=r"holds config\.json"):
            open_codec(tmp_path)
        with pytest.raises(ParameterError, match="'format'"):
            open_codec({"path": "x"})
        PlainCodec({1: autoencoder()}).save(tmp_path / "damaged")
        file = tmp_path / "damaged" / "layers.1" / "sae.safetensors"
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(ArtifactError, match="damaged"):
            open_codec(tmp_path / "damaged").width(1)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def read_rows(model, tokenizer, text, site, layer):
    """What the layer hands on for a text, `[tokens, hidden]`, read without this package."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    block = model.model.layers[layer]
    found = []
    module = block if site == "sae.resid" else block.mlp
    handle = module.register_forward_hook(
        lambda _m, _a, out: found.append(out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        model(ids)
    handle.remove()
    # The BOS token is not counted.
    return found[0].reshape(-1, HIDDEN)[1:]


@pytest.mark.parametrize("site", ["sae.resid", "sae.mlp"])
def test_statistics_of_features_are_those_of_encoded_rows(model, tokenizer, site):
    codec = PlainCodec({1: autoencoder(activation="topk")}, site)
    needs = [f"{reducer}@{site}" for reducer in ("count", "texts", "max", "sum", "responses")]
    stats = collect(model, tokenizer, TEXTS, codec=codec, needs=needs, progress=False)
    assert stats.site_widths[site] == (0, FEATURES)
    for k, (label, texts) in enumerate(TEXTS.items()):
        parts = [codec.encode(1, read_rows(model, tokenizer, text, site, 1)) for text in texts]
        rows = torch.cat(parts)
        assert stats.tokens[label] == len(rows)
        assert torch.equal(stats.get("count", site)[k, 1], (rows > 0).sum(0))
        active = torch.stack([(part > 0).any(0) for part in parts]).sum(0)
        assert torch.equal(stats.get("texts", site)[k, 1], active)
        torch.testing.assert_close(stats.max(site)[k, 1], rows.amax(0))
        torch.testing.assert_close(stats.mean(site)[k, 1], rows.mean(0))
        means = torch.stack([part.mean(0) for part in parts])
        torch.testing.assert_close(stats.responses(site)[label][:, 1], means)
        assert not stats.get("count", site)[k, 0].any()


@pytest.mark.parametrize("family", ["granite", "gemma2", "mixtral", "gpt_oss"])
def test_features_of_the_mlp_are_read_before_it_is_normed_or_scaled(tokenizer, family):
    model = tiny_model(family)
    codec = PlainCodec({1: autoencoder(activation="topk")}, "sae.mlp")
    stats = collect(model, tokenizer, TEXTS, codec=codec, needs=["max@sae.mlp"], progress=False)
    for k, texts in enumerate(TEXTS.values()):
        rows = torch.cat([read_rows(model, tokenizer, text, "sae.mlp", 1) for text in texts])
        want = codec.encode(1, rows).amax(0)
        torch.testing.assert_close(stats.max("sae.mlp")[k, 1], want, atol=1e-4, rtol=1e-4)


def test_texts_are_counted_at_other_sites_too(model, tokenizer):
    stats = collect(model, tokenizer, TEXTS, needs=["texts@mlp.act", "count@mlp.act"])
    texts, count = stats.get("texts", "mlp.act"), stats.get("count", "mlp.act")
    assert bool(((texts > 0) == (count > 0)).all()) and int(texts.max()) <= 3
    with pytest.raises(ParameterError, match="per text"):
        collect(model, tokenizer, TEXTS, needs=["texts@mlp.act"], block_size=8)


def test_statistics_remember_the_codec(model, tokenizer, tmp_path):
    codec = PlainCodec({1: autoencoder(activation="topk")}).save(tmp_path / "codec")
    needs = detector("sae_lape").needs
    stats = collect(model, tokenizer, TEXTS, codec=codec, needs=needs, out=tmp_path / "stats")
    assert stats.header["codec"] == {"format": "plain", "path": str(codec)}
    found = detect(type(stats).load(tmp_path / "stats"), "sae_lape", tokens=0, count=None)
    assert len(found) and found.values["sae.resid.direction"].shape == (len(found), HIDDEN)
    assert torch.equal(
        found.values["sae.resid.direction"], open_codec(codec).directions(1, found.index)
    )


def test_statistics_of_different_codecs_do_not_mix(model, tokenizer, tmp_path):
    found = []
    for seed, label in enumerate(TEXTS):
        folder = PlainCodec({1: autoencoder(seed)}).save(tmp_path / label)
        some = {label: TEXTS[label]}
        found.append(collect(model, tokenizer, some, codec=folder, needs=["count@sae.resid"]))
    with pytest.raises(MismatchError, match="codec"):
        found[0].merge(found[1])


def test_features_without_a_codec_are_refused(model, tokenizer):
    with pytest.raises(ParameterError, match="no codec was given"):
        collect(model, tokenizer, TEXTS, needs=["count@sae.resid"])
    codec = PlainCodec({1: autoencoder()}, "sae.mlp")
    with pytest.raises(ParameterError, match=r"has them at 'sae\.mlp'"):
        collect(model, tokenizer, TEXTS, needs=["count@sae.resid"], codec=codec)
    with pytest.raises(LayoutError, match="layer 7"):
        collect(
            model, tokenizer, TEXTS, needs=["count@sae.resid"], codec=PlainCodec({7: autoencoder()})
        )


def features(site="sae.resid", **header):
    """Two labels with three features of layer 0 and one of layer 1, one of them shared."""
    rows = [(0, 0, 1), (0, 0, 5), (1, 0, 5), (1, 1, 2)]
    label, layer, index = zip(*rows, strict=True)
    return NeuronSet.from_rows(
        ("a", "b"),
        label,
        layer,
        index,
        values={f"{site}.max": [1.0, 2.0, 3.0, 4.0], f"{site}.mean": [0.1, 0.2, 0.3, 0.4]},
        site=site,
        num_layers=2,
        width=FEATURES,
        model_type="llama",
        operation={"name": "add", "value": "max", "factor": 0.5},
        **header,
    )


class TestSteering:
    @pytest.fixture(scope="class")
    def codec(self):
        return PlainCodec({0: autoencoder(0), 1: autoencoder(1)})

    def test_adds_decoder_rows_to_the_residual_stream(self, model, codec):
        neurons = codec.with_directions(features())
        decoder = {layer: codec.layer(layer).decoder for layer in (0, 1)}
        expected = {
            "a": {0: 0.5 * (1 * decoder[0][1] + 2 * decoder[0][5])},
            "b": {0: 0.5 * 3 * decoder[0][5], 1: 0.5 * 4 * decoder[1][2]},
        }
        expected["a - b"] = {
            0: expected["a"][0] - expected["b"][0],
            1: -expected["b"][1],
        }
        with torch.no_grad(), attach(model, neurons) as steer:
            for label, added in expected.items():
                steer.to(label)
                found = model(tiny_ids(2)).logits
                steer.off()
                handles = [
                    model.model.layers[layer].register_forward_hook(
                        lambda _m, _a, out, v=vector: (
                            (out[0] + v, *out[1:]) if isinstance(out, tuple) else out + v
                        )
                    )
                    for layer, vector in added.items()
                ]
                torch.testing.assert_close(found, model(tiny_ids(2)).logits)
                for handle in handles:
                    handle.remove()

    def test_like_any_other_set(self, model, codec, tmp_path):
        codec.with_directions(features()).save_pretrained(tmp_path)
        neurons = NeuronSet.from_pretrained(tmp_path)
        assert neurons == codec.with_directions(features())
        ids = tiny_ids(1)
        with attach(model, neurons) as steer:
            steer.to("a,4:b")
            first = greedy(model, ids)
            assert steer.spans() == [(0, 4, "a"), (4, 12, "b")]
            steer.to(["a,4:b"], operation("add", value="max", factor=0.25), strength=2.0)
            assert torch.equal(greedy(model, ids), first)
        only = neurons.only("b")
        assert only.values["sae.resid.direction"].shape == (2, HIDDEN)
        assert neurons.summary()["values"] == [
            f"sae.resid.{n}" for n in ("direction", "max", "mean")
        ]

    def test_a_random_control_gets_its_own_decoder_rows(self, codec):
        control = codec.with_directions(features()).random_like(seed=0)
        assert "sae.resid.direction" not in control.values
        control = codec.with_directions(control)
        rows = codec.directions(0, control.index[control.layer == 0])
        assert torch.equal(control.values["sae.resid.direction"][control.layer == 0], rows)

    def test_what_cannot_be_steered_says_why(self, model, codec):
        with pytest.raises(ParameterError, match="no decoder"):
            attach(model, features())
        neurons = codec.with_directions(features())
        with attach(model, neurons) as steer:
            for spec in ({"name": "zero"}, {"name": "set", "value": 1.0}, {"name": "scale"}):
                with pytest.raises(ParameterError, match="only be added to"):
                    steer.to("a", operation=spec)
        other = PlainCodec({k: autoencoder(hidden=16) for k in (0, 1)}).with_directions(features())
        with pytest.raises(MismatchError, match="16 coordinates"):
            attach(model, other)

    def test_damaged_decoder_rows_are_refused(self, codec):
        neurons = codec.with_directions(features())
        rows = neurons.values["sae.resid.direction"].clone()
        rows[2, 7] = float("nan")
        with pytest.raises(ArtifactError, match=r"direction'.*row 2: nan"):
            neurons.replace(values={**neurons.values, "sae.resid.direction": rows})
        with pytest.raises(ArtifactError, match="one dimension"):
            neurons.replace(values={"sae.resid.max": rows})

    def test_a_codec_knows_its_own_features(self, codec):
        with pytest.raises(ParameterError, match=r"'sae\.mlp'"):
            codec.with_directions(features("sae.mlp"))
        with pytest.raises(ParameterError, match="layer 1"):
            PlainCodec({0: autoencoder()}).with_directions(features())
        with pytest.raises(ParameterError, match="feature 5 of layer 0"):
            small = PlainCodec({k: autoencoder(features=4) for k in (0, 1)})
            small.with_directions(features())


def test_every_dense_family_hands_on_what_a_codec_reads():
    for family in ("gpt2", "bloom", "opt", "gemma2", "gpt_neox"):
        other = tiny_model(family)
        hidden = inspect(other).hidden_size
        each = autoencoder(hidden=hidden)
        for site in ("sae.resid", "sae.mlp"):
            codec = PlainCodec({0: each}, site)
            stats = collect(
                other, tiny_tokenizer(), TEXTS, codec=codec, needs=[f"sum@{site}"], progress=False
            )
            assert bool(stats.get("sum", site)[:, 0].any())
