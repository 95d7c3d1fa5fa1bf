"""Putting something around a function of vLLM, once per process, and only if it is imported.

Nothing of vLLM is imported for this: the front end has no use for the workers' modules, and whoever
has this package installed but does not steer should not notice it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import wrapt

Around = Callable[[Callable[..., Any]], Callable[..., Any]]
#: Attribute of everything that was wrapped or added.
MARK = "neuronsteer"


def wrap(module: str, name: str, around: Around) -> None:
    """Replace `name` in `module` by `around(it)`, now or as soon as the module is imported.

    What is not there is left alone: `private.verify` finds out before anything is steered.
    """

    def replace(found: ModuleType) -> None:
        owner: Any = found
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part, None)
        original = getattr(owner, last, None)
        # vLLM loads its plugins in every process, and in some of them more than once.
        if original is not None and not is_wrapped(original):
            wrapped = functools.wraps(original)(around(original))
            setattr(wrapped, MARK, True)
            setattr(owner, last, wrapped)

    wrapt.register_post_import_hook(replace, module)


def add(module: str, owner: str, name: str, function: Callable[..., Any]) -> None:
    """Give a class in `module` one more method, now or as soon as the module is imported."""

    def give(found: ModuleType) -> None:
        if hasattr(found, owner):
            setattr(getattr(found, owner), name, function)

    wrapt.register_post_import_hook(give, module)


def is_wrapped(function: Any) -> bool:
    """Whether `wrap` was here; inherited methods count."""
    return hasattr(function, MARK)
