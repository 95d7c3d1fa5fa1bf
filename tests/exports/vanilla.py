"""Run in a fresh process without neuronsteer: load exports the way their users will.

    python -I -S vanilla.py SITE_PACKAGES FOLDER

`-I -S` leaves nothing on the path but the standard library; appending the packages' folder by hand
skips `.pth` files, so an editable installation of neuronsteer cannot be found either. FOLDER holds
`jobs.json` and `ids.safetensors`; logits and greedy tokens go to `results.safetensors`, and what
went wrong to `report.json`. Nothing here knows what the results should be.
"""

import json
import os
import struct
import sys
import warnings
from pathlib import Path


def main(packages: str, folder: Path) -> None:
    sys.path.append(packages)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    warnings.filterwarnings("ignore")
    report = {"neuronsteer": importable("neuronsteer"), "errors": {}}

    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    ids = load_file(folder / "ids.safetensors")["ids"]
    results = {}
    for job in json.loads((folder / "jobs.json").read_text()):
        try:
            model, close = LOADERS[job["kind"]](job)
            results[f"{job['id']}.logits"] = model(ids).logits.float().clone()
            tokens = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=job["new"],
                do_sample=False,
            )
            results[f"{job['id']}.tokens"] = tokens[:, ids.shape[1] :].clone()
            close()
        except Exception as error:
            report["errors"][job["id"]] = f"{type(error).__name__}: {error}"
    report["modules"] = [name for name in sys.modules if "neuronsteer" in name]
    save_file(results, folder / "results.safetensors")
    (folder / "report.json").write_text(json.dumps(report))


def importable(name: str) -> bool:
    try:
        __import__(name)
    except ModuleNotFoundError:
        return False
    return True


def checkpoint(job: dict):
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(job["path"], output_loading_info=True)
    odd = {key: sorted(info[key])[:3] for key in ("missing_keys", "unexpected_keys") if info[key]}
    if odd:
        raise RuntimeError(f"the checkpoint does not fit its config: {odd}")
    return model.eval(), lambda: None


def peft(job: dict):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(job["base"]).eval()
    model = PeftModel.from_pretrained(base, job["path"]).eval()
    if job.get("merge"):
        model = model.merge_and_unload()
    return model, lambda: None


def control_vector(job: dict):
    """Do what llama.cpp does: add direction.k to the output of block k, never to block 0."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["base"]).eval()
    directions = read_gguf(Path(job["path"]))
    layers = model.get_submodule(job["layers"])

    def adding(direction):
        def hook(_module, _args, output):
            if isinstance(output, tuple):
                return (output[0] + direction, *output[1:])
            return output + direction

        return hook

    handles = []
    for name, direction in directions.items():
        kind, _, layer = name.partition(".")
        if kind != "direction" or int(layer) == 0:
            raise RuntimeError(f"llama.cpp rejects {name}")
        handles.append(layers[int(layer)].register_forward_hook(adding(direction)))
    return model, lambda: [handle.remove() for handle in handles]


def read_gguf(path: Path):
    """Return the float32 tensors of a GGUF file, read independently of the writer."""
    import torch

    raw = path.read_bytes()
    position = 0

    def take(form: str):
        nonlocal position
        values = struct.unpack_from("<" + form, raw, position)
        position += struct.calcsize("<" + form)
        return values

    def text() -> str:
        nonlocal position
        (length,) = take("Q")
        position += length
        return raw[position - length : position].decode()

    magic, version, tensors, pairs = take("4sIQQ")
    assert (magic, version) == (b"GGUF", 3)
    for _ in range(pairs):
        text()
        (kind,) = take("I")
        _ = text() if kind == 8 else take("i")
    found = []
    for _ in range(tensors):
        name = text()
        dimensions, size, kind, offset = take("IQIQ")
        assert (dimensions, kind) == (1, 0)
        found.append((name, size, offset))
    start = -(-position // 32) * 32
    return {
        name: torch.frombuffer(
            bytearray(raw[start + at : start + at + 4 * size]), dtype=torch.float32
        )
        for name, size, at in found
    }


LOADERS = {"checkpoint": checkpoint, "peft": peft, "gguf": control_vector}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
