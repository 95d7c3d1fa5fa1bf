"""The SAELens adapter, on autoencoders that SAELens itself makes, where it is installed.

Where it is not (it brings sixty packages), the adapter is tried on objects of the same shape, and
what SAELens writes to disk is not tested.
"""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from neuronsteer.codecs import open_codec
from neuronsteer.codecs.saelens import SaeLensCodec
from neuronsteer.detectors import detect, detector
from neuronsteer.errors import MissingExtraError, ParameterError
from neuronsteer.stats import collect
from neuronsteer.steering.steerer import attach
from tests.codecs.test_codecs import HIDDEN, TEXTS, autoencoder
from tests.steering.sets import greedy
from tests.tiny_models import tiny_ids, tiny_model, tiny_tokenizer

FEATURES = 12
INSTALLED = importlib.util.find_spec("sae_lens") is not None


class Likeness:
    """What the adapter uses of an autoencoder of SAELens."""

    def __init__(self, hook, each):
        self.cfg = SimpleNamespace(d_sae=FEATURES, metadata=SimpleNamespace(hook_name=hook))
        self.W_dec, self.encode, self.decode = each.decoder, each.encode, each.decode


def sae(kind="Standard", hook="blocks.1.hook_resid_post", **options):
    """Return an autoencoder of SAELens with random weights."""
    if not INSTALLED:
        return Likeness(hook, autoencoder(activation="topk" if kind == "TopK" else "relu"))
    lens = importlib.import_module("sae_lens")
    config = getattr(lens, f"{kind}SAEConfig")(
        d_in=HIDDEN,
        d_sae=FEATURES,
        **options,
    )
    config.metadata.hook_name = hook
    made = getattr(lens, f"{kind}SAE")(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return made


KINDS = [("Standard", {}), ("TopK", {"k": 3}), ("JumpReLU", {})]


@pytest.mark.skipif(not INSTALLED, reason="needs the extra 'sae'")
@pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda x: str(x))
def test_plain_files_of_saelens_mean_what_saelens_computes(kind, options, tmp_path):
    made = sae(
        kind, **options, **({"rescale_acts_by_decoder_norm": False} if kind == "TopK" else {})
    )
    made.save_model(tmp_path / "somewhere")
    plain, adapter = open_codec(tmp_path), SaeLensCodec([made])
    assert plain.layers == adapter.layers == (1,)
    assert plain.site == adapter.site == "sae.resid"
    assert plain.width(1) == adapter.width(1) == FEATURES
    rows = torch.randn(6, HIDDEN)
    features = adapter.encode(1, rows)
    torch.testing.assert_close(features, made.encode(rows).to_dense().detach())
    torch.testing.assert_close(plain.encode(1, rows), features)
    torch.testing.assert_close(plain.decode(1, features), adapter.decode(1, features))
    index = torch.tensor([3, 0])
    torch.testing.assert_close(plain.directions(1, index), adapter.directions(1, index))
    # A unit of a feature adds its direction, nothing else.
    unit = torch.zeros(1, FEATURES)
    unit[0, 3] = 1
    added = adapter.decode(1, unit) - adapter.decode(1, torch.zeros(1, FEATURES))
    torch.testing.assert_close(added[0], adapter.directions(1, index)[0])


def test_from_statistics_to_steering():
    codec = SaeLensCodec([sae("TopK", k=3)])
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    stats = collect(model, tokenizer, TEXTS, codec=codec, needs=detector("sae_lape").needs)
    neurons = codec.with_directions(detect(stats, "sae_lape", tokens=0, examples=0, count=None))
    with attach(model, neurons) as steer:
        steer.to("a", strength=50)
        assert not torch.equal(greedy(model, tiny_ids(1)), _plain(model, steer))


def _plain(model, steer):
    steer.off()
    return greedy(model, tiny_ids(1))


def test_where_an_autoencoder_belongs_is_read_off_its_hook():
    codec = SaeLensCodec([sae(hook=f"blocks.{k}.hook_mlp_out") for k in (4, 0)])
    assert codec.site == "sae.mlp" and codec.layers == (0, 4)
    for hooks, said in (
        (["blocks.0.attn.hook_z"], "hook_z"),
        (["blocks.0.hook_mlp_out"] * 2, "Two autoencoders read layer 0"),
        (["blocks.0.hook_mlp_out", "blocks.1.hook_resid_post"], "one kind of place"),
    ):
        with pytest.raises(ParameterError, match=said):
            SaeLensCodec([sae(hook=hook) for hook in hooks])


def test_specifications_are_checked():
    with pytest.raises(ParameterError, match="'release'"):
        open_codec({"format": "saelens"})


def test_without_saelens_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sae_lens", None)
    with pytest.raises(MissingExtraError, match=r"neuronsteer\[sae\]"):
        open_codec({"format": "saelens", "release": "gpt2-small-res-jb", "ids": ["x"]})
