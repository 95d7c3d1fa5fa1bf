"""Which tokens count: every paper decides differently, so it is explicit and recorded."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import ParameterError, did_you_mean


@dataclass(frozen=True)
class TokenPolicy:
    """Which tokens of a text are read and which of them count.

    Attributes:
        add_special_tokens: Let the tokenizer add its special tokens (usually a BOS) to each text.
        skip_bos: BOS tokens are read but do not count. They hold outliers that say nothing about
            a language.
        skip_first: The first n tokens of each text (of each block when packed) do not count
            either; a BOS is not among the n.
        max_length: Longer texts are cut to this many tokens. `None`: per text 1024 or the model's
            context, whichever is shorter; no cut when packed.
        block_size: Put texts end to end and cut the stream into blocks of this many tokens, as the
            LAPE paper does. `None`: every text is read on its own.
        response_only: Only the tokens of the responses count; texts must be pairs.
        max_tokens: Stop a label after exactly this many counted tokens.
        max_texts: Stop a label after this many texts.
        sample: Share of the texts that is read, drawn by `seed` without looking at the text.
        seed: Seed of the draw.
    """

    add_special_tokens: bool = True
    skip_bos: bool = True
    skip_first: int = 0
    max_length: int | None = None
    block_size: int | None = None
    response_only: bool = False
    max_tokens: int | None = None
    max_texts: int | None = None
    sample: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("add_special_tokens", "skip_bos", "response_only"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"{name}={getattr(self, name)!r}; expected True or False.")
        for name, least in (
            ("skip_first", 0),
            ("max_length", 1),
            ("block_size", 2),
            ("max_tokens", 1),
            ("max_texts", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            optional = name not in ("skip_first", "seed")
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ParameterError(f"{name}={value!r}; expected a whole number from {least}.")
        share = self.sample
        if share is not None and not (0 < float(share) <= 1 and math.isfinite(share)):
            raise ParameterError(f"sample={share!r}; expected a share above 0, up to 1.")
        row = self.block_size or self.max_length
        if row is not None and self.skip_first >= row:
            raise ParameterError(
                f"skip_first={self.skip_first} leaves nothing of rows of {row} tokens to count."
            )

    @property
    def packed(self) -> bool:
        """Whether texts are put end to end."""
        return self.block_size is not None

    def resolved(self, context: int | None) -> TokenPolicy:
        """Return the policy with the cut made explicit.

        Args:
            context: Longest sequence that the model takes, if it is known.

        Raises:
            ParameterError: If rows would be longer than the model's context.
        """
        for name in ("block_size", "max_length"):
            value = getattr(self, name)
            longer = value is not None and context is not None and value > context
            if longer and not (name == "max_length" and self.packed):
                raise ParameterError(
                    f"{name}={value} exceeds the model's context of {context} tokens."
                )
        if self.packed or self.max_length is not None:
            return self
        return dataclasses.replace(self, max_length=min(1024, context or 1024))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-plain."""
        return dataclasses.asdict(self)


def make_policy(
    policy: TokenPolicy | dict[str, Any] | None, options: dict[str, Any]
) -> TokenPolicy:
    """Return a policy from an object, keyword arguments, or both.

    Raises:
        ParameterError: If an option does not exist or is out of range.
    """
    known = [field.name for field in dataclasses.fields(TokenPolicy)]
    given = dict(policy) if isinstance(policy, dict) else {}
    given.update(options)
    for name in given:
        if name not in known:
            raise ParameterError(
                f"Unknown option {name!r}.{did_you_mean(name, known)} A token policy has "
                f"{', '.join(known)}."
            )
    if isinstance(policy, TokenPolicy):
        return dataclasses.replace(policy, **given)
    return TokenPolicy(**given)
