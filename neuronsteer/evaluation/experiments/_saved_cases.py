"""What was measured so far, one file per case, so that an interrupted run can continue."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, ParameterError
from ...hub import read_json, write_folder
from . import Case, Observation

_PLAN = "plan.json"


class SavedCases:
    """Observations by experiment, treatment and case.

    Args:
        folder: Where cases are saved; `None` keeps them in memory only.
        plan: What the run depends on. Cases of another plan are not mixed with these.
        resume: Whether cases that are there are used; otherwise they are deleted.

    Raises:
        ParameterError: If the folder holds cases of another plan, or something else.
    """

    def __init__(self, folder: Path | None, plan: Mapping[str, Any], resume: bool) -> None:
        self._folder = folder
        self._found: dict[tuple[str, str, Case], Observation] = {}
        if folder is None:
            return
        there = folder / _PLAN
        if folder.exists() and not there.is_file() and any(folder.iterdir()):
            raise ParameterError(
                f"The folder {str(folder)!r} holds something else than saved cases. Choose "
                "another place for the report."
            )
        if there.is_file() and resume:
            self._check(there, plan)
            for file in sorted(folder.glob("*/*.json")):
                self._load(file)
        elif folder.exists():
            shutil.rmtree(folder)
        write_folder(folder, {_PLAN: json.dumps(plan, ensure_ascii=False, indent=1).encode()})

    def get(self, task: str, treatment: str, case: Case) -> Observation | None:
        """Return what was observed, or `None`."""
        return self._found.get((task, treatment, case))

    def put(self, task: str, treatment: str, case: Case, observation: Observation) -> None:
        """Keep an observation; after this it survives a crash."""
        record = {
            "task": task,
            "treatment": treatment,
            "case": list(case),
            "observation": observation,
        }
        text = json.dumps(record, ensure_ascii=False)
        if self._folder is not None:
            name = hashlib.sha256("\0".join([task, treatment, *case]).encode()).hexdigest()[:24]
            write_folder(self._folder / task, {f"{name}.json": text.encode()})
        # Read back, so that a resumed run sees just what the first one saw.
        self._found[task, treatment, case] = json.loads(text)["observation"]

    def of(self, task: str, treatment: str) -> dict[Case, Observation]:
        """Return the observations of a treatment."""
        return {key[2]: each for key, each in self._found.items() if key[:2] == (task, treatment)}

    def close(self) -> None:
        """Delete the cases: the report is written."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _check(self, there: Path, plan: Mapping[str, Any]) -> None:
        before = _read(there)
        now = json.loads(json.dumps(plan))
        for name in dict.fromkeys([*now, *before]):
            if before.get(name) != now.get(name):
                raise ParameterError(
                    f"The run in {str(there.parent)!r} cannot be resumed: its {name} was "
                    f"{_short(before.get(name))} and is {_short(now.get(name))} now. Run it with "
                    "the same arguments, or start over without resume."
                )

    def _load(self, file: Path) -> None:
        record = _read(file)
        try:
            key = (str(record["task"]), str(record["treatment"]), tuple(map(str, record["case"])))
            self._found[key] = record["observation"]
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{str(file)!r} is not a case of a run; delete it.") from error


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, ArtifactError, "Delete it.")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
