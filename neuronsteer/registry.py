"""One registry for every kind of plugin: found by scanning a folder and by entry points.

A plugin is one file in the kind's folder that calls `@REGISTRY.register("name")`. Nothing else is
edited: the folder is imported on first use. Other packages register through the entry-point group
`neuronsteer.<kind>` and can never replace a built-in.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, TypeVar, cast

from .errors import ParameterError, UnknownNameError, did_you_mean, shown

T = TypeVar("T")
#: What is registered keeps its own type, so that one plugin can be a subclass of another.
Item = TypeVar("Item")


class Registry(Generic[T]):
    """Names → plugins of one kind.

    Args:
        kind: Singular noun for messages, e.g. `"detector"`.
        package: Dotted name of the folder that is scanned, e.g. `"neuronsteer.detectors"`. `None`
            for kinds whose built-ins live in the file that creates the registry.
        plural: For the entry-point group, where it is not `kind` with an s.
    """

    def __init__(self, kind: str, package: str | None = None, plural: str | None = None) -> None:
        self.kind = kind
        self._group = f"neuronsteer.{plural or kind + 's'}"
        self._package = package
        self._items: dict[str, T] = {}
        self._scanned = False

    def register(self, *names: str) -> Callable[[Item], Item]:
        """Return a decorator that registers its argument under each of `names`."""

        def add(item: Item) -> Item:
            for name in names:
                if name in self._items and self._items[name] is not item:
                    raise ParameterError(
                        f"The {self.kind} name {name!r} is already taken by "
                        f"{self._items[name]!r}; choose another name."
                    )
                self._items[name] = cast("T", item)
            return item

        return add

    def get(self, name: str) -> T:
        """Return the plugin called `name`, or raise with the closest name that exists."""
        self._scan()
        try:
            return self._items[name]
        except KeyError:
            known = sorted(self._items)
            raise UnknownNameError(
                f"Unknown {self.kind} {name!r}.{did_you_mean(name, known)} "
                f"Available: {', '.join(known)}."
            ) from None

    def names(self) -> list[str]:
        """Return every registered name, sorted."""
        self._scan()
        return sorted(self._items)

    def items(self) -> list[tuple[str, T]]:
        """Return `(name, plugin)` pairs, sorted by name."""
        return [(name, self._items[name]) for name in self.names()]

    def __contains__(self, name: object) -> bool:
        self._scan()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _scan(self) -> None:
        if self._scanned:
            return
        # Set first: a plugin module may look up another one while it is being imported.
        self._scanned = True
        if self._package is not None:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.name.startswith("_"):
                    importlib.import_module(f"{self._package}.{module.name}")
        for point in entry_points(group=self._group):
            self.register(point.name)(point.load())


@dataclasses.dataclass(frozen=True)
class Plugin:
    """Base of plugins that are dataclasses: their fields are their parameters.

    The `require_` methods are for `__post_init__`; they raise a `ParameterError` that names the
    plugin, the parameter, its value, and what was expected. `None` passes: it stands for "not
    given" wherever a parameter may be `None`.
    """

    #: What messages call plugins of this kind, e.g. `"detector"`.
    kind: ClassVar[str] = "plugin"
    name: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"The {self.kind} {self.name!r}"

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return dataclasses.asdict(self)

    def invalid(self, field: str, expected: str, hint: str = "") -> ParameterError:
        """Return the error for a parameter whose value is not what is expected."""
        value = getattr(self, field)
        return ParameterError(f"{self.title} got {field}={shown(value)}; {expected}.{hint}")

    def require_share(self, *fields: str, zero: bool = False) -> None:
        """Raise unless each is between 0 and 1; 0 itself only with `zero`."""
        for field in fields:
            value = getattr(self, field)
            sound = _is_number(value) and (0 < value <= 1 or (zero and value == 0))
            if value is not None and not sound:
                lowest = "from 0" if zero else "above 0"
                raise self.invalid(field, f"it is a share, {lowest} up to 1")

    def require_at_least(self, least: int, *fields: str) -> None:
        """Raise unless each is finite and at least `least`."""
        for field in fields:
            value = getattr(self, field)
            if value is not None and not (_is_number(value) and least <= value < math.inf):
                raise self.invalid(field, f"expected at least {least}")

    def require_finite(self, *fields: str) -> None:
        """Raise unless each is a finite number."""
        for field in fields:
            value = getattr(self, field)
            if value is not None and not _is_number(value):
                raise self.invalid(field, "it must be a finite number")

    def require_one_of(self, field: str, choices: Iterable[str]) -> None:
        """Raise unless the field is one of the choices."""
        value, known = getattr(self, field), list(choices)
        if value not in known:
            shown = " or ".join(repr(each) for each in known[-2:])
            shown = ", ".join([*(repr(each) for each in known[:-2]), shown])
            raise self.invalid(field, f"expected {shown}", did_you_mean(str(value), known))


def _is_number(value: object) -> bool:
    # Values come from files and command lines, too, whatever the annotation says.
    try:
        return math.isfinite(float(cast(Any, value))) and not isinstance(value, str | bytes | bool)
    except (TypeError, ValueError, OverflowError):
        return False


P = TypeVar("P")


def create(
    base: type[P],
    registry: Registry[type[P]],
    spec: str | P | Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> P:
    """Return the plugin that `spec` stands for, with these parameters.

    Args:
        base: The base class of its kind, a dataclass.
        registry: Where plugins of its kind are registered.
        spec: Its name, a mapping of its `name` and parameters, or a plugin.
        parameters: Fields by name; they win over those of `spec`.

    Raises:
        UnknownNameError: If there is no such plugin.
        ParameterError: If it has no such parameter, or a value is out of range.
    """
    given: Any = spec
    kind: Any
    if isinstance(spec, base):
        kind, name = type(given), str(given.name)
    elif isinstance(spec, Mapping):
        fields = dict(given)
        name = fields.pop("name", None)
        if not isinstance(name, str):
            raise ParameterError(f"The {registry.kind} needs a 'name'; found only {sorted(given)}.")
        kind, parameters = registry.get(name), {**fields, **parameters}
    elif isinstance(spec, str):
        kind, name = registry.get(spec), spec
    else:
        raise ParameterError(f"Expected a {registry.kind} or the name of one; got {spec!r}.")
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    for each in parameters:
        if each not in known:
            raise ParameterError(
                f"The {registry.kind} {name!r} has no parameter {each!r}."
                f"{did_you_mean(each, known)} It takes {', '.join(known) or 'none'}."
            )
    if isinstance(spec, base):
        return dataclasses.replace(given, **parameters) if parameters else given
    return kind(**parameters)
