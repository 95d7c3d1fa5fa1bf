"""SAE-LAPE against a slow reference, and from texts to steering on the demo model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronsteer.cli.models import load_model
from neuronsteer.codecs.training import fit
from neuronsteer.demo.sentences import LANGUAGES, texts
from neuronsteer.detectors import detect, detector
from neuronsteer.errors import ParameterError
from neuronsteer.evaluation.metrics.activity import Activity
from neuronsteer.stats import Need, Stats, collect

from .material import rows_of

SITE = "sae.resid"


def counted(rng, labels, layers, width, tokens, texts):
    shape = (labels, layers, width)
    names = tuple(f"l{k}" for k in range(labels))
    found = rng.integers(0, texts + 1, size=shape)
    # A feature cannot be on in more texts than tokens, and many are never on.
    count = np.minimum(found * rng.integers(1, 4, size=shape), tokens)
    return Stats(
        labels=names,
        tokens=dict.fromkeys(names, tokens),
        texts=dict.fromkeys(names, texts),
        site_widths={SITE: (width,) * layers},
        arrays={
            Need("count", SITE): torch.tensor(count),
            Need("texts", SITE): torch.tensor(found),
            Need("max", SITE): torch.tensor(rng.random(shape), dtype=torch.float32),
        },
        header={"model_type": "llama"},
    )


def reference(stats, examples, tokens, members, count, top, per_layer, by):
    """The rule, feature by feature."""
    labels = len(stats.labels)
    found = {k: [] for k in range(labels)}
    counts, seen = stats.get("count", SITE), stats.get("texts", SITE)
    for layer in range(counts.shape[1]):
        for f in range(counts.shape[2]):
            p = [int(counts[k, layer, f]) / stats.tokens[f"l{k}"] for k in range(labels)]
            often = any(
                int(seen[k, layer, f]) / stats.texts[f"l{k}"] >= examples for k in range(labels)
            )
            if not often or not max(p) > tokens:
                continue
            own = [k for k in range(labels) if p[k] >= members * max(p) and p[k] > 0]
            if count is not None and len(own) != count:
                continue
            q = sorted(x / math.fsum(p) for x in p)
            entropy = -sum(x * math.log(x) for x in q if x > 0)
            for k in own:
                cost = entropy if by == "entropy" else -p[k]
                found[k].append((round(cost, 10), layer, f))
    rows = set()
    for k, mine in found.items():
        kept, used = [], {}
        for _cost, layer, f in sorted(mine):
            used[layer] = used.get(layer, 0) + 1
            if per_layer is None or used[layer] <= per_layer:
                kept.append((k, layer, f))
        rows |= set(kept[:top])
    return rows


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    labels=st.integers(2, 4),
    examples=st.sampled_from([0.0, 0.5, 0.98, 1.0]),
    tokens=st.sampled_from([0.0, 0.1, 0.5]),
    members=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    count=st.sampled_from([None, 1, 2]),
    top=st.sampled_from([None, 1, 3]),
    per_layer=st.sampled_from([None, 1, 2]),
    by=st.sampled_from(["entropy", "frequency"]),
)
def test_selects_what_the_rule_says(
    seed, labels, examples, tokens, members, count, top, per_layer, by
):
    rng = np.random.default_rng(seed)
    stats = counted(rng, labels, int(rng.integers(1, 4)), int(rng.integers(1, 12)), 12, 4)
    found = detect(
        stats,
        "sae_lape",
        examples=examples,
        tokens=tokens,
        members=members,
        count=count,
        top=top,
        top_per_layer=per_layer,
        by=by,
    )
    assert rows_of(found) == reference(stats, examples, tokens, members, count, top, per_layer, by)


def test_scores_values_and_header():
    stats = counted(np.random.default_rng(0), 3, 2, 60, 12, 4)
    found = detect(stats, "sae_lape", members=0.9)
    assert len(found) and found.site == SITE and found.width == 60
    assert found.operation == {"name": "add", "value": "max", "factor": 0.4}
    place = (found.label, found.layer, found.index)
    assert torch.equal(found.values[f"{SITE}.max"], stats.max(SITE)[place])
    assert bool((found.score <= 0).all())
    owners = found.method["results"]["owners"]
    assert sum(owners.values()) == found.method["results"]["kept"]
    assert owners["1"] == len(found)
    bounded = detect(stats, "sae_lape", members=0.9, max_entropy=0.3)
    assert rows_of(bounded) < rows_of(found) and float(bounded.score.min()) >= -0.3


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"examples": 1.5}, "examples=1.5"),
        ({"count": 0}, "count=0"),
        ({"by": "size"}, "by='size'"),
        ({"site": "mlp.act"}, "'sae.resid' or 'sae.mlp'"),
    ],
)
def test_refuses(parameters, said):
    with pytest.raises(ParameterError, match=said):
        detector("sae_lape", **parameters)


class TestOnTheDemoModel:
    """Features of a small autoencoder trained here tell languages, and steer."""

    @pytest.fixture(scope="class")
    def found(self):
        model, tokenizer = load_model("demo", device="cpu")
        corpora = {name: texts(name, 40, 3, seed=3) for name in LANGUAGES}
        mixed = [text for group in zip(*corpora.values(), strict=True) for text in group]
        last = model.config.num_hidden_layers - 2
        codec = fit(model, tokenizer, mixed, [last], features=192, k=12, steps=120, max_rows=6000)
        stats = collect(
            model, tokenizer, corpora, codec=codec, needs=detector("sae_lape").needs, progress=False
        )
        neurons = detect(stats, "sae_lape", examples=0.9, tokens=0.05)
        return model, tokenizer, codec, codec.with_directions(neurons)

    def test_every_language_has_features(self, found):
        assert all(found[3].counts.values()), found[3].counts

    def test_languages_are_identified_by_counting_features(self, found):
        model, tokenizer, codec, neurons = found
        held = [(name, text) for name in LANGUAGES for text in texts(name, 10, 2, seed=9)]
        by_activity = Activity(model, neurons, tokenizer, codec)
        guesses = by_activity.identify([text for _, text in held])
        hits = [guess.label == name for guess, (name, _) in zip(guesses, held, strict=True)]
        assert sum(hits) / len(hits) > 0.8
        assert by_activity.identify([""])[0].label is None

    def test_adding_features_makes_their_language_likelier(self, found):
        from neuronsteer.evaluation.metrics.scoring import text_likelihoods
        from neuronsteer.steering.steerer import attach

        model, tokenizer, _, neurons = found
        with attach(model, neurons) as steer:

            def nats(language):
                each = text_likelihoods(model, tokenizer, texts(language, 8, 1, seed=5))
                return sum(-e.logprob for e in each) / sum(e.tokens for e in each)

            plain = {name: nats(name) for name in LANGUAGES}
            for name in LANGUAGES:
                steer.to(name)
                rise = {other: nats(other) - plain[other] for other in LANGUAGES}
                assert rise[name] == min(rise.values()), (name, rise)
