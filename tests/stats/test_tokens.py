"""Which tokens are read and which of them count, for every token policy."""

import numpy as np
import pytest

from neuronsteer.errors import ParameterError, TextError
from neuronsteer.stats.policy import TokenPolicy, make_policy
from neuronsteer.stats.tokens import RowReader, Tally
from tests.tiny_models import tiny_tokenizer

BOS = 1


def rows(items, tokenizer=None, **policy):
    rule = TokenPolicy(**policy).resolved(512)
    tally = Tally()
    reader = RowReader(tokenizer or tiny_tokenizer(), rule)
    found = list(reader.read(items, "x", tally))
    return [(list(row.ids), list(row.counts)) for row in found], tally


def ids(text, **options):
    return tiny_tokenizer()(text, **options)["input_ids"]


def test_default_reads_bos_but_does_not_count_it():
    found, tally = rows(["abc", "defg"])
    assert [row for row, _ in found] == [ids("abc"), ids("defg")]
    assert all(counts == [False] + [True] * (len(row) - 1) for row, counts in found)
    assert tally.tokens == sum(sum(counts) for _, counts in found)
    assert (tally.texts, tally.rows) == (2, 2)


def test_special_tokens_and_bos():
    found, _ = rows(["abc"], add_special_tokens=False)
    assert found == [(ids("abc", add_special_tokens=False), [True] * 3)]
    found, _ = rows(["abc"], skip_bos=False)
    assert found[0][1] == [True] * 4


def test_skip_first_starts_after_the_bos():
    found, _ = rows(["uvwxyz"], skip_first=2)
    assert found[0][1] == [False] * 3 + [True] * 4
    found, _ = rows(["uvwxyz"], skip_first=2, add_special_tokens=False)
    assert found[0][1] == [False] * 2 + [True] * 4


def test_max_length_cuts_the_text():
    found, _ = rows(["uvwxyz"], max_length=4)
    assert found == [(ids("uvwxyz")[:4], [False, True, True, True])]


def test_max_length_defaults_to_the_context():
    assert TokenPolicy().resolved(512).max_length == 512
    assert TokenPolicy().resolved(4096).max_length == 1024
    assert TokenPolicy().resolved(None).max_length == 1024
    assert TokenPolicy(block_size=64).resolved(512).max_length is None
    assert TokenPolicy(block_size=64, max_length=2000).resolved(512).max_length == 2000


def test_texts_without_a_token_that_counts_are_left_out():
    found, tally = rows(["", "uvw", "u"], skip_first=1)
    assert len(found) == 1
    assert (tally.texts, tally.empty, tally.rows) == (3, 2, 1)


def test_packing_is_end_to_end():
    found, tally = rows(["uvw", "xyz", "uuuuu"], block_size=5)
    stream = [token for text in ("uvw", "xyz", "uuuuu") for token in ids(text)]
    assert [row for row, _ in found] == [stream[:5], stream[5:10], stream[10:]]
    assert [t for row, c in found for t, k in zip(row, c, strict=True) if not k] == [BOS] * 3
    assert tally.tokens == len(stream) - 3
    assert tally.texts == 3


def test_packed_skip_first_is_per_block():
    found, _ = rows(["uvwxyzuvwxyz"], block_size=5, skip_first=2, add_special_tokens=False)
    assert [counts for _, counts in found] == [
        [False, False, True, True, True],
        [False, False, True, True, True],
    ]


@pytest.mark.parametrize("options", [{}, {"block_size": 7}])
@pytest.mark.parametrize("budget", [1, 5, 6, 13, 14])
def test_the_budget_is_met_exactly(options, budget):
    found, tally = rows(["uvwxyz"] * 50, max_tokens=budget, **options)
    assert tally.tokens == budget == sum(sum(counts) for _, counts in found)
    assert found[-1][1][-1]  # nothing is read after the last token that counts


def test_max_texts_and_sampling():
    texts = [f"text {i}" for i in range(2000)]
    found, tally = rows(texts, max_texts=7)
    assert (len(found), tally.texts, tally.seen) == (7, 7, 7)
    some, _ = rows(texts, sample=0.25, seed=1)
    again, _ = rows(texts, sample=0.25, seed=1)
    other, _ = rows(texts, sample=0.25, seed=2)
    assert some == again != other
    assert 430 < len(some) < 570
    # Drawn one by one: what is drawn does not depend on what comes later.
    assert (
        rows(texts[:1000], sample=0.25, seed=1)[0]
        == some[: len(rows(texts[:1000], sample=0.25, seed=1)[0])]
    )
    assert len(rows(texts, sample=1.0)[0]) == 2000


def test_response_only():
    found, _ = rows([("uvw", "xyz")], response_only=True)
    assert found == [(ids("uvwxyz"), [False] * 4 + [True] * 3)]
    with pytest.raises(TextError, match=r"item 1 is a plain text"):
        rows([("a", "b"), "c"], response_only=True)
    found, _ = rows([("uvw", "xyz")])
    assert found == [(ids("uvwxyz"), [False] + [True] * 6)]


def test_a_token_across_the_boundary_belongs_to_the_prompt():
    # "th" is one token of this tokenizer.
    found, _ = rows([("t", "hu")], response_only=True)
    assert found == [(ids("thu"), [False, False, True])]


def test_response_only_without_offsets():
    class Slow:
        is_fast = False
        bos_token_id = BOS

        def __call__(self, texts, **options):
            assert "return_offsets_mapping" not in options
            return tiny_tokenizer()(texts, **options)

    found, _ = rows([("uvw", "xyz")], tokenizer=Slow(), response_only=True)
    assert found == [(ids("uvwxyz"), [False] * 4 + [True] * 3)]


def test_the_digest_is_of_the_texts():
    def digest(items):
        return rows(items)[1].digest.hexdigest()

    assert digest(["ab", "c"]) == digest(iter(["ab", "c"]))
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest(["ab", "c"]) != digest(["c", "ab"])


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TextError, match=r"'x', item 1 cannot be encoded"):
        rows(["fine", "bro\ud83dken"])


def test_rows_are_arrays_of_equal_length():
    tally = Tally()
    reader = RowReader(tiny_tokenizer(), TokenPolicy().resolved(512))
    for row in reader.read(["abc", "d"], "x", tally):
        assert row.ids.dtype == np.int32
        assert row.counts.dtype == bool
        assert row.ids.shape == row.counts.shape


@pytest.mark.parametrize(
    "options",
    [
        {"skip_first": -1},
        {"max_length": 0},
        {"block_size": 1},
        {"max_tokens": 0},
        {"max_texts": 1.5},
        {"max_texts": True},
        {"sample": 0},
        {"sample": 1.1},
        {"sample": float("nan")},
        {"skip_bos": 1},
        {"skip_first": 4, "max_length": 4},
    ],
)
def test_policies_that_make_no_sense(options):
    with pytest.raises(ParameterError, match=next(iter(options))[:4]):
        TokenPolicy(**options)


def test_policies_from_options():
    policy = make_policy({"seed": 3}, {"max_tokens": 5})
    assert policy == TokenPolicy(seed=3, max_tokens=5)
    assert make_policy(policy, {"seed": 4}) == TokenPolicy(seed=4, max_tokens=5)
    assert make_policy(None, {}) == TokenPolicy()
    assert TokenPolicy(**policy.to_dict()) == policy
    with pytest.raises(ParameterError, match=r"'skip_boss'.*Did you mean 'skip_bos'"):
        make_policy(None, {"skip_boss": True})
