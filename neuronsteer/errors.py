"""The error tree: what can go wrong for a user, one class per kind of mistake.

Every class also inherits the builtin it refines, so `except ValueError` keeps working in code that
does not know this package. A message says, in this order: what failed, what was found, what was
expected, what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class NeuronSteerError(Exception):
    """Base of every error that neuronsteer raises on purpose."""


class LayoutError(NeuronSteerError, ValueError):
    """The model's neurons cannot be located (unknown family, missing module, wrong width)."""


class HookError(NeuronSteerError, RuntimeError):
    """Steering or counting would not take effect (a hook is never called, or was removed)."""


class ArtifactError(NeuronSteerError, ValueError):
    """A neuron set or statistics file is malformed; the message names the field."""


class MismatchError(ArtifactError):
    """The artifact is sound but was made for another model."""


class LabelError(NeuronSteerError, KeyError):
    """A label is unknown, empty, or has no neurons."""

    def __str__(self) -> str:
        # KeyError shows its argument through repr(), which would put the message in quotes.
        return str(self.args[0]) if self.args else ""


class UnknownNameError(NeuronSteerError, KeyError):
    """No plugin of that name (detector, operation, layout, metric, export)."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ParameterError(NeuronSteerError, ValueError):
    """An argument is out of range or contradicts another one."""


class ScheduleError(NeuronSteerError, ValueError):
    """A schedule cannot be parsed or makes no sense."""


class TextError(NeuronSteerError, ValueError):
    """Calibration text is missing, empty, or cannot be decoded."""


class StatsError(NeuronSteerError, ValueError):
    """Statistics lack what is needed, or cannot be merged."""


class MissingExtraError(NeuronSteerError, ImportError):
    """An optional dependency is not installed."""


class HubError(NeuronSteerError, OSError):
    """A repository or folder could not be read or written."""


def shown(value: object, most: int = 200) -> str:
    """Return a value from outside as a message quotes it: its `repr`, cut if it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest option, or an empty string."""
    close = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_label(label: str, labels: Iterable[str], where: str = "this neuron set") -> LabelError:
    """Return the error for a label that does not exist, with the labels that do."""
    known = list(labels)
    shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return LabelError(
        f"Unknown label {label!r}: {where} has {shown or 'no labels'}.{did_you_mean(label, known)}"
    )


def require(module: str, extra: str, why: str) -> ModuleType:
    """Import and return an optional dependency.

    Args:
        module: Import name, e.g. `"matplotlib"`.
        extra: The extra of this package that installs it.
        why: What needs it, for the message.

    Raises:
        MissingExtraError: If the module is not installed. An import error *inside* an installed
            module is not hidden.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise
        raise MissingExtraError(
            f"{why} needs the package {module!r}, which is not installed. "
            f"Install it with: pip install 'neuronsteer[{extra}]'"
        ) from error
