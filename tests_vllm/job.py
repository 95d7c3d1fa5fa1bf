"""One engine in a process of its own: `python -m tests_vllm.job MODE STORAGE`, JSON on stdout.

For what has to be decided before vLLM is imported, or what leaves things behind in a process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 3,
    "prompt_lookup_max": 2,
    "prompt_lookup_min": 1,
}


def options(mode: str, storage: Path) -> dict[str, Any]:
    """Return the engine's options for a mode, after setting what vLLM reads on import."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if mode in ("processes", "tensors") else "0"
    if mode == "tensors":
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"
        return {"tensor_parallel_size": 2}
    if mode == "compiled":
        return {"enforce_eager": False}
    if mode == "pieces":
        keep_vllm_compile()
        return {"enforce_eager": False, "compilation_config": {"mode": 3}}
    if mode == "second":
        interpret_triton()
        return {"max_num_batched_tokens": 24, "max_num_seqs": 6}
    if mode == "ngram":
        return {"speculative_config": NGRAM}
    if mode == "draft":
        guess = {
            "method": "draft_model",
            "model": str(storage / "draft"),
            "num_speculative_tokens": 2,
        }
        return {"speculative_config": guess}
    return {}


def keep_vllm_compile() -> None:
    """Keep the compilation mode of GPUs (graph split at attention), which CPUs are not given."""
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        from vllm.config import CompilationMode

        mode = vllm_config.compilation_config.mode
        original(cls, vllm_config)
        if mode == CompilationMode.VLLM_COMPILE:
            vllm_config.compilation_config.mode = mode
            vllm_config.compilation_config.compile_sizes = []

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)
    # This pass names operators that only CUDA has; there is nothing for it to rewrite here.
    from vllm.compilation.passes.utility import fix_functionalization

    fix_functionalization.FixFunctionalizationPass.__call__ = lambda self, graph: None


def interpret_triton() -> None:
    """Run model runner V2, the one of GPUs, on the CPU: its kernels in Triton's interpreter."""
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
    import torch.utils._triton as known
    import triton.backends as backends

    class Driver:
        @staticmethod
        def is_active() -> bool:
            return True

    class Backend:
        compiler = None
        driver = Driver

    backends.backends.clear()
    backends.backends["cpu"] = Backend
    # Inductor must not find it.
    known.triton_hash_with_backend = lambda: "interpreted"
    known.has_triton = lambda *args, **kwargs: False
    known.has_triton_package = lambda *args, **kwargs: False


def kept(mode: str, storage: Path, job: dict[str, Any]) -> None:
    """Run requests that are kept in a language, and say what they gave."""
    chosen = options(mode, storage)
    from vllm import SamplingParams

    from tests_vllm import conftest as conftest
    from tests_vllm.material import engine

    sampling: list[Any] = []
    for _, language, thinking, other in job["requests"]:
        extra = {"neuronsteer_keep": language, "neuronsteer_thinking": thinking}
        extra = {name: value for name, value in extra.items() if value is not None}
        plain = {"temperature": 0, "max_tokens": job["tokens"], "ignore_eos": True}
        sampling.append(SamplingParams(extra_args=extra or None, **plain, **other))
    with engine(Path(job["folder"]), job["settings"], **chosen) as llm:
        runner = 2 if llm.llm_engine.vllm_config.use_v2_model_runner else 1
        prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
    found = [list(each.outputs[0].token_ids) for each in outputs]
    print("\n" + json.dumps({"found": found, "facts": {"runner": runner}}), flush=True)


def main() -> None:
    """Run the requests that stdin names, and say what they gave."""
    mode, storage = sys.argv[1], Path(sys.argv[2])
    job = json.loads(sys.stdin.read())
    if isinstance(job, dict):
        kept(mode, storage, job)
        return
    chosen = options(mode, storage)
    from tests_vllm import conftest as conftest
    from tests_vllm.material import block, checkpoint, engine, neuron_sets, run

    folder, sets = checkpoint(storage), neuron_sets(storage)
    wanted, tokens = job
    settings = block(sets, capacity=8)
    with engine(folder, settings, **chosen) as llm:
        config = llm.llm_engine.vllm_config
        drafts = {"drafted": 0, "accepted": 0}
        if "speculative_config" in chosen:
            scheduler = llm.llm_engine.engine_core.engine_core.scheduler
            update = scheduler.update_from_output

            def updating(scheduled: Any, result: Any, *args: Any, **kwargs: Any) -> Any:
                given = scheduled.scheduled_spec_decode_tokens.values()
                drafts["drafted"] += sum(map(len, given))
                drafts["accepted"] += sum(max(0, len(t) - 1) for t in result.sampled_token_ids)
                return update(scheduled, result, *args, **kwargs)

            scheduler.update_from_output = updating
        found = run(llm, [(ids, schedule) for ids, schedule in wanted], tokens)
        facts = {
            "runner": 2 if config.use_v2_model_runner else 1,
            "compiled": config.compilation_config.mode.name,
            "tensor_parallel": config.parallel_config.tensor_parallel_size,
            **drafts,
        }
    print("\n" + json.dumps({"found": found, "facts": facts}), flush=True)


if __name__ == "__main__":
    main()
