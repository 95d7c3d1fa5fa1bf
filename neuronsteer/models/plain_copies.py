"""Copies of an attached model are plain models, without what steering put on its modules.

`copy.deepcopy`, `pickle` and `torch.save` ask an object for its state. While steering has put
something on a module, that state leaves it out: the copy computes with its own weights, has no
steerer, and can be attached itself.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, TypeVar, cast

from torch import nn

T = TypeVar("T")

_ASKED = "__getstate__"
_OURS = "_put_there_by_neuronsteer"
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_ABOUT_HOOKS = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
_NOTHING: Any = object()

#: Locked while steering puts something on a module or removes it.
changing_modules = threading.RLock()


def ours(value: T, instead: Any = _NOTHING) -> T:
    """Mark a hook, or what is about to become an attribute of a module, as left out of copies.

    Args:
        value: What is put on a module.
        instead: What a copy has in its place; default: nothing.
    """
    cast(Any, value).__dict__[_OURS] = instead
    return value


def keep_copies_plain(module: nn.Module) -> None:
    """Leave what is marked out of copies of `module`, from now on."""
    with changing_modules:
        module.__dict__.setdefault(_ASKED, _PlainState(module))


def release(module: nn.Module) -> None:
    """Let `module` be copied as before, if nothing marked is left on it."""
    with changing_modules:
        if not isinstance(module.__dict__.get(_ASKED), _PlainState):
            return
        on_it = [hook for name in _HOOKS for hook in list(module.__dict__[name].values())]
        values = [value for name, value in list(module.__dict__.items()) if name != _ASKED]
        if not any(_is_ours(each) for each in (*on_it, *values)):
            module.__dict__.pop(_ASKED, None)


class _PlainState:
    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)

    def __call__(self) -> Any:
        module = self._module()
        own = getattr(type(module), _ASKED, None)
        default = own is None or own is getattr(object, _ASKED, None)
        with changing_modules:
            state = vars(module) if default else cast(Any, own)(module)
            return _without_ours(dict(state)) if isinstance(state, dict) else state


def _without_ours(state: dict[str, Any]) -> dict[str, Any]:
    del state[_ASKED]
    for name, value in list(state.items()):
        if _is_ours(value):
            instead = value.__dict__[_OURS]
            if instead is _NOTHING:
                del state[name]
            else:
                state[name] = instead
    for name in _HOOKS:
        mine = {key for key, hook in state[name].items() if _is_ours(hook)}
        for each in (name, *_ABOUT_HOOKS):
            kept = {key: value for key, value in state[each].items() if key not in mine}
            state[each] = type(state[each])(kept)
    return state


def _is_ours(value: Any) -> bool:
    return _OURS in getattr(value, "__dict__", ())
