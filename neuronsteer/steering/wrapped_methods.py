"""Methods of one model object that do something more for a while."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

from ..models.plain_copies import ours

#: Wrappers that were undone, and what each stood before.
_restored: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def wrap_method(root: Any, name: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Put `around(original, …)` before a method of this one object; return what undoes it.

    Wrappers may be undone in any order. A model that is copied leaves them out, if
    `keep_copies_plain` was called for it.
    """
    original = getattr(root, name)
    shadowed = root.__dict__.get(name)
    live = True

    # generate() looks at the signature of prepare_inputs_for_generation: wraps() preserves it.
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs) if live else original(*args, **kwargs)

    root.__dict__[name] = ours(wrapper) if shadowed is None else ours(wrapper, instead=shadowed)

    def undo() -> None:
        nonlocal live
        live = False
        _restored[wrapper] = shadowed
        if root.__dict__.get(name) is not wrapper:
            return  # somebody wrapped ours: it stays in their chain and only passes calls on
        back: Any = wrapper
        while back in _restored:
            back = _restored[back]
        if back is None:
            del root.__dict__[name]
        else:
            root.__dict__[name] = back

    return undo
