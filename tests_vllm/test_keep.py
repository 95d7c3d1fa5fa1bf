"""Requests that are kept in a language: each gives what `ns.keep` gives, whoever is beside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.errors import NeuronSteerError
from neuronsteer.steering.keeping.token_choice import Candidates
from neuronsteer.steering.keeping.token_scripts import TokenScripts
from neuronsteer.steering.keeping.vocabulary_gate import VocabularyGate
from tests.steering.keeping.vocabularies import byte_level
from tests_vllm.material import FAMILIES, SHAPE, engine, neuron_sets

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 24
#: With random weights, no token is much likelier than all others; so every choice counts.
KEEP = {"reach": 1e-6, "names": 3}
#: Prompt, what it is kept in, the language of its thoughts, other sampling parameters.
Wanted = tuple[str, "str | None", "str | None", dict[str, Any]]
REQUESTS: list[Wanted] = [
    ("the weather Python", "en", None, {}),
    ("the weather Python", None, None, {}),
    ("погода", "ru", None, {}),
    ("오늘", "ko", None, {}),
    ("天气", "zh", None, {}),
    ("the weather", "en,6:-,12:ru", None, {}),
    ("the weather", "-,5:ko", None, {}),
    ("the weather<think>", "en", None, {}),
    ("the weather<think>", "en", "ru", {}),
    ("the weather Python weather 天气", "en", None, {}),
    ("the weather", "en", None, {"repetition_penalty": 1.5}),
    ("погода", "ru", None, {"repetition_penalty": 1.2}),
]
#: Which of them surely differ from what is written when nothing is kept.
KEPT = [0, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def checkpoint(storage: Path) -> Path:
    """Return the folder of a tiny model whose tokens have scripts, made on first use."""
    folder = storage / "scripts"
    if not (folder / "config.json").exists():
        tokenizer = byte_level()
        torch.manual_seed(2)
        shape = {**SHAPE, **FAMILIES["llama"], "vocab_size": len(tokenizer) + 5}
        special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", **{**shape, **special})
        )
        # What begins code or an address is never written: there, nothing is held back.
        marks = [tokenizer.convert_tokens_to_ids(mark) for mark in "@./\\_=()`:"]
        model.lm_head.weight.data[marks] = 0
        model.float().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


class Reference:
    """Transformers with `ns.keep`, one request at a time."""

    def __init__(self, folder: Path, neurons: list[Path] | None = None) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._steer = ns.attach(self.model, neurons) if neurons else None

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def write(self, wanted: Wanted, *, keep: bool = True, schedule: str | None = None) -> list[int]:
        text, language, thinking, options = wanted
        ids = torch.tensor([self.ids(text)])
        if self._steer is not None:
            self._steer.to(schedule)
        options = {"do_sample": False, "max_new_tokens": TOKENS, **options}
        language = None if language == "-" else language
        with ns.keep(
            self.model, self.tokenizer, language if keep else None, thinking=thinking, **KEEP
        ):
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return out[0, ids.shape[1] :].tolist()

    def could_be_drawn(self, wanted: Wanted, tokens: list[int]) -> bool:
        """Return whether the gate left every token of a sampled text."""
        text, language, thinking, options = wanted
        chosen = ("temperature", "top_k", "top_p", "min_p")
        candidates = Candidates(
            sampling=True,
            min_p_first=True,
            **{name: value for name, value in options.items() if name in chosen},
        )
        gate = VocabularyGate(
            self.tokenizer, language, thinking=thinking, names=KEEP["names"], candidates=candidates
        )
        prompt = self.ids(text)
        ids = torch.tensor([prompt + tokens])
        with torch.no_grad():
            logits = self.model(ids).logits
        ends = range(len(prompt), ids.shape[1])
        left = [gate(ids[:, :end], logits[:, end - 1])[0, ids[0, end]] for end in ends]
        return bool(torch.stack(left).isfinite().all())

    def scripts(self, tokens: list[int]) -> set[str]:
        known = TokenScripts.of(self.tokenizer)
        return {script for token in tokens for script in known.scripts(token)}


@pytest.fixture(scope="module")
def reference(storage: Path) -> Reference:
    return Reference(checkpoint(storage))


def params(wanted: Wanted, **extra: Any) -> Any:
    from vllm import SamplingParams

    _, language, thinking, options = wanted
    given = {"neuronsteer_keep": language, "neuronsteer_thinking": thinking, **extra}
    given = {name: value for name, value in given.items() if value is not None}
    options = {"temperature": 0, "max_tokens": TOKENS, "ignore_eos": True, **options}
    return SamplingParams(extra_args=given or None, **options)


def ask(llm: Any, reference: Reference, requests: list[Wanted], **extra: Any) -> list[list[int]]:
    outputs = llm.generate(
        [{"prompt_token_ids": reference.ids(text)} for text, *_ in requests],
        [params(wanted, **extra) for wanted in requests],
        use_tqdm=False,
    )
    return [list(each.outputs[0].token_ids) for each in outputs]


def block(**settings: Any) -> dict[str, Any]:
    return {"neuronsteer": {"keep": {**KEEP, **settings}}}


def check(found: list[list[int]], reference: Reference) -> None:
    """Assert that the texts are those of `ns.keep`, and that this says something."""
    wrong = [
        wanted
        for tokens, wanted in zip(found, REQUESTS, strict=True)
        if tokens != reference.write(wanted)
    ]
    assert not wrong
    plain = [reference.write((text, None, None, options)) for text, _, _, options in REQUESTS]
    changed = [i for i, tokens in enumerate(found) if tokens != plain[i]]
    assert changed == KEPT


def test_requests_of_a_batch_are_kept_as_in_transformers(storage: Path, reference: Reference):
    with engine(checkpoint(storage), block()) as llm:
        batch = ask(llm, reference, REQUESTS)
        solo = [ask(llm, reference, [wanted])[0] for wanted in REQUESTS]
        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        assert not any(len(each._forward_pre_hooks) for each in runner.model.modules())
    assert batch == solo
    check(batch, reference)
    assert reference.scripts(batch[0]) <= {"LATIN"}


def test_a_small_batch_and_prompts_in_parts(storage: Path, reference: Reference):
    """Requests wait, their prompts are read in parts, and they move within the batch."""
    options = {"max_num_batched_tokens": 8, "max_num_seqs": 5}
    with engine(checkpoint(storage), block(), **options) as llm:
        check(ask(llm, reference, REQUESTS), reference)


def test_preempted_requests_are_read_again(storage: Path, reference: Reference):
    long = [
        (f"{text} {'the weather ' * 12}", language, thinking, options)
        for text, language, thinking, options in REQUESTS
    ]
    options = {"num_gpu_blocks_override": 10, "block_size": 32, "max_num_seqs": 8}
    with engine(checkpoint(storage), block(), enable_prefix_caching=False, **options) as llm:
        scheduler = llm.llm_engine.engine_core.engine_core.scheduler
        preempt, seen = scheduler._preempt_request, []

        def preempting(*args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return preempt(*args, **kwargs)

        scheduler._preempt_request = preempting
        found = ask(llm, reference, long)
    assert len(seen) >= 2
    assert found == [reference.write(wanted) for wanted in long]


def test_steered_and_kept_at_once(storage: Path):
    folder, sets = checkpoint(storage), neuron_sets(storage)
    reference = Reference(folder, list(sets.values()))
    settings = block()
    settings["neuronsteer"]["sets"] = {label: str(path) for label, path in sets.items()}
    with engine(folder, settings) as llm:
        found = ask(llm, reference, REQUESTS, neuronsteer="fr,4:de")
        kept = ask(llm, reference, REQUESTS)
    expected = [reference.write(wanted, schedule="fr,4:de") for wanted in REQUESTS]
    assert found == expected
    assert found != kept == [reference.write(wanted) for wanted in REQUESTS]


def test_a_default_is_for_requests_that_say_nothing(storage: Path, reference: Reference):
    text = "the weather Python"
    given: list[Wanted] = [(text, None, None, {}), (text, "-", None, {}), (text, "ru", None, {})]
    with engine(checkpoint(storage), block(language="en")) as llm:
        found = ask(llm, reference, given)
    languages = ("en", None, "ru")
    expected = [reference.write((text, language, None, {})) for language in languages]
    assert found == expected and len(set(map(tuple, found))) == 3


def test_samples_are_of_what_the_gate_leaves_and_others_are_drawn_as_ever(
    storage: Path, reference: Reference
):
    settings = [
        {"temperature": 1.3},
        {"temperature": 1.0, "top_p": 0.95},
        {"temperature": 1.0, "top_k": 40},
        {"temperature": 0.8, "top_k": 60, "top_p": 0.9, "min_p": 0.01},
    ]
    kept: list[Wanted] = [
        ("the weather", "en", None, {**options, "seed": seed})
        for options in settings
        for seed in (1, 2)
    ]
    plain: list[Wanted] = [(text, None, None, options) for text, _, _, options in kept]
    with engine(checkpoint(storage)) as llm:
        alone = ask(llm, reference, plain)
    with engine(checkpoint(storage), block()) as llm:
        pairs = zip(kept, plain, strict=True)
        found = ask(llm, reference, [each for pair in pairs for each in pair])
    assert found[1::2] == alone, "who is not kept notices nothing"
    for wanted, tokens, before in zip(kept, found[::2], alone, strict=True):
        assert reference.could_be_drawn(wanted, tokens)
        assert not reference.could_be_drawn(wanted, before)


MISTAKES = [
    ({"neuronsteer_keep": 7}, "'neuronsteer_keep' is 7"),
    ({"neuronsteer_keep": ["ko"]}, "'neuronsteer_keep' is"),
    ({"neuronsteer_keep": {"language": "ko"}}, "'neuronsteer_keep' is"),
    ({"neuronsteer_keep": ""}, "expected the code of a language"),
    ({"neuronsteer_keep": "korean"}, "'korean' is not the code"),
    ({"neuronsteer_keep": "en,sentence:ko"}, "waits for text"),
    ({"neuronsteer_keep": "en,9:ko,3:en"}, "strictly increasing"),
    ({"neuronsteer_keep": "-,3:ko*0.5"}, "kept in a language or it is not"),
    ({"neuronsteer_thinking": 0.5}, "'neuronsteer_thinking' is 0.5"),
    ({"neuronsteer_kep": "ko"}, "did you mean 'neuronsteer_keep'"),
    ({"neuronsteer": "fr"}, "started without neuron steering"),
]


def test_mistakes_are_refused_while_other_requests_go_on(storage: Path, reference: Reference):
    wanted = REQUESTS[0]
    with engine(checkpoint(storage), block()) as llm:
        core = llm.llm_engine
        prompt = {"prompt_token_ids": reference.ids(wanted[0])}
        core.add_request("good", prompt, params(wanted))
        core.step()
        for i, (extra, message) in enumerate(MISTAKES):
            bad = params((wanted[0], None, None, {}), **extra)
            with pytest.raises(Exception, match=message) as caught:
                core.add_request(f"bad {i}", prompt, bad)
            assert type(caught.value).__name__ == "VLLMValidationError"
            core.step()
        tokens: list[int] = []
        while core.has_unfinished_requests():
            for output in core.step():
                tokens = list(output.outputs[0].token_ids)
    assert tokens == reference.write(wanted)


def test_an_engine_without_the_block_has_no_gate_and_says_so(storage: Path, reference: Reference):
    with engine(checkpoint(storage)) as llm:
        assert not llm.llm_engine.vllm_config.model_config.logits_processors
        with pytest.raises(Exception, match="serve MODEL --keep ko"):
            ask(llm, reference, REQUESTS[:1])
        plain = REQUESTS[1]
        assert ask(llm, reference, [plain]) == [reference.write(plain)]


def test_with_drafts_nothing_can_be_kept(storage: Path, reference: Reference):
    from vllm.engine.arg_utils import EngineArgs

    from tests_vllm.job import NGRAM

    folder = checkpoint(storage)
    wanted = {"model": str(folder), "dtype": "float32", "max_model_len": 64}
    with pytest.raises(NeuronSteerError, match="speculative decoding"):
        EngineArgs(
            **wanted, speculative_config=dict(NGRAM), additional_config=block(language="en")
        ).create_engine_config()
    sets = {label: str(path) for label, path in neuron_sets(storage).items()}
    settings = {"neuronsteer": {"sets": sets}}
    with engine(folder, settings, speculative_config=dict(NGRAM)) as llm:
        with pytest.raises(Exception, match="Cannot keep a text.*speculative decoding"):
            ask(llm, reference, REQUESTS[:1])
        assert len(ask(llm, reference, REQUESTS[1:2])[0]) == TOKENS


@pytest.mark.parametrize("mode", ["processes", "tensors", "second"])
def test_other_engines(storage: Path, reference: Reference, mode: str):
    """The engine in a process of its own, two workers, and the model runner of GPUs."""
    job = {
        "folder": str(checkpoint(storage)),
        "settings": block(),
        "prompts": [reference.ids(text) for text, *_ in REQUESTS],
        "requests": REQUESTS,
        "tokens": TOKENS,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests_vllm.job", mode, str(storage)],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=dict(os.environ),
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["facts"]["runner"] == (2 if mode == "second" else 1)
    check(result["found"], reference)
