"""The numbers of a report, by task, treatment and label, as they are kept in JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from ...errors import ArtifactError, UnknownNameError, did_you_mean, shown
from ..json_values import plain
from .formatting import BASELINES, TREATMENTS
from .report_shape import check_report

FORMAT = 1
R = TypeVar("R", bound="ReportData")

#: The treatment that is evaluated; every other one is a control.
NEURONS = "neurons"


@dataclasses.dataclass(frozen=True)
class ReportData:
    """The numbers of an evaluation; `Report` adds the formats that it can be written in.

    Attributes:
        subject: The model and the set, with their hashes.
        settings: Tasks, controls, limits, seed, decoding, identifier.
        environment: Versions.
        data: Per kind of data where it came from, its hash, and items per label.
        tasks: Per experiment its definition and, per treatment, its numbers and what to show.
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
    def treatments(self) -> tuple[str, ...]:
        """What some experiment compared: the set, and the kinds of controls."""
        return tuple(
            name for name in TREATMENTS if any(name in task["treatments"] for task in self.tasks)
        )

    @property
    def controls(self) -> tuple[str, ...]:
        """The kinds of controls that took part in some experiment."""
        return tuple(n for n in self.treatments if n != NEURONS and n not in BASELINES)

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
        self,
        task: str,
        name: str | None = None,
        *,
        treatment: str = NEURONS,
        label: str | None = None,
    ) -> float | None:
        """Return one number.

        Args:
            task: The experiment.
            name: Which of its values; default: the headline.
            treatment: `neurons`, `none`, `random` (the mean of all seeds), `diffmean`, or of
                `clas_bench` also `prompted` and `prompted_natively`.
            label: The headline of this label instead.
        """
        entry = self.task(task)
        if treatment not in entry["treatments"]:
            raise UnknownNameError(
                f"{task!r} has no treatment {treatment!r}; it has {', '.join(entry['treatments'])}."
            )
        found: Mapping[str, Any] = entry["treatments"][treatment][
            "values" if label is None else "labels"
        ]
        key = label or name or entry["primary"]
        if key not in found:
            raise UnknownNameError(
                f"{task!r} has no value {key!r}.{did_you_mean(key, found)} It has "
                f"{', '.join(found)}."
            )
        return found[key]["value"]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"format": FORMAT, **plain(fields)}

    @classmethod
    def from_dict(cls: type[R], data: Mapping[str, Any]) -> R:
        """Return the report that `to_dict` described.

        Raises:
            ArtifactError: If it is none; the message names the field.
        """
        version = data.get("format")
        if type(version) is not int or not 1 <= version <= FORMAT:
            raise ArtifactError(
                f"Field 'format' of the report is {shown(version)}; this neuronsteer reads "
                f"{FORMAT}."
            )
        check_report(data)
        fields = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        for name in ("tasks", "notes"):
            fields[name] = tuple(fields[name])
        return cls(**fields)
