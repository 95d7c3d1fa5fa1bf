"""What an evaluation found: one object that becomes JSON, Markdown, HTML or a card's results."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ArtifactError, HubError, UnknownNameError, did_you_mean
from ...hub import write_folder

if TYPE_CHECKING:
    from .comparing import Contrast

FORMAT = 1
JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"
#: The arm that is evaluated; every other one is a control.
NEURONS = "neurons"


@dataclasses.dataclass(frozen=True)
class Report:
    """An evaluation of a neuron set beside its controls; made by `evaluate()`.

    Attributes:
        subject: The model and the set, with their hashes.
        settings: Tasks, controls, limits, seed, decoding, identifier.
        environment: Versions.
        data: Per kind of data where it came from, its hash, and items per label.
        tasks: Per experiment its definition and, per arm, its numbers and what to show.
        notes: What the reader should know first.
        created: When.
        seconds: How long it took.
    """

    subject: Mapping[str, Any]
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    data: Mapping[str, Any]
    tasks: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    created: str = ""
    seconds: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The experiments, in order."""
        return tuple(task["name"] for task in self.tasks)

    @property
    def controls(self) -> tuple[str, ...]:
        """The kinds of controls that took part in some experiment."""
        return tuple(
            dict.fromkeys(arm for task in self.tasks for arm in task["arms"] if arm != NEURONS)
        )

    @property
    def title(self) -> str:
        """What was evaluated, in a line."""
        model = self.subject["model"]["name"] or f"a {self.subject['model']['type']} model"
        method = self.subject["set"]["method"].get("name", "neurons")
        return f"{method} neurons of {model}"

    def task(self, name: str) -> Mapping[str, Any]:
        """Return an experiment's entry."""
        for task in self.tasks:
            if task["name"] == name:
                return task
        raise UnknownNameError(
            f"The report has no task {name!r}.{did_you_mean(name, self.names)} It has "
            f"{', '.join(self.names)}."
        )

    def value(
        self, task: str, name: str | None = None, *, arm: str = NEURONS, label: str | None = None
    ) -> float | None:
        """Return one number.

        Args:
            task: The experiment.
            name: Which of its values; default: the headline.
            arm: `neurons`, `none`, `random` (the mean of all seeds) or `diffmean`.
            label: The headline of this label instead.
        """
        entry = self.task(task)
        if arm not in entry["arms"]:
            raise UnknownNameError(
                f"{arm!r} took no part in {task!r}; {', '.join(entry['arms'])} did."
            )
        found: Mapping[str, Any] = entry["arms"][arm]["values" if label is None else "labels"]
        key = label or name or entry["primary"]
        if key not in found:
            raise UnknownNameError(
                f"{task!r} has no value {key!r}.{did_you_mean(key, found)} It has "
                f"{', '.join(found)}."
            )
        return found[key]["value"]

    # --- formats ----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"format": FORMAT, **_plain(fields)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Return the report that `to_dict` described.

        Raises:
            ArtifactError: If it is none; the message names the field.
        """
        version = data.get("format")
        if not isinstance(version, int) or version > FORMAT:
            raise ArtifactError(
                f"Field 'format' of the report is {version!r}; this neuronsteer reads {FORMAT}."
            )
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = data.get(field.name)
            kind = dict if "Mapping[" in str(field.type).split("tuple")[0] else list
            if field.name in ("tasks", "notes"):
                kind = list
            if field.name in ("created", "seconds"):
                fields[field.name] = value if value is not None else field.default
                continue
            if not isinstance(value, kind):
                raise ArtifactError(
                    f"Field {field.name!r} of the report is a {type(value).__name__}; expected a "
                    f"{kind.__name__}."
                )
            fields[field.name] = tuple(value) if kind is list else value
        for task in fields["tasks"]:
            for name in ("name", "primary", "arms"):
                if name not in task:
                    raise ArtifactError(f"A task of the report lacks the field {name!r}.")
        return cls(**fields)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Return the report in a folder, or in a JSON file.

        Raises:
            HubError: If there is none.
            ArtifactError: If it is damaged.
        """
        file = Path(path).expanduser()
        if file.is_dir():
            file = file / JSON
        try:
            text = file.read_text("utf-8")
        except OSError as error:
            raise HubError(
                f"There is no report {str(path)!r}; expected a folder with {JSON}, as "
                "'neuronsteer evaluate' writes it."
            ) from error
        try:
            found: Any = json.loads(text)
        except ValueError as error:
            raise ArtifactError(f"{str(file)!r} is not JSON: {error}.") from error
        if not isinstance(found, dict):
            raise ArtifactError(f"{str(file)!r} holds no JSON object.")
        return cls.from_dict(found)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `report.json`, `report.md` and `report.html` into a folder, and return it."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"
        contents = {JSON: text, MARKDOWN: self.to_markdown(), HTML: self.to_html()}
        return write_folder(folder, {name: text.encode() for name, text in contents.items()})

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        from .markdown import render

        return render(self)

    def to_html(self) -> str:
        """Return the report as one HTML page that needs nothing else."""
        from .page import render

        return render(self)

    def to_evaluation(self) -> dict[str, Any]:
        """Return what a set's header holds, which becomes its card's table and model-index."""
        from .carding import evaluation

        return evaluation(self)

    def to_card(self) -> str:
        """Return the section of a model card: the table, the controls and how it was made."""
        from .carding import section

        return section(self)

    def compare(self, other: Report) -> Contrast:
        """Return the two reports side by side, task by task."""
        from .comparing import Contrast

        return Contrast(self, other)

    def __repr__(self) -> str:
        shown: list[str] = []
        for task in self.tasks[:6]:
            value = task["arms"].get(NEURONS, {}).get("values", {}).get(task["primary"], {})
            number = value.get("value")
            shown.append(f"{task['name']} {'–' if number is None else format(number, '.3g')}")
        controls = ", ".join(self.controls) or "NO CONTROLS"
        return f"Report({self.title}: {' · '.join(shown)} | {controls})"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)
