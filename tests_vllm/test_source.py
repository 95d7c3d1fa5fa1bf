"""What is left when a difference of means is added, with a real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import neuronsteer as ns
from tests_vllm.material import LAYERS, WIDTH, Reference, checkpoint, engine, prompts

LABELS = ("de", "en", "fr")
#: Schedule, and what the request says is left.
WANTED = [
    ("fr", "en"),
    ("fr", "de"),
    ("fr", "others"),
    ("fr,5:de", "en"),
    ("-,4:de,9:fr*0.5", "fr"),
    ("fr,4:de,repeat=7", "en"),
    ("fr,3:de,prompt=yes", ["en", "de"]),
    ("en,6:fr,9:de,repeat=13", "fr"),
]


def relative_set(folder: Path) -> Path:
    """Save a set of random neurons that adds differences of random means."""
    draw = torch.Generator().manual_seed(11)
    count = 30
    index = torch.stack([torch.randperm(WIDTH, generator=draw)[:count] for _ in range(LAYERS * 3)])
    size = index.numel()
    return ns.NeuronSet.from_rows(
        LABELS,
        label=torch.arange(size) // (LAYERS * count),
        layer=torch.arange(size) // count % LAYERS,
        index=index.flatten(),
        values={"mlp.neuron.means": torch.empty(size, 3).uniform_(-3, 3, generator=draw)},
        site="mlp.neuron",
        num_layers=LAYERS,
        width=WIDTH,
        model_type="llama",
        means_of=LABELS,
        source="prompt",
        strengths={"de": 1.5},
        operation={"name": "add", "value": "diffmean", "factor": 1.0},
    ).save_pretrained(folder)


def test_requests_leave_what_they_say(storage: Path):
    from vllm import SamplingParams

    folder, neurons = checkpoint(storage), relative_set(storage / "relative")
    model: Any = Reference(folder, {}).model
    jobs = [(ids, *wanted) for ids, wanted in zip(prompts(), WANTED, strict=True)]
    expected: list[list[int]] = []
    with ns.attach(model, neurons) as steer:
        for ids, schedule, source in jobs:
            steer.to(schedule, source=source)
            out = model.generate(
                torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=2
            )
            expected.append(out[0, len(ids) :].tolist())

    def ask(llm: Any, some: list[Any]) -> list[list[int]]:
        sampling = [
            SamplingParams(
                temperature=0,
                max_tokens=24,
                ignore_eos=True,
                extra_args={"neuronsteer": schedule, "neuronsteer_source": source},
            )
            for _, schedule, source in some
        ]
        given = [{"prompt_token_ids": ids} for ids, _, _ in some]
        outputs = llm.generate(given, sampling, use_tqdm=False)
        return [list(each.outputs[0].token_ids) for each in outputs]

    settings = {"neuronsteer": {"sets": {"one": str(neurons)}}}
    with engine(folder, settings) as llm:
        assert ask(llm, jobs) == expected
        with pytest.raises(Exception, match=r"cannot read.*neuronsteer_source"):
            llm.generate(
                [{"prompt_token_ids": prompts()[0]}],
                SamplingParams(extra_args={"neuronsteer": "fr"}),
            )
    # Too small for all at once: what does not fit is refused, and rows are filled again and again.
    settings["neuronsteer"]["capacity"] = 4  # pyright: ignore[reportArgumentType]
    with engine(folder, settings) as llm:
        assert [ask(llm, [job])[0] for job in jobs] == expected
        with pytest.raises(Exception, match="larger 'capacity'"):
            ask(llm, jobs)
