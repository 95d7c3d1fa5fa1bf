"""`neuronsteer push` and `neuronsteer pull`: sets to and from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import HubError
from . import commands, console
from .commands import command

Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Subfolder = Annotated[
    str | None, typer.Option(help="Folder inside the repository, if it holds several sets.")
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Access token. Better run `hf auth login` or set HF_TOKEN: other users of this "
        "machine can read command lines.",
        show_default=False,
    ),
]
Repo = Annotated[str, typer.Argument(metavar="REPO", help="Hub repository: owner/name.")]


@command(
    "push",
    examples="""
    neuronsteer push neurons user/model-language-neurons
    neuronsteer push neurons user/model-language-neurons --private --subfolder lape
    neuronsteer push neurons other/model-language-neurons --create-pr
    """,
    resume="The repository is as it was before, or has the whole set; push again to be sure.",
)
def push(
    neurons: commands.NeuronSet,
    repo: Repo,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it is new.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; made if needed.")] = None,
    message: Annotated[str | None, typer.Option(help="Title of the commit.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")
    ] = False,
    subfolder: Subfolder = None,
    token: Token = None,
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Publish a neuron set on the Hugging Face Hub, with a card, as one commit.

    A set that is there is replaced; a README.md that you wrote yourself stays as it is.
    """
    from .models import load_set

    made = load_set(neurons).push_to_hub(
        repo,
        private=private or None,
        revision=revision,
        commit_message=message,
        create_pr=create_pr,
        subfolder=subfolder,
        token=token,
    )
    url = str(made.pr_url or made.commit_url)
    if as_json:
        console.dump({"url": url})
        return
    typer.echo(url)
    console.note(f"Load it with: neuronsteer show {repo}", quiet=quiet or create_pr)


@command(
    "pull",
    examples="""
    neuronsteer pull user/model-language-neurons
    neuronsteer pull user/model-language-neurons --subfolder lape -o neurons
    """,
    resume="Nothing was written.",
)
def pull(
    repo: Repo,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write; default: REPO's name."),
    ] = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
    token: Token = None,
    peft: Annotated[
        bool, typer.Option("--peft", help="Also write the adapters that PEFT loads.")
    ] = False,
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Download a neuron set into a folder, checked and complete.

    What was downloaded before is taken from the cache, also without a network.
    """
    from ..neuron_set import NeuronSet
    from ..neuron_set.hub_repository import companion_files

    name = (subfolder or repo).strip("/").rpartition("/")[2]
    folder = Path(name) if out is None else out
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "neurons.safetensors").exists():
        raise HubError(
            f"The folder {str(folder)!r} holds something else than a neuron set, which would get "
            "mixed up with it. Choose another one with --out."
        )
    rows = NeuronSet.from_pretrained(repo, revision=revision, subfolder=subfolder, token=token)
    files = companion_files(repo, revision=revision, subfolder=subfolder, token=token)
    rows.save_pretrained(folder, peft=peft)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    if as_json:
        console.dump({"folder": str(folder), **rows.summary()})
        return
    typer.echo(str(folder))
    console.note(repr(rows), quiet=quiet)
