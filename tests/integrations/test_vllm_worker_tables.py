"""The tables and hooks of a worker, on plain torch modules. No vLLM is needed for that."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuronsteer.errors import HookError, MismatchError
from neuronsteer.integrations.vllm.compiled_labels import (
    CompiledRow,
    ServedSet,
    WorkerSets,
    load_set,
    row_key,
)
from neuronsteer.integrations.vllm.layers import SteeredLayer, TokenRows
from neuronsteer.integrations.vllm.request_schedule import RequestSchedule
from neuronsteer.integrations.vllm.settings import SetSource
from neuronsteer.integrations.vllm.worker_tables import WorkerTables
from neuronsteer.steering.schedule import Schedule
from neuronsteer.steering.tables import Beginning, Row
from neuronsteer.steering.timeline import RowTimeline

from .test_vllm_requests import save

WIDTH, CAPACITY, REQUESTS = 12, 4, 6
LABELS = ("en", "fr", "ja")
CPU = torch.device("cpu")


class Rows(nn.Module):
    """What matters of vLLM's row-parallel linear layer: one slice of the inputs per rank."""

    def __init__(self, rank: int = 0, ranks: int = 1) -> None:
        super().__init__()
        self.input_size, self.input_size_per_partition = WIDTH, WIDTH // ranks
        self.tp_rank = rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0


def compiled(key: str) -> CompiledRow:
    if key == "set":
        return {0: (torch.tensor([3]), torch.zeros(1), torch.tensor([0.1]))}
    # A key of two labels: the first one, leaving the second.
    seeds = {ord(letter) * (i + 1) for i, letter in enumerate(key)}
    draw = torch.Generator().manual_seed(sum(seeds))
    columns = torch.randperm(WIDTH, generator=draw)[:5].sort().values
    affine = torch.randn(2, 5, generator=draw)
    return {layer: (columns, affine[0], affine[1] + layer) for layer in (0, 1)}


def worker(python: bool = True, rank: int = 0, ranks: int = 1, capacity: int = CAPACITY):
    tokens = TokenRows(64, CPU)
    sets = SimpleNamespace(compile=compiled)
    modules = [Rows(rank, ranks) for _ in range(2)]
    layers = {i: SteeredLayer(i, f"layers.{i}", m, capacity, CPU) for i, m in enumerate(modules)}
    made = WorkerTables(layers, tokens, capacity, REQUESTS, sets)  # pyright: ignore
    for layer in layers.values():
        layer.install(tokens, python)
    return made, modules


def request(text: str, prompt: int, beginning: Beginning | None = None) -> RequestSchedule | None:
    return RequestSchedule.of(
        Schedule.parse(text),
        lambda label, strength, _: (label, strength, beginning if strength == 1 else None),
        prompt,
    )


def expected(x, schedule: Schedule, token: int, layer: int):
    label, strength = schedule.at(token)
    found = x.clone()
    if label is not None and strength:
        columns, scale, shift = compiled(label)[layer]
        found[columns] = found[columns] * (1 + strength * (scale - 1)) + strength * shift
    return found


TEXTS = [
    "en",
    "-",
    "fr,prompt=no",
    "en,3:fr,7:ja",
    "-,2:fr,5:-",
    "3-6:ja",
    "en,2:fr,repeat=5",
    "en,2:fr,prompt=yes,repeat=4",
    "fr*0.5,4:ja*2",
    "-,2~6:en",
    "2~5:fr*0.5,9:-",
    "1~4:en,repeat=6",
    "0~5:ja,prompt=yes",
]


@pytest.mark.parametrize("python", [True, False])
@pytest.mark.parametrize("texts", [TEXTS, ["-"], ["en", "fr,3:ja"]], ids=["many", "none", "full"])
def test_every_token_gets_what_its_schedule_says(texts: list[str], python: bool):
    made, modules = worker(python=python)
    chosen = random.Random(0)
    for step in range(40):
        # Batches as a scheduler makes them: any requests in any places, prompts in parts, several
        # tokens of one request at once, padding at the end.
        requests = []
        for place in range(chosen.randint(1, REQUESTS)):
            text, prompt = chosen.choice(texts), chosen.randint(1, 9)
            first = chosen.randint(0, 24)
            requests.append((text, prompt, first, chosen.randint(1, 5)))
            made.assign(place, request(text, prompt))
        for place in range(len(requests), REQUESTS):
            made.assign(place, None)
        slots = [i for i, (_, _, _, count) in enumerate(requests) for _ in range(count)]
        positions = [first + k for _, _, first, count in requests for k in range(count)]
        padded = len(slots) + step % 3
        if made.tokens.steering:
            made.fill(torch.tensor(slots), torch.tensor(positions), padded)
        else:
            made.clear()
        x = torch.randn(padded, WIDTH, generator=torch.Generator().manual_seed(step))
        for layer, module in enumerate(modules):
            found = module(x)
            for i, (slot, position) in enumerate(zip(slots, positions, strict=True)):
                text, prompt, _, _ = requests[slot]
                token = position - (prompt - 1)
                wanted = expected(x[i], Schedule.parse(text), token, layer)
                assert torch.allclose(found[i], wanted, atol=1e-5), (text, token)
            assert torch.equal(found[len(slots) :], x[len(slots) :])


