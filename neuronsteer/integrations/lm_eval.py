r"""Any task of lm-evaluation-harness on a steered model.

The harness has no entry points: it finds a model class only after something imported it. So its
command is started from here, with the same arguments::

    neuronsteer lm-eval run --model neuronsteer \
        --model_args pretrained=ID,neurons=SET,to=fr --tasks xnli_fr

`python -m neuronsteer.integrations.lm_eval` does the same, and `register()` before
`lm_eval.simple_evaluate(model="neuronsteer", …)`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ..errors import ParameterError, require
from ..neuron_set import NeuronSet
from ..operations import chosen_operation
from ..steering.steerer import attach

NAME = "neuronsteer"
_WHY = "Running tasks of lm-evaluation-harness"
#: What stands for the unsteered model, so that both are called alike.
_OFF = ("", "-", "none", "None")


def register() -> type[Any]:
    """Make `--model neuronsteer` known to the harness, and return the class; twice is fine.

    Raises:
        MissingExtraError: If lm-eval is not installed.
    """
    registry: Any = require("lm_eval.api.registry", "eval", _WHY)
    # The harness's own models come first: it registers them only while there are none.
    require("lm_eval.models", "eval", _WHY)
    if NAME in registry.MODEL_REGISTRY:
        found: type[Any] = registry.get_model(NAME)
        return found
    made = _make()
    registry.register_model(NAME)(made)
    return made


def _make() -> type[Any]:
    base: Any = require("lm_eval.models.huggingface", "eval", _WHY).HFLM

    class NeuronSteerLM(base):
        """The harness's Hugging Face model, steered; every argument of that is taken, too."""

        def __init__(
            self,
            pretrained: Any,
            neurons: str | NeuronSet,
            to: str | None = None,
            operation: str | None = None,
            value: str | float | None = None,
            strength: float = 1.0,
            away_from: str | None = None,
            source: str | None = None,
            site: str | None = None,
            **kwargs: Any,
        ) -> None:
            """Load the model and steer it.

            Args:
                pretrained: As the harness takes it.
                neurons: Folder or Hub id of the neuron set.
                to: A label, or `none`.
                operation: `zero`, `scale`, `set` or `add`; default: what the set says.
                value: What is set or added, or the factor of `scale`.
                strength: How much of it.
                away_from: Labels that are taken away, joined by `+`.
                source: What is left, as in `steer.to`: labels joined by `+`.
                site: Where the operation acts.
                **kwargs: Of the harness's `hf` model.
            """
            super().__init__(pretrained=pretrained, **kwargs)
            # Named like the harness's other state; the model itself may be wrapped.
            found = (
                neurons if isinstance(neurons, NeuronSet) else NeuronSet.from_pretrained(neurons)
            )
            self.neuronsteer_set = found
            self.neuronsteer = attach(self.model, found, tokenizer=self.tokenizer)
            target = None if to is None or str(to) in _OFF else str(to)
            sources = [part for part in (away_from or "").split("+") if part]
            chosen = chosen_operation(found.operation, operation, value, site)
            if target is None and chosen is not None and not sources:
                raise ParameterError("The arguments name an operation but no label: add to=LABEL.")
            left = [part for part in (source or "").split("+") if part]
            self.neuronsteer.to(
                target, chosen, float(strength), sources or None, source=left or None
            )

        def get_model_info(self) -> dict[str, Any]:
            """Return what the harness records about the model, and the steering with it."""
            info: dict[str, Any] = super().get_model_info()
            return {
                **info,
                "neuronsteer_set": self.neuronsteer_set.fingerprint,
                "neuronsteer_schedule": str(self.neuronsteer.schedule),
            }

    return NeuronSteerLM


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the harness's command line with `--model neuronsteer` known.

    Args:
        arguments: Its arguments; default: those of this process.
    """
    register()
    command: Any = require("lm_eval.__main__", "eval", _WHY)
    before = sys.argv
    sys.argv = ["lm_eval", *(before[1:] if arguments is None else arguments)]
    try:
        command.cli_evaluate()
    finally:
        sys.argv = before


if __name__ == "__main__":
    main()
