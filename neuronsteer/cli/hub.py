"""`neuronsteer push`, `pull` and `push-metrics`: to and from the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import console, options
from .commands import command
from .output import check_set_folder

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
    neurons: options.NeuronSet,
    repo: Repo,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it is new.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; made if needed.")] = None,
    message: Annotated[str | None, typer.Option(help="Title of the commit.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead of committing.")
    ] = False,
    subfolder: options.Subfolder = None,
    token: options.Token = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
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
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder to write; default: REPO's name."),
    ] = None,
    place: options.HubOptions,
    overwrite: options.Overwrite = False,
    peft: Annotated[
        bool, typer.Option("--peft", help="Also write the adapters that PEFT loads.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a neuron set into a folder, checked and complete.

    What was downloaded before is taken from the cache, also without a network.
    """
    from ..hub import commit_of, write_folder
    from ..neuron_set import NeuronSet
    from ..neuron_set.hub_repository import companion_files
    from ..neuron_set.hub_repository import pull as download

    name = (place.subfolder or repo).strip("/").rpartition("/")[2]
    folder = Path(name) if out is None else out
    check_set_folder(folder, overwrite)
    wanted = asdict(place)
    # The branch may move meanwhile; what people read belongs to the set that they get.
    wanted["revision"] = commit_of(download(repo, **wanted)) or place.revision
    rows = NeuronSet.from_pretrained(repo, **wanted)
    files = companion_files(repo, **wanted)
    rows.save_pretrained(folder, peft=peft)
    write_folder(folder, files)
    if as_json:
        console.dump({"folder": str(folder), **rows.summary()})
        return
    typer.echo(str(folder))
    console.note(repr(rows), quiet=quiet)


@command(
    "push-metrics",
    examples="""
    neuronsteer push-metrics user
    neuronsteer push-metrics user --metric lss --metric language_forcing --private
    python -c 'import evaluate; evaluate.load("user/lss")'
    """,
    resume="Every Space is as it was before, or has all of its files; push again to be sure.",
)
def push_metrics(
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="User or organisation.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Only this metric; repeatable."),
    ] = None,
    prefix: Annotated[
        str, typer.Option(help="Put before the names of the Spaces, e.g. 'language-'.")
    ] = "",
    private: Annotated[bool, typer.Option("--private", help="Make new Spaces private.")] = False,
    token: options.Token = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Publish the metrics as Spaces on the Hugging Face Hub, one per metric.

    evaluate.load("OWNER/NAME") then finds them. A Space that holds something else is refused.
    """
    from ..evaluation.metrics.metric_spaces import push

    done = push(owner, metrics or [], private=private or None, prefix=prefix, token=token)
    if as_json:
        console.dump(done)
        return
    for url in done.values():
        typer.echo(url)
    first = next(iter(done))
    console.note(f'Load one with: evaluate.load("{owner}/{prefix}{first}")', quiet=quiet)
