"""The logit lens, against hidden states that transformers itself returns."""

import math
from collections import Counter

import pytest
import torch

from neuronsteer.analysis import analyze
from neuronsteer.analysis._lens import read
from neuronsteer.analysis._lines import rows
from neuronsteer.analysis._tokens import OTHER, token_table
from neuronsteer.analysis._unembedding import unembedding
from neuronsteer.errors import LayoutError, ParameterError, TextError
from neuronsteer.models import inspect

from ..tiny_models import ALL_FAMILIES, VOCAB, tiny_ids, tiny_model, tiny_tokenizer
from .material import ALPHABETS, LANGUAGES, corpora, lines


@pytest.fixture(scope="module")
def words():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def table(words):
    return token_table(words, corpora(8, seed=1), VOCAB)


def by_hand(model, words, texts, shares, *, skip, top):
    """Return [layers, names] sums, positions and nll, one text and position at a time."""
    base = model.model
    mass, nll, count = 0, 0, 0
    for text in texts:
        ids = [1, *words(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_hidden_states=True)
        # The last of these went through the final norm already.
        states = list(out.hidden_states[1:])
        for position in range(skip, len(ids) - 1):
            layers, wrong = [], []
            for number, state in enumerate(states):
                here = state[0, position]
                here = here if number == len(states) - 1 else base.norm(here)
                p = model.lm_head(here).detach().softmax(-1)
                wrong.append(-math.log(p[ids[position + 1]]))
                best = p.argsort(descending=True)[:top]
                weight = p[best] / p[best].sum()
                layers.append(weight @ shares[best])
            mass, nll, count = mass + torch.stack(layers), nll + torch.tensor(wrong), count + 1
    return mass, nll, count


@pytest.mark.parametrize("top", [1, 5, VOCAB])
def test_every_layer_says_what_a_loop_over_hidden_states_says(words, table, top):
    model, texts = tiny_model(layers=3), lines("fr", 3, 30) + lines("ja", 2, 17)
    chosen = rows(words, texts, 512, 4)
    seen = read(model, chosen, table, top=None if top == VOCAB else top, batch_size=2)
    mass, nll, count = by_hand(model, words, texts, table.shares, skip=4, top=top)
    assert seen.positions == count
    torch.testing.assert_close(seen.mass.float(), mass, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen.nll.float(), nll.float(), rtol=1e-3, atol=1e-3)
    assert seen.agree[-1] == count
    torch.testing.assert_close(seen.mass.sum(1), torch.full((3,), float(count)).double())
    if top == 1:
        torch.testing.assert_close(seen.first, seen.mass)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_last_step_of_every_family_is_understood(family):
    model, ids = tiny_model(family), tiny_ids()
    held = {}
    anatomy = inspect(model)
    handle = anatomy.layers[-1].register_forward_hook(
        lambda _m, _a, out: held.update(hidden=out[0] if isinstance(out, tuple) else out)
    )
    with torch.no_grad():
        logits = model(ids).logits.float().flatten(0, 1)
        handle.remove()
        hidden = held["hidden"].flatten(0, 1) if held["hidden"].dim() == 3 else held["hidden"]
        found = unembedding(anatomy, hidden, logits)(hidden)
    torch.testing.assert_close(found.float(), logits, rtol=1e-3, atol=1e-3)


def test_a_model_that_does_something_else_is_refused():
    model, ids = tiny_model(), tiny_ids()
    anatomy = inspect(model)
    with torch.no_grad(), pytest.raises(LayoutError, match="is not known"):
        hidden = torch.randn(14, anatomy.hidden_size)
        unembedding(anatomy, hidden, model(ids).logits.flatten(0, 1))


def test_half_precision_is_recognised(words, table):
    model = tiny_model(dtype=torch.bfloat16)
    seen = read(model, rows(words, lines("en", 2), 64, 4), table, top=5)
    assert torch.isfinite(seen.mass).all() and seen.positions > 0


def test_a_lens_is_put_before_the_norm_of_every_layer_but_the_last(words, table):
    model, chosen = tiny_model(layers=3), rows(words, lines("en", 4), 64, 4)
    plain = read(model, chosen, table, top=5)
    same = read(model, chosen, table, top=5, lens=lambda hidden, layer: hidden)
    torch.testing.assert_close(same.mass, plain.mass)
    called = []

    def lens(hidden, layer):
        called.append(layer)
        return hidden + (100 * torch.ones_like(hidden) if layer == 0 else 0)

    moved = read(model, chosen, table, top=5, lens=lens)
    assert set(called) == {0, 1}
    assert not torch.allclose(moved.mass[0], plain.mass[0])
    torch.testing.assert_close(moved.mass[1:], plain.mass[1:])
    # One function per layer: a list of modules, as tuned lenses are kept.
    linear = torch.nn.ModuleList(torch.nn.Linear(32, 32, bias=False) for _ in range(2))
    for each in linear:
        torch.nn.init.eye_(each.weight)
    listed = read(model, chosen, table, top=5, lens=list(linear))
    torch.testing.assert_close(listed.mass, plain.mass)
    with pytest.raises(ParameterError, match="1 functions.*3 layers"):
        read(model, chosen, table, top=5, lens=[linear[0]])
    with pytest.raises(ParameterError, match="shape must not change"):
        read(model, chosen, table, top=5, lens=lambda hidden, layer: hidden[:, :3])


def test_batches_and_padding_do_not_matter(words, table):
    model = tiny_model()
    chosen = rows(words, lines("fr", 5, 20) + lines("fr", 3, 50), 512, 2)
    alone, together = (read(model, chosen, table, top=5, batch_size=n) for n in (1, 8))
    torch.testing.assert_close(alone.mass, together.mass, rtol=1e-4, atol=1e-4)
    assert alone.positions == together.positions


def test_no_hook_stays():
    model = tiny_model()
    analyze("logit_lens", model, tiny_tokenizer(), corpora(4), limit=4)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- the table of tokens --------------------------------------------------------------------------


def test_shares_are_relative_frequencies_among_labels_of_the_script(words):
    texts = {"en": ["the the cat", "a tat"], "fr": ["tata là", "te"], "ru": ["да нет", "the да"]}
    found = token_table(words, texts, VOCAB, least=1)
    assert found.names == ("en", "fr", "ru", OTHER)
    torch.testing.assert_close(found.shares.sum(1), torch.ones(VOCAB))
    counts = {
        label: Counter(i for t in each for i in words(t, add_special_tokens=False)["input_ids"])
        for label, each in texts.items()
    }
    for token in range(VOCAB):
        text = words.decode([token])
        latin = text.isascii() and any(c.isalpha() for c in text)
        # Russian text has a Latin word in it, as texts have: more than a few letters of 100.
        rate = {k: n[token] / n.total() for k, n in counts.items()}
        total = sum(rate.values())
        if latin and token > 2 and total:
            expected = [rate[k] / total for k in texts] + [0.0]
            assert found.shares[token].tolist() == pytest.approx(expected), text
    nameless = words.convert_tokens_to_ids("Ġ")
    assert found.shares[nameless].tolist() == [0, 0, 0, 1]
    assert all(found.shares[i, -1] == 1 for i in words.all_special_ids)


def test_the_script_decides_before_frequency_does():
    class Letters:
        """One token per letter."""

        letters = "abжЖ猫か1"
        all_special_ids = ()

        def __len__(self):
            return len(self.letters)

        def __call__(self, text, add_special_tokens=False):
            return {"input_ids": [self.letters.index(c) for c in text]}

        def batch_decode(self, ids, **_):
            return [self.letters[i] for (i,) in ids]

    # One Latin letter in a hundred is a quotation; Ж was never seen, and can only be Russian.
    texts = {"en": ["ab" * 20], "ru": ["ж" * 99 + "a"], "ja": ["猫か" * 10], "zh": ["猫" * 10]}
    found = token_table(Letters(), texts, 9)
    shares = dict(zip("abжЖ猫か1", found.shares.tolist(), strict=False))
    assert shares["a"] == [1, 0, 0, 0, 0] and shares["ж"] == shares["Ж"] == [0, 1, 0, 0, 0]
    assert shares["か"] == [0, 0, 1, 0, 0] and shares["1"] == [0, 0, 0, 0, 1]
    assert shares["猫"] == pytest.approx([0, 0, 1 / 3, 2 / 3, 0])
    assert found.shares[7:].tolist() == [[0, 0, 0, 0, 1]] * 2  # rows that no token has
    script = token_table(Letters(), texts, 7, by="script")
    assert script.names == ("Cyrillic", "Han", "Kana", "Latin", OTHER)
    assert script.shares.argmax(1).tolist() == [3, 3, 0, 0, 1, 2, 4]
    with pytest.raises(ParameterError, match="'sound'"):
        token_table(Letters(), texts, 7, by="sound")


# --- the analysis ---------------------------------------------------------------------------------


def test_half_of_the_texts_teaches_and_the_other_half_is_read(words):
    model, texts = tiny_model(layers=3), corpora(8)
    found = analyze("logit_lens", model, words, texts, limit=8, top=5)
    taught = {label: each[::2] for label, each in texts.items()}
    measured = {label: each[1::2] for label, each in texts.items()}
    shares = token_table(words, taught, VOCAB)
    assert found.facts["languages"] == [*LANGUAGES, OTHER]
    for label in LANGUAGES:
        mass, nll, count = by_hand(model, words, measured[label], shares.shares, skip=4, top=5)
        mine = [row for row in found.records() if row["label"] == label]
        assert [r["share"] for r in mine] == pytest.approx(
            (mass / count).flatten().tolist(), abs=1e-4
        )
        for layer, best in enumerate(found.facts["thinks_in"][label]):
            each = {r["language"]: r["share"] for r in mine if r["layer"] == layer}
            del each[OTHER]
            assert each[best] == max(each.values())
        assert found.facts["positions"][label] == count
        said = found.facts["next_token"][label]
        assert said["nll"] == pytest.approx((nll / count).tolist(), rel=1e-4)
        assert said["agrees_with_last"][-1] == 1.0
        thinks = found.facts["thinks_in"][label]
        first = found.facts["own_from"][label]
        if first is None:
            assert thinks[-1] != label
        else:
            assert set(thinks[first:]) == {label} and (first == 0 or thinks[first - 1] != label)


def test_by_script_needs_no_languages(words):
    found = analyze("logit_lens", tiny_model(), words, corpora(4), by="script", limit=4)
    assert set(found.facts["languages"]) == {"Latin", "Han", "Kana", OTHER}
    assert "own_from" not in found.facts and found.plot()


def test_texts_that_cannot_be_read_are_named(words):
    model = tiny_model()
    with pytest.raises(TextError, match="'fr'.*1 texts; at least 2"):
        analyze("logit_lens", model, words, {"en": ["a b"] * 4, "fr": ["c"]})
    with pytest.raises(TextError, match="longer than 90 tokens"):
        analyze("logit_lens", model, words, corpora(4, 10), skip=90)
    for wrong in ({"top": 0}, {"limit": 1}, {"by": "colour"}):
        with pytest.raises(ParameterError, match="logit_lens got"):
            analyze("logit_lens", model, words, corpora(4), **wrong)
    assert set(ALPHABETS) == set(LANGUAGES)
