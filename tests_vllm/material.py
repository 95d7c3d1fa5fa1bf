"""Tiny models, neuron sets for them, the reference, and engines that are put away after use.

The reference is transformers with this package's hooks, which its own tests compare with literal
edits of the activations. Models have random weights, large enough that every set changes the text.
"""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import neuronsteer as ns

LAYERS, WIDTH, VOCABULARY = 4, 352, 400
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.15,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {"tie_word_embeddings": False},
    "gemma2": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 512,
        "tie_word_embeddings": True,
    },
}
#: Four sets, each with an operation of its own and one label of the same name.
OPERATIONS: dict[str, dict[str, Any]] = {
    "fr": {"name": "set", "value": "mean"},
    "de": {"name": "add", "value": "mean", "factor": 1.5},
    "zh": {"name": "scale", "factor": -2.0},
    "ja": {"name": "zero"},
}
#: What 16 requests ask for: unsteered, constant, switched, windowed, repeating, weaker, growing.
SCHEDULES: list[str | None] = [
    None,
    "fr",
    "de",
    "zh",
    "ja",
    "fr,10:de",
    "fr,de@10,zh@20",
    "fr,prompt=no",
    "-,5:zh",
    "zh,7:-,20:fr",
    "6-14:de",
    "fr,4:ja,repeat=9",
    "fr*0.5",
    "-,3~11:de",
    "de,12:zh,prompt=yes",
    "ja,1:-",
]


def checkpoint(storage: Path, family: str = "llama") -> Path:
    """Return the folder of a tiny model, made on first use."""
    folder = storage / family
    if not (folder / "config.json").exists():
        torch.manual_seed(1)
        config = AutoConfig.for_model(family, **SHAPE, **FAMILIES[family])
        model = AutoModelForCausalLM.from_config(config).float()
        if config.tie_word_embeddings:  # else the model echoes its input, steered or not
            model.get_input_embeddings().weight.data.mul_(0.1)
        model.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<s>": 0, "</s>": 1, "<pad>": 2} | {f"w{i}": i for i in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def neuron_sets(storage: Path, family: str = "llama") -> dict[str, Path]:
    """Return the folders of the four sets for a tiny model."""
    found: dict[str, Path] = {}
    for i, (label, operation) in enumerate(OPERATIONS.items()):
        folder = found[label] = storage / f"{family}-{label}"
        if not folder.exists():
            neuron_set(label, family, operation, seed=i).save_pretrained(folder)
    return found


def neuron_set(
    label: str, family: str, operation: dict[str, Any], seed: int, layers: Sequence[int] = ()
) -> ns.NeuronSet:
    """Return a set of random neurons with random values."""
    chosen = random.Random(seed)
    # Some layers are left alone by some sets.
    rows = [
        (layer, index)
        for layer in (layers or range(seed % 2, LAYERS))
        for index in chosen.sample(range(WIDTH), 40)
    ]
    values = torch.empty(len(rows)).uniform_(-3, 3, generator=torch.Generator().manual_seed(seed))
    return ns.NeuronSet.from_rows(
        [label],
        label=[0] * len(rows),
        layer=[layer for layer, _ in rows],
        index=[index for _, index in rows],
        values={"mlp.neuron.mean": values},
        site="mlp.neuron",
        num_layers=LAYERS,
        width=WIDTH,
        model_type=family,
        operation=operation,
    )


def prompts(lengths: Sequence[int] = (4, 9, 1, 17, 6, 30, 12, 3)) -> list[list[int]]:
    """Return token ids of prompts of these lengths."""
    chosen = random.Random(7)
    return [[chosen.randrange(3, VOCABULARY) for _ in range(length)] for length in lengths]


Job = tuple[list[int], "str | None"]


def jobs(lengths: Sequence[int] = (4, 9, 1, 17, 6, 30, 12, 3)) -> list[Job]:
    """Return 16 requests: every schedule once."""
    given = prompts(lengths)
    return [(given[i % len(given)], schedule) for i, schedule in enumerate(SCHEDULES)]


class Reference:
    """Transformers with hooks, one request at a time."""

    def __init__(self, folder: Path, sets: dict[str, Path]) -> None:
        # Gemma 2 limits attention scores, which only this implementation of attention does.
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.model.generation_config.eos_token_id = None  # as `ignore_eos` does it
        self._steer = ns.attach(self.model, list(sets.values())) if sets else None
        self._known: dict[Any, list[int]] = {}

    def greedy(self, ids: list[int], schedule: str | None, tokens: int) -> list[int]:
        """Return the tokens that are generated."""
        key = (tuple(ids), schedule, tokens)
        if key not in self._known:
            if self._steer is not None:
                self._steer.to(schedule)
            out = self.model.generate(
                torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, pad_token_id=2
            )
            self._known[key] = out[0, len(ids) :].tolist()
        return self._known[key]

    def all(self, wanted: Sequence[Job], tokens: int) -> list[list[int]]:
        """Return what every job gives."""
        return [self.greedy(ids, schedule, tokens) for ids, schedule in wanted]


def block(sets: dict[str, Path], **settings: Any) -> dict[str, Any]:
    """Return the `additional_config` for these sets."""
    named = {label: str(folder) for label, folder in sets.items()}
    return {"neuronsteer": {"sets": named, **settings}}


@contextlib.contextmanager
def engine(folder: Path, additional: dict[str, Any] | None = None, **options: Any) -> Iterator[Any]:
    """Start an engine in this process and put it away afterwards."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    options = {"enforce_eager": True, "max_model_len": 256, **options}
    llm = LLM(
        model=str(folder), dtype="float32", seed=0, additional_config=additional or {}, **options
    )
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
        gc.collect()


def params(schedule: str | None, tokens: int, **options: Any) -> Any:
    """Return greedy sampling parameters that ask for a schedule."""
    from vllm import SamplingParams

    extra = None if schedule is None else {"neuronsteer": schedule}
    return SamplingParams(
        temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra, **options
    )


def run(llm: Any, wanted: Sequence[Job], tokens: int) -> list[list[int]]:
    """Return what every job gives, all of them in one batch."""
    outputs = llm.generate(
        [{"prompt_token_ids": ids} for ids, _ in wanted],
        [params(schedule, tokens) for _, schedule in wanted],
        use_tqdm=False,
    )
    return [list(each.outputs[0].token_ids) for each in outputs]


def same(found: Sequence[list[int]], expected: Sequence[list[int]], wanted: Sequence[Job]) -> None:
    """Assert equality, saying which schedules differ from which token on."""
    wrong = {
        f"{i}: {schedule}": next(k for k in range(len(e)) if f[k : k + 1] != e[k : k + 1])
        for i, (f, e, (_, schedule)) in enumerate(zip(found, expected, wanted, strict=True))
        if f != e
    }
    assert not wrong, f"schedules that differ, and from which token on: {wrong}"


def changed(found: Sequence[list[int]], reference: Reference, wanted: Sequence[Job]) -> int:
    """Return how many steered jobs differ from their unsteered text, so that equality says much."""
    return sum(
        tokens != reference.greedy(ids, None, len(tokens))
        for tokens, (ids, schedule) in zip(found, wanted, strict=True)
        if schedule is not None
    )
