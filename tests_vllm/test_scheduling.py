"""What the scheduler does to a request never shows in its text."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

from tests_vllm.material import (
    Reference,
    block,
    changed,
    checkpoint,
    engine,
    jobs,
    neuron_sets,
    params,
    prompts,
    run,
    same,
)

LONG = (100, 67, 130, 33, 90, 48)


def watch(llm: Any) -> collections.Counter[str]:
    """Count what the scheduler does from now on."""
    seen: collections.Counter[str] = collections.Counter()
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    preempt, schedule = scheduler._preempt_request, scheduler.schedule

    def preempting(*args: Any, **kwargs: Any) -> Any:
        seen["preempted"] += 1
        return preempt(*args, **kwargs)

    def scheduling(*args: Any, **kwargs: Any) -> Any:
        output = schedule(*args, **kwargs)
        for new in output.scheduled_new_reqs:
            there = new.num_computed_tokens
            seen["from cache"] += there
            seen["chunked"] += output.num_scheduled_tokens[new.req_id] + there < len(
                new.prompt_token_ids
            )
        return output

    scheduler._preempt_request = preempting
    scheduler.schedule = scheduling
    return seen


def test_chunked_prefill(storage: Path):
    folder, sets, wanted = checkpoint(storage), neuron_sets(storage), jobs(LONG)
    reference = Reference(folder, sets)
    with engine(folder, block(sets), max_num_batched_tokens=24, max_num_seqs=6) as llm:
        seen = watch(llm)
        found = run(llm, wanted, 24)
    assert seen["chunked"] >= 10
    same(found, reference.all(wanted, 24), wanted)
    assert changed(found, reference, wanted) >= 14


def test_preemption_and_recomputation(storage: Path):
    folder, sets, wanted = checkpoint(storage), neuron_sets(storage), jobs(LONG)
    reference = Reference(folder, sets)
    options = {"num_gpu_blocks_override": 20, "block_size": 32, "max_num_seqs": 8}
    with engine(folder, block(sets), enable_prefix_caching=False, **options) as llm:
        seen = watch(llm)
        found = run(llm, wanted, 60)
    assert seen["preempted"] >= 2
    same(found, reference.all(wanted, 60), wanted)


def test_cached_prefixes_are_shared_between_equals_only(storage: Path):
    folder, sets = checkpoint(storage), neuron_sets(storage)
    reference = Reference(folder, sets)
    ids = prompts(LONG)[0]
    schedules = [
        None,
        "fr",
        "de",
        None,
        "fr",
        "zh",
        "fr*0.5",
        "-,2:fr",
        "-,2:fr",
        "-,3:fr",
        "fr,2:de",
    ]
    with engine(folder, block(sets), block_size=32) as llm:
        seen = watch(llm)
        reused: list[int] = []
        for schedule in schedules:
            before = seen["from cache"]
            same(
                run(llm, [(ids, schedule)], 24),
                [reference.greedy(ids, schedule, 24)],
                [(ids, schedule)],
            )
            reused.append(seen["from cache"] - before)
        # A conversation: the answer becomes part of the next prompt, and only a label that holds
        # everywhere is the same thing there.
        longer = ids + reference.greedy(ids, "fr", 24) + [7, 8, 9]
        for schedule, least in (("fr", 96), ("-,2:fr", 0)):
            before = seen["from cache"]
            job = [(longer, schedule)]
            same(run(llm, job, 24), [reference.greedy(longer, schedule, 24)], job)
            assert (seen["from cache"] - before >= least) and (
                least or seen["from cache"] == before
            )
    assert [bool(tokens) for tokens in reused] == [
        False, False, False, True, True, False, False, False, True, False, False,
    ]  # fmt: skip


def test_aborted_requests_leave_no_trace(storage: Path):
    folder, sets, wanted = checkpoint(storage), neuron_sets(storage), jobs()
    reference = Reference(folder, sets)
    with engine(folder, block(sets), max_num_seqs=6) as llm:
        core, found = llm.llm_engine, {}
        for i, (ids, schedule) in enumerate(wanted):
            core.add_request(str(i), {"prompt_token_ids": ids}, params(schedule, 24))
        steps = 0
        while core.has_unfinished_requests():
            for output in core.step():
                if output.finished:
                    found[int(output.request_id)] = list(output.outputs[0].token_ids)
            steps += 1
            if steps in (3, 7, 30):  # others take the places that become free
                core.abort_request([str(i) for i in range(steps % 4, 16, 5)])
    left = sorted(i for i, tokens in found.items() if len(tokens) == 24)
    assert 4 <= len(left) < 16
    kept = [wanted[i] for i in left]
    same([found[i] for i in left], reference.all(kept, 24), kept)


def test_samples_of_one_request_are_steered_alike(storage: Path):
    from vllm import SamplingParams

    folder, sets = checkpoint(storage), neuron_sets(storage)
    ids = prompts()[0]

    def sampled(llm: Any, schedule: str | None, count: int, seed: int) -> list[list[int]]:
        extra = {"neuronsteer": schedule} if schedule else None
        options = {"temperature": 0.7, "max_tokens": 16, "ignore_eos": True, "extra_args": extra}
        sampling = SamplingParams(n=count, seed=seed, **options)
        [output] = llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)
        return [list(each.token_ids) for each in output.outputs]

    with engine(folder, block(sets)) as llm:
        together = sampled(llm, "fr,4:de", 3, seed=5)
        # vLLM gives the samples of a request consecutive seeds.
        apart = [sampled(llm, "fr,4:de", 1, seed=5 + i)[0] for i in range(3)]
        unsteered = sampled(llm, None, 3, seed=5)
    assert together == apart
    assert all(a != b for a, b in zip(together, unsteered, strict=True))
