"""Registration with PEFT: a new member of its closed enum, then its public function."""

from __future__ import annotations

from typing import Any

import peft.mapping
from peft.utils import PeftType, register_peft_method

from ...errors import ParameterError
from ...neuron_set.peft_files import PREFIX
from ...neuron_set.storage import PEFT_TYPE


def peft_type() -> PeftType:
    """Return `PeftType.NEURONSTEER`, adding it to the enum the first time.

    `register_peft_method` only accepts members of the enum, and Python does not let an enum with
    members be subclassed, so the member is built the way `enum` itself builds one.
    """
    known = PeftType.__members__.get(PEFT_TYPE)
    if known is not None:
        return known
    enum: Any = PeftType
    member: Any = str.__new__(enum, PEFT_TYPE)
    member._name_ = member._value_ = PEFT_TYPE
    member.__objclass__ = enum
    member._sort_order_ = len(enum._member_names_)
    type.__setattr__(enum, PEFT_TYPE, member)
    enum._member_names_.append(PEFT_TYPE)
    enum._member_map_[PEFT_TYPE] = member
    enum._value2member_map_[PEFT_TYPE] = member
    return member


def register(config: type, model: type) -> None:
    """Tell PEFT about the method; doing so again changes nothing.

    Raises:
        ParameterError: If another library has taken the name.
    """
    known: Any = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type())
    if known is None:
        register_peft_method(
            name=PEFT_TYPE.lower(), config_cls=config, model_cls=model, prefix=PREFIX
        )
    elif (known.__module__, known.__qualname__) != (config.__module__, config.__qualname__):
        raise ParameterError(
            f"The PEFT method {PEFT_TYPE} is registered already by {known.__module__}; neuron sets "
            "cannot be loaded through PEFT in this process. Uninstall one of the two packages."
        )