def test_unsteered_tokens_are_left_bit_for_bit():
    for python in (True, False):
        made, (module, _) = worker(python=python)
        made.assign(0, request("fr*0.3", 4))
        made.fill(torch.tensor([1, 0, 1]), torch.tensor([3, 3, 4]), 3)
        x = torch.randn(3, WIDTH)
        found = module(x)
        assert torch.equal(found[0], x[0]) and torch.equal(found[2], x[2])
        assert not torch.equal(found[1], x[1])


def test_full_strength_is_the_operation_exactly():
    # What is set must be that number, not a rounding of x + (v - x).
    made, (module, _) = worker()
    made.assign(0, request("set", 1))
    made.fill(torch.tensor([0]), torch.tensor([0]), 1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.full((1, WIDTH), 1e6, dtype=dtype)
        assert module(x)[0, 3] == torch.tensor(0.1, dtype=dtype)


def test_the_hook_of_graphs_has_no_break_and_reads_what_is_there_now():
    torch.compiler.reset()
    made, (module, _) = worker(python=False)
    graph = torch.compile(module, backend="eager", fullgraph=True, dynamic=True)
    for text, size in (("en", 3), ("fr,2:ja", 5), ("-", 4), ("ja*0.5", 6)):
        made.assign(0, request(text, 1))
        made.fill(torch.zeros(size, dtype=torch.int64), torch.arange(size), size)
        x = torch.randn(size, WIDTH)
        wanted = [expected(x[i], Schedule.parse(text), i, 0) for i in range(size)]
        assert torch.allclose(graph(x), torch.stack(wanted), atol=1e-5)


def test_ranks_of_tensor_parallelism_steer_their_slices():
    x = torch.randn(4, WIDTH)
    parts = []
    for rank in range(3):
        made, (_, module) = worker(rank=rank, ranks=3)
        made.assign(0, request("fr,2:ja", 1))
        made.fill(torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
        parts.append(module(x[:, rank * 4 : (rank + 1) * 4]))
    wanted = [expected(x[i], Schedule.parse("fr,2:ja"), i, 1) for i in range(4)]
    assert torch.allclose(torch.cat(parts, 1), torch.stack(wanted), atol=1e-5)


def test_activations_with_a_batch_axis_are_steered_too():
    made, (module, _) = worker()
    made.assign(0, request("fr", 1))
    made.fill(torch.zeros(3, dtype=torch.int64), torch.arange(3), 3)
    x = torch.randn(3, WIDTH)
    assert torch.equal(module(x[None])[0], module(x))


def test_rows_that_no_request_needs_make_room():
    made, (module, _) = worker(capacity=2)
    made.assign(0, request("fr", 1))
    for label in ("en", "ja", "de", "en"):
        made.assign(1, request(label, 1))
        assert len(made.keys) <= 2 and {"fr", label} <= set(made.keys)
        made.fill(torch.tensor([0, 1]), torch.tensor([0, 0]), 2)
        x = torch.randn(2, WIDTH)
        for row, written in enumerate(("fr", label)):
            wanted = expected(x[row], Schedule(written), 0, 0)
            assert torch.allclose(module(x)[row], wanted, atol=1e-5)
    # What was used last goes last.
    made.assign(1, request("ja", 1))
    made.assign(0, None)
    made.assign(1, request("de", 1))
    assert made.keys == ["ja", "de"]
    made.assign(0, request("ja", 1))
    with pytest.raises(HookError, match="more rows than the 2"):
        made.assign(2, request("en", 1))


@pytest.mark.parametrize(
    "text",
    [
        "en,3:fr,repeat=7",
        "-,2:en,4:fr*0.5,6:ja,repeat=9",
        "en,3~6:fr,repeat=8,prompt=yes",
        "2:en,4:en*0.5,6:fr,repeat=8",
        "en,5:-,repeat=6",
        "1:fr,4:ja,6:-,7:ja,repeat=9",
    ],
)
def test_later_labels_leave_the_one_before_in_every_round(text: str):
    schedule, prompt = Schedule.parse(text), 4
    period = schedule.repeat or 0

    def row_of(label: str, strength: float, left: tuple[str, ...]) -> tuple[str, float, None]:
        return label + "".join(left), strength, None

    made, (module, _) = worker(capacity=8)
    found = RequestSchedule.of(schedule, row_of, prompt)
    assert found is not None and found == RequestSchedule.from_wire(found.to_wire())
    made.assign(2, found)
    # The same, written out: the label in force at each token, and the last other one before it.
    count = 4 * period
    made.fill(torch.full((count,), 2), torch.arange(count) + prompt - 1, count)
    x = torch.randn(count, WIDTH)
    steered = module(x)
    left, before = "", None
    for token in range(count):
        label, strength = schedule.at(token)
        wanted = x[token].clone()
        if label is not None:
            left = str(before) if before not in (None, label) else left
            before = label
            columns, scale, shift = compiled(label + left)[0]
            wanted[columns] = wanted[columns] * (1 + strength * (scale - 1)) + strength * shift
        assert torch.allclose(steered[token], wanted, atol=1e-5), token


def written(labels: tuple[str | None, ...], cuts: list[int], kinds: list[str]) -> str:
    parts = [f"{label or '-'}{kind}" for label, kind in zip(labels, kinds, strict=True)]
    return ",".join([parts[0], *(f"{at}:{part}" for at, part in zip(cuts, parts[1:], strict=True))])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_switches_begin_as_they_do_with_transformers(data: st.DataObject):
    size = data.draw(st.integers(1, 5))
    labels = tuple(data.draw(st.sampled_from(["en", "fr", None])) for _ in range(size))
    kinds = [data.draw(st.sampled_from(["", "", "*0.5", "*0"])) for _ in labels]
    cuts = sorted(data.draw(st.sets(st.integers(1, 15), min_size=size - 1, max_size=size - 1)))
    repeat = data.draw(st.none() | st.integers(16, 20))
    text = written(labels, cuts, kinds) + (f",repeat={repeat}" if repeat else "")
    beginning = Beginning(3.0, data.draw(st.integers(1, 12)))

    def row_of(label: str | None, strength: float, _left: tuple[str, ...]) -> Row | None:
        if label is None or not strength:
            return None
        return Row(label, 1, (), beginning if strength == 1 else None)

    count, prompt = 70, 3
    timeline = RowTimeline(Schedule.parse(text), row_of, None)
    wanted = torch.zeros(count)
    for start, end, row, factor in timeline.spans(0, count):
        stated = 0.5 if row is not None and row.beginning is None else 1.0
        wanted[start:end] = 0 if row is None else factor * stated

    made, _ = worker()
    found = request(text, prompt, beginning)
    made.assign(0, found)
    if found is None:
        assert not wanted.any()
        return
    made.tokens.strengths = torch.ones(count)
    made.tokens.rows = torch.zeros(count, dtype=torch.int64)
    made.fill(torch.zeros(count, dtype=torch.int64), torch.arange(count) + prompt - 1, count)
    strengths = made.tokens.strengths if made.tokens.weighted else torch.ones(count)
    assert torch.allclose(strengths * (made.tokens.rows > 0), wanted), text


def test_sets_that_do_not_fit_are_refused_and_missing_ones_are_an_error(tmp_path: Path):
    served = load_set(SetSource("one", save(tmp_path / "one", "en", "fr")))
    for widths, message in (({0: 16}, "layer 1"), ({0: 16, 1: 2}, "neuron 5 in layer 1")):
        with pytest.raises(MismatchError, match=message):
            WorkerSets(widths).change((), [served])
    sets = WorkerSets({0: 16, 1: 16})
    sets.change((), [ServedSet.from_wire(served.to_wire())])
    key = row_key(served.key, "fr")
    for layer, columns in sets.compile(key).items():
        wanted = served.compile("fr")[layer]
        assert all(torch.equal(a, b) for a, b in zip(columns, wanted, strict=True))
    sets.change((), [])
    with pytest.raises(HookError, match="restart it"):  # and never unsteered
        sets.compile(key)
