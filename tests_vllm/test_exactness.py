"""Every request gives what transformers gives with hooks, whatever else is in the batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuronsteer.exports import bake
from tests_vllm.material import (
    FAMILIES,
    Reference,
    block,
    changed,
    checkpoint,
    engine,
    jobs,
    neuron_sets,
    prompts,
    run,
    same,
)

TOKENS = 32


@pytest.mark.parametrize("family", FAMILIES)
def test_16_requests_of_a_batch_equal_hooks_and_their_own_solo_run(storage: Path, family: str):
    folder, sets, wanted = checkpoint(storage, family), neuron_sets(storage, family), jobs()
    reference = Reference(folder, sets)
    with engine(folder, block(sets)) as llm:
        batch = run(llm, wanted, TOKENS)
        solo = [run(llm, [job], TOKENS)[0] for job in wanted]
    same(batch, solo, wanted)
    same(batch, reference.all(wanted, TOKENS), wanted)
    # The last schedule steers a single position, which need not change the text.
    assert changed(batch, reference, wanted) >= 14


@pytest.mark.parametrize("label", ["fr", "ja"])  # one with a constant part, one without
def test_a_baked_checkpoint_equals_hooks_without_any_plugin(storage: Path, label: str):
    folder, sets = checkpoint(storage), neuron_sets(storage)
    baked = storage / f"baked-{label}"
    bake(str(folder), str(sets[label]), baked, label)
    wanted = [(ids, label) for ids in prompts()]
    reference = Reference(folder, sets)
    with engine(baked) as llm:
        found = run(llm, [(ids, None) for ids, _ in wanted], TOKENS)
    same(found, reference.all(wanted, TOKENS), wanted)
    assert changed(found, reference, wanted) == len(wanted)
