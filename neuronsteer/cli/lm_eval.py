"""`neuronsteer lm-eval`: the command of lm-evaluation-harness, with steered models."""

from __future__ import annotations

import re

import typer

from .commands import command

_DEMO = re.compile(r"(?<![^,])(pretrained|neurons)=demo(?![^,])")


@command(
    "lm-eval",
    examples="""
    neuronsteer lm-eval run --model neuronsteer --model_args pretrained=ID,neurons=SET,to=fr --tasks xnli_fr
    neuronsteer lm-eval run --model neuronsteer --model_args pretrained=demo,neurons=demo,to=none --tasks T --include_path tasks/
    neuronsteer lm-eval ls tasks
    """,  # noqa: E501  # shell lines are shown as they are typed
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness with --model neuronsteer: any of its tasks on a steered model.

    All arguments are the harness's own. --model_args takes those of its hf model, and neurons=SET,
    to=LABEL, operation=, value=, strength=, away_from=A+B, site=.
    """
    from ..integrations.lm_eval import main

    main([_DEMO.sub(_folder, argument) for argument in context.args])


def _folder(found: re.Match[str]) -> str:
    from ..demo import model_folder, set_folder

    return f"{found[1]}={model_folder() if found[1] == 'pretrained' else set_folder()}"
