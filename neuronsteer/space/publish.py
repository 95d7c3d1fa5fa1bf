"""A Hugging Face Space that shows a model and its set: its files, and putting them on the Hub."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..errors import HubError, ParameterError
from ..hub import hub_error
from ..neuron_set.card import hub_id
from .settings import DEMO, SpaceSettings

#: The version of Gradio that Spaces install; the page is tested with it.
GRADIO = "6.31.0"
_README = """\
---
title: {title}
emoji: 🧭
colorFrom: blue
colorTo: yellow
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
pinned: false
license: apache-2.0
short_description: Switch a model's language while it writes
{models}tags:
- neuronsteer
- steering
- multilingual
- interpretability
---

# {title}

Press a language while the model writes: the next token follows. The neurons that decide the
language were found by neuronsteer (`pip install neuronsteer`) and are switched while the text is
generated; beside it the same prompt runs unsteered, and with as many random neurons. A language
identifier, which does not know the requested language, tells the language of the text.

What is shown: model `{model}`, neuron set `{neurons}`.

## Settings

Variables of the Space (Settings → Variables):

| variable | meaning |
|---|---|
| `NEURONSTEER_SPACE_MODEL`, `NEURONSTEER_SPACE_SET` | Hub ids of the model and of its neuron set |
| `NEURONSTEER_SPACE_ALLOW` | what else visitors may load: ids or `owner/*`, with commas |
| `NEURONSTEER_SPACE_PUBLIC` | `0` lets visitors load anything |
| `NEURONSTEER_SPACE_MCP` | `1` offers tools to agents (MCP); needs `neuronsteer[mcp]` |
| `NEURONSTEER_SPACE_MAX_NEW_TOKENS`, `…_PROMPT_CHARACTERS`, `…_AT_ONCE`, `…_WAITING` | limits |

On ZeroGPU hardware a generation requests the graphics card by itself. A gated model needs a secret
`HF_TOKEN`. Locally: `pip install -r requirements.txt`, then `python app.py`.

## From a program

```python
from gradio_client import Client

client = Client("{space}")
job = client.submit("The old man looked out", "en,20:fr", pace=8, api_name="/generate")
for seen in job:
    print(seen["outputs"][0]["text"])
    if seen["tokens"] == 40:
        client.predict("-", api_name="/switch")  # no steering, from the next token on
print(client.predict(api_name="/neurons")["counts"])
```
"""
_APP = '''\
"""The Space: the page of neuronsteer. Variables of the Space override what is written here."""

from neuronsteer.space import from_environment

if __name__ == "__main__":
    from_environment(model={model}, neurons={neurons}{mcp})
'''


def requirement(mcp: bool = False) -> str:
    """Return the requirement that installs this version of the package with the page."""
    try:
        return f"neuronsteer[{'space,mcp' if mcp else 'space'}]=={version('neuronsteer')}"
    except PackageNotFoundError as error:
        raise ParameterError(
            "This is a source tree that was never installed, so it has no version for the Space. "
            "Install it, or say what the Space should install."
        ) from error


def space_files(
    model: str = DEMO,
    neurons: str = DEMO,
    *,
    title: str = "neuronsteer",
    package: str | None = None,
    repo_id: str = "owner/space",
    mcp: bool = False,
) -> dict[str, bytes]:
    """Return the files of a Space: `app.py`, `README.md`, `requirements.txt`.

    Args:
        model: Hub id of the model; `"demo"` is the embedded one.
        neurons: Hub id of its neuron set.
        title: Its title.
        package: What pip installs there; default: this version from PyPI.
        repo_id: Where it will be, for the example.
        mcp: Offer tools to agents.

    Raises:
        ParameterError: If model and set do not belong together, or are folders of this machine.
    """
    SpaceSettings(model=model, neurons=neurons)  # raises if only one of them is "demo"
    for name, what in ((model, "model"), (neurons, "neuron set")):
        if name.split("/")[0] != DEMO and not hub_id(name):
            raise ParameterError(
                f"The {what} {name!r} is not on the Hub, where the Space could load it. Push it "
                "first, and name it owner/name."
            )
    if not title.strip() or "\n" in title:
        raise ParameterError("A Space needs a title of one line.")
    spec = package or requirement(mcp)
    if "\n" in spec:
        raise ParameterError("The package is one line of a requirements file.")
    embedded = model == DEMO
    ids = [] if embedded else [model, neurons]
    readme = _README.format(
        # JSON strings are YAML strings, whatever is in them.
        title=title if title.replace(" ", "").isalnum() else json.dumps(title),
        gradio=GRADIO,
        models="models:\n" + "".join(f"- {each}\n" for each in ids) if ids else "",
        model=model,
        neurons=neurons,
        space=repo_id,
    )
    return {
        "README.md": readme.encode(),
        "app.py": _APP.format(
            model=json.dumps(model), neurons=json.dumps(neurons), mcp=", mcp=True" * mcp
        ).encode(),
        "requirements.txt": f"{spec}\n".encode(),
    }


def publish(
    repo_id: str,
    model: str = DEMO,
    neurons: str = DEMO,
    *,
    title: str | None = None,
    package: str | None = None,
    private: bool | None = None,
    mcp: bool = False,
    hardware: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Create the Space `repo_id`, or update it, as one commit; return its address.

    Only the three files are replaced. A README.md without the tag `neuronsteer` is somebody else's,
    and then nothing is changed.

    Args:
        repo_id: `owner/name`.
        model: Hub id of the model; `"demo"` is the embedded one.
        neurons: Hub id of its neuron set.
        title: Title of the Space; default: the name of the repository.
        package: What pip installs there; default: this version from PyPI.
        private: Make a new Space private.
        mcp: Offer tools to agents.
        hardware: What it runs on, e.g. `"zero-a10g"`; default: as it is.
        token: Hub token; default: the stored one.

    Raises:
        HubError: If it could not be made; a Space that was there is as it was.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    name = repo_id.rpartition("/")[2]
    files = space_files(
        model, neurons, title=title or name, package=package, repo_id=repo_id, mcp=mcp
    )
    api: Any = HfApi(token=token, library_name="neuronsteer")
    try:
        made = api.create_repo(
            repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True
        )
        info = api.repo_info(made.repo_id, repo_type="space")
        sdk = getattr(info, "sdk", None)
        if sdk not in (None, "gradio"):
            raise HubError(
                f"The Space {repo_id!r} exists and is a {sdk} Space; expected a Gradio one. "
                "Take another name."
            )
        card = getattr(info, "card_data", None)
        tags = (card.to_dict().get("tags") or []) if card is not None else []
        there = {each.rfilename for each in info.siblings or []}
        if "app.py" in there and "neuronsteer" not in tags:
            raise HubError(
                f"The Space {repo_id!r} exists and runs something else: its README.md has no tag "
                "'neuronsteer'. Nothing was changed. Take another name, or add the tag."
            )
        api.create_commit(
            made.repo_id,
            [CommitOperationAdd(path, data) for path, data in files.items()],
            commit_message=f"Show {neurons} on {model}",
            repo_type="space",
            parent_commit=info.sha,
        )
        if hardware is not None:
            api.request_space_hardware(made.repo_id, hardware)
    except Exception as error:
        raise hub_error(error, repo_id, writing=True) from error
    return f"{api.endpoint}/spaces/{made.repo_id}"
