"""`neuronsteer space`: a Hugging Face Space on which others can play with a model and its set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ParameterError
from . import console, options
from .commands import command


@command(
    "space",
    examples="""
    neuronsteer space user/watch-it-switch
    neuronsteer space user/watch-it-switch --model Qwen/Qwen3-0.6B --set user/qwen3-language-neurons
    neuronsteer space user/watch-it-switch -o spaces_app
    """,
    resume="The Space is as it was before, or has all of its files; run it again to be sure.",
)
def space(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="The Space: owner/name.")],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Hub id of the model; then --set is needed, too.")
    ] = "demo",
    neurons: Annotated[
        str, typer.Option("--set", metavar="SET", help="Hub id of the model's neuron set.")
    ] = "demo",
    title: Annotated[
        str | None, typer.Option(help="Title of the Space; default: the name of REPO.")
    ] = None,
    package: Annotated[
        str | None,
        typer.Option(
            help="What pip installs there, if not this version from the index: for example "
            "'neuronsteer[space] @ https://…/neuronsteer-0.1.0-py3-none-any.whl'."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the Space private if it is new.")
    ] = False,
    hardware: Annotated[
        str | None, typer.Option(help="What it runs on, e.g. cpu-basic, t4-small, zero-a10g.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Write the files there, upload nothing."),
    ] = None,
    overwrite: options.Overwrite = False,
    token: options.Token = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Create a Hugging Face Space with the page of `neuronsteer demo --ui`, or update it.

    The Space shows one model and its set to everybody; what else visitors may load is a setting.
    """
    from ..space.publish import publish, space_files

    if out is not None:
        if private or hardware or token:
            raise ParameterError(
                "--out writes files only: --private, --hardware and --token do not apply."
            )
        from ..hub import check_output, write_folder

        check_output(
            out, "a Space", lambda folder: (folder / "app.py").is_file(), overwrite=overwrite
        )
        name = title or repo.rpartition("/")[2]
        files = space_files(model, neurons, title=name, package=package, repo_id=repo)
        write_folder(out, files)
        if as_json:
            console.dump({"folder": str(out), "files": sorted(files)})
        else:
            typer.echo(str(out))
            console.note("Try it: python app.py, in that folder.", quiet=quiet)
        return
    url = publish(
        repo,
        model,
        neurons,
        title=title,
        package=package,
        private=private or None,
        hardware=hardware,
        token=token,
    )
    if as_json:
        console.dump({"url": url})
    else:
        typer.echo(url)
        console.note("The Space is being built; that takes some minutes.", quiet=quiet)
