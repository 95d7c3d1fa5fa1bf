"""`neuronsteer serve`: vLLM's own OpenAI server, with neuron sets, or kept in a language."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ParameterError, require
from . import options
from .commands import command
from .models import DEMO, model_path

# `vllm serve` is the same program, but builds of vLLM under another name do not have it.
_SERVER = ("-m", "vllm.entrypoints.openai.api_server")
_PLUGIN, _ROUTES = "neuronsteer", "neuronsteer-sets"
_ALLOWED = "VLLM_PLUGINS"


@command(
    "serve",
    examples="""
    neuronsteer serve demo demo --dtype float32
    neuronsteer serve MODEL SET --default fr --port 8001 --max-model-len 4096
    neuronsteer serve MODEL chat=user/set@v2 code=./other-set --manage
    neuronsteer serve MODEL --keep ko
    """,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(
    model: options.Model,
    sets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SET…] [VLLM OPTIONS]",
            help="Folders or Hub ids of neuron sets, each as \\[NAME=]SET\\[@REVISION]; none with "
            "--keep alone. From the first unknown option on, everything goes to vLLM.",
        ),
    ] = None,
    default: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEDULE", help="What requests get that do not say: a label or a schedule."
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="What is left, where an operation adds a difference of means: a label (repeat for "
            "several) or 'others'; for requests that do not say. A server cannot read it off the "
            "prompt. After a switch it is the label before.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE",
            help="Keep the text of requests that do not say in this language, as far as scripts "
            "tell: a code, or a schedule of codes ('en,24:ko'). Needs no SET.",
        ),
    ] = None,
    thinking: Annotated[
        str | None,
        typer.Option(
            metavar="LANGUAGE",
            help="With --keep, for reasoning models: keep their thoughts in this language. "
            "Otherwise thoughts are left alone.",
        ),
    ] = None,
    capacity: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many labels, or pairs of a label and what it leaves, fit at once; default: "
            "64, or one per label of SETs.",
        ),
    ] = None,
    manage: Annotated[
        bool,
        typer.Option(
            "--manage", help="Let HTTP requests add and remove sets (/v1/neuronsteer/sets)."
        ),
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Only print the vLLM command that would be run.")
    ] = False,
) -> None:
    r"""Serve a model over HTTP, every request in a language of its own.

    A request says what it wants in vllm_xargs, as a label or a schedule:
    {"neuronsteer": "en,24:fr,64:ja"}, and what is left, if it matters, as
    {"neuronsteer": "fr", "neuronsteer_source": "en"}. {"neuronsteer_keep": "ko"} keeps its text in
    a language. Needs vLLM: pip install 'neuronsteer\[vllm]'.
    """
    sets = sets or []
    cut = next((i for i, text in enumerate(sets) if text.startswith("-")), len(sets))
    named, passed = sets[:cut], [text for text in sets[cut:] if text != "--"]
    if thinking is not None and keep is None:
        raise ParameterError(
            "--thinking says what thoughts are kept in beside --keep; add --keep LANGUAGE, or "
            "--keep - to leave answers alone."
        )
    if not named and keep is None:
        raise ParameterError(
            "Name at least one neuron set: neuronsteer serve MODEL SET; or a language to keep: "
            "neuronsteer serve MODEL --keep LANGUAGE."
        )
    if not named and (manage or default is not None or source or capacity is not None):
        raise ParameterError(
            "--default, --source, --capacity and --manage are about neuron sets, and none is "
            "named: neuronsteer serve MODEL SET."
        )
    kept = None if keep is None else {"language": keep, "thinking": thinking}
    block = _block(named, default, source or [], capacity, kept)
    path = model_path(model)
    wanted = [sys.executable, *_SERVER, "--model", path, "--additional-config", json.dumps(block)]
    if model == DEMO and not any(text.startswith("--served-model-name") for text in passed):
        wanted += ["--served-model-name", DEMO]
    if any(text.split("=")[0] == "--additional-config" for text in passed):
        raise ParameterError(
            "--additional-config passes the neuron sets to vLLM, so it cannot be given "
            "as well. Start vLLM yourself; --show prints what this command would pass."
        )
    wanted += passed
    plugins = _plugins(manage)
    if show:
        prefix = "" if plugins is None else f"{_ALLOWED}={shlex.quote(plugins)} "
        typer.echo(prefix + shlex.join(["python", *wanted[1:]]))
        return
    require("vllm", "vllm", "neuronsteer serve")
    if plugins is not None:
        os.environ[_ALLOWED] = plugins
    # The server takes this process over: signals and the exit code are its own.
    os.execv(sys.executable, wanted)


def _block(
    named: list[str],
    default: str | None,
    source: list[str],
    capacity: int | None,
    kept: dict[str, str | None] | None,
) -> dict[str, Any]:
    """Return vLLM's `additional_config`, after loading every set to see that it can be served."""
    from ..integrations.vllm.served_sets import ServedSets
    from ..integrations.vllm.settings import CAPACITY, KEY, ServeSettings

    sets = [_source(text) for text in named]
    block: dict[str, Any] = {"sets": sets}
    if default is not None:
        block["default"] = default
    if source:
        block["source"] = source
    if kept is not None:
        block["keep"] = kept
    # Whether they fit the model is checked by vLLM, which loads it.
    found = ServedSets(ServeSettings.read({**block, "capacity": capacity or sys.maxsize}))
    rows = found.describe()["used"]
    return {
        KEY: ServeSettings.read({**block, "capacity": capacity or max(CAPACITY, rows)}).to_dict()
    }


def _source(text: str) -> dict[str, str]:
    """Return the set written as `[NAME=]SET[@REVISION]`."""
    name, equals, rest = text.partition("=")
    given, at, revision = (rest if equals else text).partition("@")
    fields = {"source": given}
    if equals:
        fields["name"] = name
    if at:
        fields["revision"] = revision
    if given == DEMO:
        from ..demo import set_folder

        fields |= {"source": str(set_folder()), "name": fields.get("name", DEMO)}
    elif (folder := Path(given).expanduser()).is_dir():
        # vLLM's processes may be started elsewhere.
        fields["source"] = str(folder.resolve())
    return fields


def _plugins(manage: bool) -> str | None:
    """Return what `VLLM_PLUGINS` has to be, `None` if it can stay as it is.

    Where it is set, it names the plugins that are loaded and no others are. So if it has to be set
    for the routes, it must name everything that would be loaded without it.
    """
    allowed = os.environ.get(_ALLOWED)
    if allowed is None:
        if not manage:
            return None
        general = importlib.metadata.entry_points(group="vllm.general_plugins")
        names = [entry.name for entry in general]
    else:
        names = [name for name in allowed.split(",") if name]
    wanted = [_PLUGIN, _ROUTES] if manage else [_PLUGIN]
    return ",".join(dict.fromkeys([*names, *wanted]))
