"""Exports: what steering does, written as files that other programs load without neuronsteer.

`export()` writes an adapter or a control vector, `bake()` a whole checkpoint. Both take the same
label, operation and strength as `steer.to()`, are compiled by the same code, and refuse, with the
reason and the alternative, whatever their format cannot express exactly. A new format is one file
in this folder: a dataclass derived from `Export`, registered by name.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ParameterError
from ..hub import new_folder
from ..neuron_set import NeuronSet
from ..neuron_set.row_values import fixed_source, names_of
from ..operations import Operation
from ..operations import operation as make_operation
from ..registry import Registry, create
from ..steering.compile import Compiler, State
from ..steering.label_sums import arith
from ..steering.schedule_text import is_arithmetic
from ._base_model import BaseModel
from ._edits import PARTS, ModelEdit, ProjectionEdit, compile_edit
from ._output_folder import check_free, check_space

__all__ = [
    "EXPORTS",
    "PARTS",
    "BaseModel",
    "Export",
    "Exported",
    "ModelEdit",
    "ProjectionEdit",
    "bake",
    "export",
]

OperationLike = str | Operation | Mapping[str, Any]
SetLike = NeuronSet | str | PathLike[str]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written; usable wherever a path is.

    Attributes:
        path: The folder.
        format: Name of the format.
        text: What is done, in words.
        files: Name → size in bytes.
        notes: What a user should know about this export.
    """

    path: Path
    format: str
    text: str
    files: dict[str, int]
    notes: tuple[str, ...]

    def __fspath__(self) -> str:
        return fspath(self.path)


@dataclasses.dataclass(frozen=True)
class Export(ABC):
    """Base of all formats; the fields of a subclass are the options of `export(…, format=name)`."""

    name: ClassVar[str] = ""
    #: One line for lists of formats.
    summary: ClassVar[str] = ""

    @abstractmethod
    def check(self, edit: ModelEdit) -> int:
        """Raise `ParameterError` if the format cannot express the edit exactly.

        Returns:
            About how many bytes `write` will write.
        """

    @abstractmethod
    def write(self, edit: ModelEdit, folder: Path) -> list[str]:
        """Write into the empty `folder`, `README.md` included, and return notes for the user."""


EXPORTS: Registry[type[Export]] = Registry("export", "neuronsteer.exports")


