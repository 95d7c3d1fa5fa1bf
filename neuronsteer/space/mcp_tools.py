"""Tools for agents, by the Model Context Protocol: generate, switch, languages.

Gradio serves them below `/gradio_api/mcp/`. They give JSON as text, and less than the endpoints of
the page: what an agent reads costs it tokens.
"""

from __future__ import annotations

import json
import secrets
import typing
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from .request import GenerationRequest
from .service import Service

#: Attributes of functions that Gradio is not to list as tools.
NOT_A_TOOL = {"_mcp_type": "endpoint"}


def add_tools(
    app: Any, service: Service, errors_shown: Callable[[], AbstractContextManager[None]]
) -> None:
    """Register the tools with a `gradio.Server`; their docstrings are what an agent reads.

    Gradio takes one line for each argument.
    """

    def generate(
        prompt: str,
        schedule: str = "-",
        max_new_tokens: int = 80,
        temperature: float = 0.6,
        seed: int = 1,
        keep: str = "",
        session: str = "",
    ) -> str:
        """Continue a text with a language model whose language neurons are steered.

        A schedule is a language ("fr"), or several and the generated token at which each takes over
        ("en,24:fr,64:ja"), or one at the end of a sentence ("en,sentence:fr"), or "-" for none. The
        text follows a few tokens after a switch. Returns JSON: the whole text, its spans with the
        language asked for and the one that an identifier detected, the schedule that was followed,
        and what was done to keep the text in a language.

        Args:
            prompt: The text to continue; it is no instruction.
            schedule: Which language is steered to, and from which token on, e.g. "en,24:fr,64:ja".
            max_new_tokens: How many tokens to generate.
            temperature: For sampling; 0 takes the likeliest token.
            seed: The same seed gives the same text.
            keep: Code of a language that the text is kept in, e.g. "ko"; nothing for none.
            session: A name of your choice, by which the tool switch finds this text while it runs.
        """
        request = GenerationRequest(
            prompt=prompt,
            schedule=schedule,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            keep=keep,
            controls=False,
            full_length=False,
        )
        last: dict[str, Any] = {}
        name = session or secrets.token_urlsafe(12)
        with errors_shown():
            for snapshot in service.generate(request, session=name):
                last = snapshot
        steered = last["outputs"][0]
        spans = [
            {
                "asked_for": span["label"],
                "detected": span["detected"],
                "text": steered["text"][span["start"] : span["end"]],
            }
            for span in steered["spans"]
        ]
        kept = {key: last[key] for key in ("state", "tokens", "schedule", "note", "interventions")}
        return _json({"text": steered["text"], "spans": spans, **kept})

    def switch(language: str, session: str) -> str:
        """Make a text that is being generated go on in another language, from its next token on.

        Returns JSON that says whether there was such a text.

        Args:
            language: A label that the tool languages lists, or "-" for no steering.
            session: The name that was given to generate.
        """
        with errors_shown():
            return _json(service.switch(language, session))

    def languages() -> str:
        """List the languages that the model can be steered to, and say which model it is.

        Returns JSON: the labels, the model, what kind of model it is, and the neuron set.
        """
        with errors_shown():
            facts = service.neurons()
        return _json({key: facts[key] for key in ("labels", "model", "kind", "parameters", "set")})

    queued = {
        "concurrency_limit": service.settings.at_once,
        # The same queue as that of the endpoint: they share one machine.
        "concurrency_id": "generate",
    }
    for call, limits in ((generate, queued), (switch, {"queue": False}), (languages, {})):
        # Annotations are text in this file, and Gradio reads types.
        call.__annotations__ = typing.get_type_hints(call)
        app.api(call, name=f"mcp_{call.__name__}", **limits)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
