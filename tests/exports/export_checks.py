"""Exports and their references, prepared here and checked after one process without neuronsteer."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from neuronsteer.exports import export
from neuronsteer.models import inspect
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.steering.steerer import attach
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_ids

SCRIPT = Path(__file__).with_name("vanilla.py")
NEW = 8

OPERATIONS: dict[str, dict[str, Any]] = {
    "zero": {"name": "zero"},
    "scale": {"name": "scale", "factor": 2.5},
    "set": {"name": "set", "value": "mean"},
    "add": {"name": "add", "value": "diffmean"},
    "set at mlp.act": {"name": "set", "value": "mean", "site": "mlp.act"},
    "add at mlp.act": {"name": "add", "value": "diffmean", "site": "mlp.act"},
}
KINDS = {"baked": "checkpoint", "gguf": "gguf"}


@dataclass
class Base:
    """A model on disk, a set for it, and what the hooks give."""

    model: Any
    neurons: NeuronSet
    folder: Path
    plain: torch.Tensor
    layers: str


@dataclass(frozen=True)
class Outcome:
    """How an export compares with the hooks."""

    delta: float
    same_tokens: bool
    effect: float


@dataclass
class ExportChecks:
    """Collects jobs for one fresh process."""

    root: Path
    jobs: list[dict[str, Any]] = field(default_factory=list)
    want: dict[str, tuple[torch.Tensor, torch.Tensor, float]] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.ids = tiny_ids(2)

    def base(self, model: Any, name: str, neurons: NeuronSet | None = None, **save: Any) -> Base:
        """Save a model and return it with a set for it."""
        folder = self.root / "bases" / name
        folder.mkdir(parents=True)  # a base that is overwritten would be compared with another one
        model.save_pretrained(folder, **save)
        with torch.no_grad():
            plain = model(self.ids).logits
        return Base(model, neurons or toy_set(model), folder, plain, inspect(model).prefix)

    def expect(
        self, base: Base, label: str | None, neurons: NeuronSet | None = None, **options: Any
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Return what the hooks give."""
        with torch.no_grad(), attach(base.model, neurons or base.neurons) as steer:
            steer.to(label, **options)
            logits = base.model(self.ids).logits.float()
            tokens = greedy(base.model, self.ids, NEW)
        return logits, tokens, float((logits - base.plain).abs().max())

    def add(
        self,
        base: Base,
        format: str,
        name: str,
        *,
        neurons: NeuronSet | None = None,
        label: str | None = "fr",
        model: Any = None,
        job: dict[str, Any] | None = None,
        export_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        """Export, and note what a fresh process should find; raises what the export raises."""
        directory = self.root / "exports" / name
        written = export(
            model or base.folder,
            neurons or base.neurons,
            directory,
            label,
            format=format,
            **(export_options or {}),
            **options,
        )
        path = written.path / "control_vector.gguf" if format == "gguf" else written.path
        self.jobs.append(
            {
                "id": name,
                "kind": KINDS.get(format, "peft"),
                "path": str(path),
                "base": str(base.folder),
                "layers": base.layers,
                "new": NEW,
                **(job or {}),
            }
        )
        self.want[name] = self.expect(base, label, neurons, **options)
        return written.path

    def _packages(self) -> Path:
        """Return a folder with every installed package except neuronsteer."""
        installed = Path(sysconfig.get_paths()["purelib"])
        if not (installed / "neuronsteer").exists():
            return installed  # an editable installation is a .pth file, which is not followed
        without = self.root / "packages"
        without.mkdir()
        for entry in installed.iterdir():
            if not entry.name.startswith("neuronsteer"):
                (without / entry.name).symlink_to(entry)
        return without

    def run(self) -> dict[str, Outcome | str]:
        """Load everything in one fresh process; an error message stands for a failed load."""
        (self.root / "jobs.json").write_text(json.dumps(self.jobs))
        save_file({"ids": self.ids}, self.root / "ids.safetensors")
        packages = self._packages()
        command = [sys.executable, "-I", "-S", str(SCRIPT), str(packages), str(self.root)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.root, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        self.report = json.loads((self.root / "report.json").read_text())
        found = load_file(self.root / "results.safetensors")
        outcomes: dict[str, Outcome | str] = {}
        for job in self.jobs:
            name = job["id"]
            if name in self.report["errors"]:
                outcomes[name] = self.report["errors"][name]
                continue
            logits, tokens, effect = self.want[name]
            delta = float((found[f"{name}.logits"] - logits).abs().max())
            outcomes[name] = Outcome(delta, torch.equal(found[f"{name}.tokens"], tokens), effect)
        return outcomes
