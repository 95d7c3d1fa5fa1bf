"""What is done to a selected neuron: every operation is `a -> a * scale + shift`.

One affine pair per neuron is the whole adapter. That is why per-row tables, compiled graphs and
exports to other engines all come from the same two vectors. A new operation is one file in this
folder: a frozen dataclass that implements `affine` and is registered by name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, Protocol

import torch

from ..errors import ParameterError
from ..registry import Plugin, Registry, create

SITES_OF_MLP = ("mlp.neuron", "mlp.act")


# Percentiles are written `p10`, `p99.5`.
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?|100)")


def percentile(source: str) -> float | None:
    """Return the percentile that `source` names, 10.0 for `p10`, or `None` if it names none."""
    found = _PERCENTILE.fullmatch("p50" if source == "median" else source)
    return None if found is None else float(found[1])


class Values(Protocol):
    """What an operation may ask of the rows it acts on (a `NeuronSet` of one label)."""

    def value(self, source: str, site: str) -> torch.Tensor:
        """Return one number per row: the statistic `source` measured at `site`."""
        ...

    def __len__(self) -> int: ...


@dataclasses.dataclass(frozen=True)
class Operation(Plugin):
    """Base of all operations.

    Args:
        site: Where the arithmetic happens. `None` means the site of the set's own rows, except that
            rows found at `mlp.act` are steered at `mlp.neuron` (the same neurons, after the gate
            has been multiplied by the up projection). `"mlp.act"` gives the papers' semantics: the
            gate activation is changed and then multiplied by the up projection.
    """

    kind: ClassVar[str] = "operation"
    #: Whether a strength beyond 1 means something (more of an added value) or is a mistake.
    unbounded: ClassVar[bool] = False

    site: str | None = None

    @property
    def relative(self) -> bool:
        """Whether it depends on what is left: on the mean of another label than the rows' own."""
        return False

    def affine(self, rows: Values, site: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `(scale, shift)`, float32, one entry per row."""
        raise NotImplementedError

    def blended(
        self, rows: Values, site: str, strength: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pair for `a + strength * (f(a) - a)`, which is affine again."""
        if not 0 <= strength <= 1 and not self.unbounded:
            raise ParameterError(
                f"Strength {strength} makes no sense for the operation {self.name!r}: it blends "
                "between untouched (0) and fully applied (1). To go further use the operation "
                "'add', or give the operation a larger factor."
            )
        scale, shift = self.affine(rows, site)
        return 1 + strength * (scale - 1), strength * shift

    def site_for(self, set_site: str) -> str:
        """Return the site where rows of a set with site `set_site` are steered."""
        if self.site is not None:
            if self.site != set_site and not {self.site, set_site} <= set(SITES_OF_MLP):
                raise ParameterError(
                    f"{self.title} is asked to act at {self.site!r}, but the set's "
                    f"neurons live at {set_site!r}. Only 'mlp.neuron' and 'mlp.act' share neurons."
                )
            return self.site
        return "mlp.neuron" if set_site in SITES_OF_MLP else set_site

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description that `operation()` reads back."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return {"name": self.name, **fields}


OPERATIONS: Registry[type[Operation]] = Registry("operation", "neuronsteer.operations")


def operation(spec: str | Operation | Mapping[str, Any], **parameters: Any) -> Operation:
    """Return the operation that `spec` names.

    Args:
        spec: A registered name (`"zero"`, `"scale"`, `"set"`, `"add"`), a dictionary with a `name`
            (as stored in a neuron set), or an operation, which is returned as it is.
        **parameters: Fields of the operation, e.g. `value="max"` or `factor=1.5`.

    Example:
        >>> operation("add", value="diffmean", factor=2.0)
        Add(site=None, value='diffmean', factor=2.0)
    """
    return create(Operation, OPERATIONS, spec, parameters)


def chosen_operation(
    default: Mapping[str, Any],
    name: str | None = None,
    value: str | float | None = None,
    site: str | None = None,
) -> Operation | None:
    """Return the operation that a user chose by single options; `None` if none was given.

    Args:
        default: The set's own operation, which the options change unless `name` is given.
        name: `zero`, `scale`, `set` or `add`.
        value: What to set or add; the factor of `scale`. Numbers may be text.
        site: Where it acts.
    """
    if name is None and value is None and site is None:
        return None
    fields: dict[str, Any] = {} if site is None else {"site": site}
    if value is not None:
        with suppress(ValueError):
            value = float(value)
        scales = (name or default["name"]) == "scale"
        if scales and isinstance(value, str):
            raise ParameterError(f"The operation 'scale' needs a number as value; found {value!r}.")
        fields["factor" if scales else "value"] = value
    return operation(default if name is None else name, **fields)
