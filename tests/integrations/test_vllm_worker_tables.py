"""The tables and hooks of a worker, on plain torch modules. No vLLM is needed for that."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from neuronsteer.errors import HookError, MismatchError
from neuronsteer.integrations.vllm.compiled_labels import CompiledLabel
from neuronsteer.integrations.vllm.layers import SteeredLayer, TokenRows
from neuronsteer.integrations.vllm.request_schedule import RequestSchedule
from neuronsteer.integrations.vllm.worker_tables import WorkerTables
from neuronsteer.steering.schedule import Schedule

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


def compiled(label: str, layers=(0, 1)) -> CompiledLabel:
    draw = torch.Generator().manual_seed(LABELS.index(label))
    columns = torch.randperm(WIDTH, generator=draw)[:5].sort().values
    affine = torch.randn(2, 5, generator=draw)
    return CompiledLabel(
        label, {layer: (columns, affine[0], affine[1] + layer) for layer in layers}
    )


def worker(*labels: str, python: bool = True, rank: int = 0, ranks: int = 1):
    tokens = TokenRows(64, CPU)
    modules = [Rows(rank, ranks) for _ in range(2)]
    layers = {i: SteeredLayer(i, f"layers.{i}", m, CAPACITY, CPU) for i, m in enumerate(modules)}
    made = WorkerTables(layers, tokens, CAPACITY, REQUESTS)
    made.load([compiled(label) for label in labels])
    for layer in layers.values():
        layer.install(tokens, python)
    return made, modules


def request(text: str, prompt: int) -> RequestSchedule | None:
    return RequestSchedule.of(Schedule.parse(text), lambda label, strength: label, prompt)


def expected(x, schedule: Schedule, token: int, layer: int):
    label, strength = schedule.at(token)
    found = x.clone()
    if label is not None and strength:
        columns, scale, shift = compiled(label).layers[layer]
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
    made, modules = worker(*LABELS, python=python)
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
        made, (module, _) = worker(*LABELS, python=python)
        made.assign(0, request("fr*0.3", 4))
        made.fill(torch.tensor([1, 0, 1]), torch.tensor([3, 3, 4]), 3)
        x = torch.randn(3, WIDTH)
        found = module(x)
        assert torch.equal(found[0], x[0]) and torch.equal(found[2], x[2])
        assert not torch.equal(found[1], x[1])


def test_full_strength_is_the_operation_exactly():
    # What is set must be that number, not a rounding of x + (v - x).
    made, (module, _) = worker()
    made.load([CompiledLabel("set", {0: (torch.tensor([3]), torch.zeros(1), torch.tensor([0.1]))})])
    made.assign(0, request("set", 1))
    made.fill(torch.tensor([0]), torch.tensor([0]), 1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.full((1, WIDTH), 1e6, dtype=dtype)
        assert module(x)[0, 3] == torch.tensor(0.1, dtype=dtype)


def test_the_hook_of_graphs_has_no_break_and_reads_what_is_there_now():
    torch.compiler.reset()
    made, (module, _) = worker(*LABELS, python=False)
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
        made, (_, module) = worker(*LABELS, rank=rank, ranks=3)
        made.assign(0, request("fr,2:ja", 1))
        made.fill(torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
        parts.append(module(x[:, rank * 4 : (rank + 1) * 4]))
    wanted = [expected(x[i], Schedule.parse("fr,2:ja"), i, 1) for i in range(4)]
    assert torch.allclose(torch.cat(parts, 1), torch.stack(wanted), atol=1e-5)


def test_activations_with_a_batch_axis_are_steered_too():
    made, (module, _) = worker(*LABELS)
    made.assign(0, request("fr", 1))
    made.fill(torch.zeros(3, dtype=torch.int64), torch.arange(3), 3)
    x = torch.randn(3, WIDTH)
    assert torch.equal(module(x[None])[0], module(x))


def test_rows_are_given_up_and_filled_again():
    made, (module, _) = worker("en", "fr")
    for _ in range(2 * CAPACITY):
        made.unload(["en", "ja"])
        assert made.keys == ["fr"]
        made.load([compiled("ja"), compiled("fr")])
    x = torch.randn(1, WIDTH)
    for label in ("ja", "fr"):
        made.assign(0, request(label, 1))
        made.fill(torch.tensor([0]), torch.tensor([0]), 1)
        assert torch.allclose(module(x)[0], expected(x[0], Schedule(label), 0, 0), atol=1e-5)


def test_what_does_not_fit_changes_nothing():
    made, _ = worker("en")
    outside = CompiledLabel("x", {0: (torch.tensor([WIDTH]), torch.ones(1), torch.ones(1))})
    with pytest.raises(MismatchError, match=f"neuron {WIDTH} in layer 0"):
        made.load([compiled("fr"), outside])
    with pytest.raises(MismatchError, match="layer 7"):
        made.load([CompiledLabel("y", {7: compiled("fr").layers[0]})])
    many = [CompiledLabel(f"m{i}", compiled("fr").layers) for i in range(CAPACITY)]
    with pytest.raises(MismatchError, match="4 rows are needed, and 3 are free"):
        made.load(many)
    assert made.keys == ["en"]


def test_a_row_that_is_not_there_is_an_error_and_never_unsteered():
    made, _ = worker("en")
    with pytest.raises(HookError, match="restart it"):
        made.assign(0, request("fr", 3))
