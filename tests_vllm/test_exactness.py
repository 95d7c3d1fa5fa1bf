"""Every request gives what transformers gives with hooks, whoever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests_vllm.material import (
    FAMILIES,
    Reference,
    block,
    changed,
    checkpoint,
    engine,
    jobs,
    neuron_sets,
    run,
    same,
)

TOKENS = 32


@pytest.mark.parametrize("family", FAMILIES)
def test_16_requests_of_a_batch_equal_hooks_and_their_own_solo_run(shelf: Path, family: str):
    folder, sets, wanted = checkpoint(shelf, family), neuron_sets(shelf, family), jobs()
    reference = Reference(folder, sets)
    with engine(folder, block(sets)) as llm:
        batch = run(llm, wanted, TOKENS)
        solo = [run(llm, [job], TOKENS)[0] for job in wanted]
    same(batch, solo, wanted)
    same(batch, reference.all(wanted, TOKENS), wanted)
    assert changed(batch, reference, wanted) == 15
