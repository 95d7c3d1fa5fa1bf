"""One registry for every kind of plugin: found by scanning a folder and by entry points.

A plugin is one file in the kind's folder that calls `@REGISTRY.register("name")`. Nothing else is
edited: the folder is imported on first use. Other packages register through the entry-point group
`neuronsteer.<kind>` and can never replace a built-in.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from .errors import ParameterError, UnknownNameError, did_you_mean

T = TypeVar("T")


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

    def register(self, *names: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under each of `names`."""

        def add(item: T) -> T:
            for name in names:
                if name in self._items and self._items[name] is not item:
                    raise ParameterError(
                        f"The {self.kind} name {name!r} is already taken by "
                        f"{self._items[name]!r}; choose another name."
                    )
                self._items[name] = item
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


def configured(kind: Callable[..., T], what: str, name: str, parameters: Mapping[str, Any]) -> T:
    """Return a plugin that is a dataclass, made with these parameters.

    Args:
        kind: The class.
        what: What messages call its kind, e.g. `"method"`.
        name: What the user called it.
        parameters: Its fields by name.

    Raises:
        ParameterError: If it has no such parameter, or a value is out of range.
    """
    known = [field.name for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    for each in parameters:
        if each not in known:
            raise ParameterError(
                f"The {what} {name!r} has no parameter {each!r}.{did_you_mean(each, known)} "
                f"It takes {', '.join(known) or 'none'}."
            )
    return kind(**parameters)