def export(
    model: Any,
    neurons: SetLike | Sequence[SetLike],
    directory: str | PathLike[str],
    to: str | None = None,
    operation: OperationLike | None = None,
    strength: float = 1.0,
    away_from: str | Sequence[str] | None = None,
    *,
    format: str = "ia3",
    away: OperationLike | None = None,
    source: str | Sequence[str] | None = None,
    part: str = "all",
    revision: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Exported:
    """Write what `steer.to(to, …)` does as files that load without neuronsteer.

    Args:
        model: The model in memory, its folder, or its Hub id; `None`: the set's base model.
            Weights are read only where the format needs them, one tensor at a time.
        neurons: A neuron set, a Hub id or folder, or several; later ones are applied last.
        directory: Folder to write. It appears complete or not at all.
        to: What to steer to, a label or a sum such as `"fr - en"`; `None` if only `away_from` is
            wanted.
        operation: What to do with the neurons; default: what the set's header says.
        strength: How much of it, as in `steer.to`.
        away_from: Labels whose neurons are deactivated first.
        format: `"ia3"` (zero and scale), `"lora"` (everything; has a bias), `"lora-nobias"` (zero
            and scale; for engines that refuse a bias), `"peft"` (everything; tiny, but its users
            need neuronsteer), `"gguf"` (the constant of set and add, as a control vector),
            `"baked"` (a checkpoint; see `bake`), or a plugin's name.
        away: The operation that deactivates them; zero if not given.
        source: What is left, as in `steer.to`. A file cannot read prompts: where the operation adds
            a difference of means, and the set's header names no label, this has to be given.
        part: `"all"`, or only the `"scale"` or the `"constant"` part of `a * scale + constant`, to
            put the two into different files.
        revision: Revision of a Hub model; default: the one in the set's header.
        overwrite: Replace an earlier export.
        **options: Options of the format.

    Raises:
        ParameterError: If the format cannot express this exactly; the message says what can.
        LabelError: If a label is unknown or has no neurons.
        HubError: If files cannot be read or written, or the disk is too small.
    """
    writer = create(Export, EXPORTS, format, options)
    sets = _sets(neurons)
    state = _state(sets, to, operation, strength, away_from, away, source)
    if model is None:
        model = _recorded_model(sets[0])
        revision = revision or sets[0].base_revision
    base = BaseModel.of_family(sets[0]) if model is None else BaseModel.open(model, revision)
    if base is None:
        raise ParameterError(
            f"The neuron set's base model is {sets[0].base_model or 'not recorded'}, which cannot "
            "be found from here, so the names of the modules are unknown. Pass the model, its "
            "folder, or its Hub id."
        )
    edit = compile_edit(base, sets, state, part)
    folder = Path(directory).expanduser()
    folder = folder.parent.resolve() / folder.name
    if base.folder is not None and folder == base.folder.resolve():
        raise ParameterError(f"{str(folder)!r} is the model itself; choose another folder.")
    size = writer.check(edit)
    check_free(folder, overwrite)
    check_space(folder, size)
    with new_folder(folder) as unfinished:
        notes = writer.write(edit, unfinished)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    return Exported(folder, format, edit.text, files, tuple(notes))


def bake(
    model: Any,
    neurons: SetLike | Sequence[SetLike],
    directory: str | PathLike[str],
    to: str | None = None,
    operation: OperationLike | None = None,
    strength: float = 1.0,
    away_from: str | Sequence[str] | None = None,
    **options: Any,
) -> Exported:
    """Write a checkpoint that is steered for good, for engines that load only checkpoints.

    The same as `export(…, format="baked")`, whose arguments it takes. A folder or Hub repository is
    rewritten shard by shard without loading it; a model in memory (also an offloaded one) is saved
    first and then treated the same way.

    Args:
        model: The model in memory, its folder, or its Hub id.
        neurons: As for `export`.
        directory: Folder to write.
        to: As for `export`.
        operation: As for `export`.
        strength: As for `export`.
        away_from: As for `export`.
        **options: `away`, `source`, `part`, `revision` and `overwrite` as for `export`, and
            `tokenizer`, which is saved along; a folder's or repository's own is copied without
            being asked.
    """
    return export(
        model, neurons, directory, to, operation, strength, away_from, format="baked", **options
    )


def _sets(neurons: SetLike | Sequence[SetLike]) -> list[NeuronSet]:
    alone = isinstance(neurons, NeuronSet | str | PathLike)
    several: Sequence[Any] = [neurons] if alone else list(neurons)  # type: ignore[arg-type]
    if not several:
        raise ParameterError("There is no neuron set to export.")
    return [
        each if isinstance(each, NeuronSet) else NeuronSet.from_pretrained(fspath(each))
        for each in several
    ]


def _recorded_model(neurons: NeuronSet) -> str | None:
    """Return the set's base model, unless it is a folder of another machine or place."""
    name = neurons.base_model
    return None if name and name.startswith("./") and not Path(name).is_dir() else name


def _state(
    sets: Sequence[NeuronSet],
    to: str | None,
    operation: OperationLike | None,
    strength: float,
    away_from: str | Sequence[str] | None,
    away: OperationLike | None,
    source: str | Sequence[str] | None,
) -> State:
    sources = names_of(away_from)
    known = {name for each in sets for name in each.labels}
    summed = to is not None and to not in known and is_arithmetic(to)
    total = arith(to) if to is not None and summed else None
    wanted = (to,) if total is None else [name for _, name in total.on]
    sources = tuple(source for source in sources if source not in wanted)
    chosen = None if operation is None else make_operation(operation)
    by = None if away is None else make_operation(away)
    left: tuple[str, ...] = ()
    if to is not None and total is None:
        # What neurons there are does not matter for this, nor does the model.
        told = Compiler(sets, True, {}).left(
            chosen, names_of(source), sources if by is None else ()
        )
        left = fixed_source(told, to, "a file cannot read prompts")
    state = State(to, strength, chosen, sources, by, left)
    if state.idle:
        raise ParameterError(
            "There is nothing to export: no label and nothing to steer away from."
            if to is None
            else f"Strength 0 leaves the neurons of {to!r} as they are: nothing to export."
        )
    return state
