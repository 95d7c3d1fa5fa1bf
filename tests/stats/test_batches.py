"""Batches: every row once, bounded padding, shapes that the kernels treat alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronsteer.stats.batches import ALIGNMENT, LEAST, BatchPlan, alignment, padded
from neuronsteer.stats.tokens import TokenRow


def make(lengths):
    return [
        TokenRow(np.arange(n, dtype=np.int32) + 10 * i, np.arange(n) % 3 > 0, i)
        for i, n in enumerate(lengths)
    ]


@given(st.integers(1, 5000))
def test_padding_is_small_and_depends_on_the_length_only(length):
    found = padded(length, None)
    assert length <= found <= max(length + 3, length * 1.125)
    assert found % 4 == 0
    assert padded(found, None) == found
    assert padded(length, length) == length
    assert padded(length, 10**6) == found


@given(st.integers(1, 4096))
def test_alignment_fills_up_to_32_positions(length):
    step = alignment(padded(length, None))
    assert step * padded(length, None) % ALIGNMENT == 0
    assert step * padded(length, None) <= 4096


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=80), st.sampled_from([None, 1, 2, 7]))
def test_every_row_is_in_exactly_one_batch(lengths, size):
    plan = BatchPlan(tokens=512, rows=size, longest=90)
    rows = make(lengths)
    seen = []
    for window in plan.windows(rows):
        batches = plan.batches(window)
        assert [b.length for b in batches] == sorted((b.length for b in batches), reverse=True)
        for batch in batches:
            assert len(batch.rows) <= plan.capacity(batch.length)
            seen += [row.text for row in batch.rows]
            ids, weight = batch.tensors()
            assert ids.shape == weight.shape
            assert ids.shape[1] == batch.length
            assert ids.numel() >= LEAST
            assert ids.numel() % ALIGNMENT == 0
            assert int(weight.sum()) == batch.tokens
            for i, row in enumerate(batch.rows):
                n = len(row.ids)
                assert ids[i, :n].tolist() == row.ids.tolist()
                assert weight[i, :n].tolist() == row.counts.astype(float).tolist()
                assert not weight[i, n:].any()
            assert not weight[len(batch.rows) :].any()
    assert sorted(seen) == list(range(len(lengths)))


def test_windows_bound_memory_and_keep_the_order():
    plan = BatchPlan(tokens=64)
    rows = make([100] * 4000)
    windows = list(plan.windows(rows))
    assert len(windows) > 2
    assert [row.text for window in windows for row in window] == list(range(4000))


def test_full_batches_need_no_filling():
    plan = BatchPlan(tokens=2048)
    for length in (4, 12, 20, 36, 64, 100, 136, 512, 1024, 2048, 4096):
        size = plan.capacity(length)
        assert size % alignment(length) == 0
        assert size * length <= max(2048, 64 * length)


def test_halves():
    batch = BatchPlan(tokens=512).batches(make([8] * 5))[0]
    left, right = batch.halves()
    assert [row.text for row in left.rows + right.rows] == [0, 1, 2, 3, 4]
    assert left.length == right.length == 8


def test_without_alignment_there_is_no_filling():
    batch = BatchPlan(tokens=512).batches(make([6]))[0]
    ids, _ = batch.tensors(align=False)
    assert ids.shape == (1, 8)
    assert batch.tensors()[0].shape == (8, 8)


@pytest.mark.parametrize("rows", [8, 24, 64, 100])
def test_the_kernels_keep_the_promise_that_alignment_relies_on(rows):
    """If this fails on a new torch, counts may depend on the batch size again."""
    torch.manual_seed(0)
    x, w = torch.randn(100 * 8, 48), torch.randn(80, 48)
    full = torch.nn.functional.linear(x, w)
    part = torch.nn.functional.linear(x[: rows * 8], w)
    assert torch.equal(part, full[: rows * 8])
    norm = x.pow(2).mean(-1, keepdim=True).rsqrt()
    assert torch.equal(x[: rows * 8].pow(2).mean(-1, keepdim=True).rsqrt(), norm[: rows * 8])
