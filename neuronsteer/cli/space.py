"""`neuronsteer space`: the page for a model and its set, here or as a Hugging Face Space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ParameterError
from . import console, options
from .commands import command
from .page import LOCAL, NoBrowser, PageHost, PagePlace, PagePort, serve_page


@command(
    "space",
    examples="""
    neuronsteer space
    neuronsteer space --model Qwen/Qwen3-0.6B --set user/qwen3-language-neurons --port 8000
    neuronsteer space --mcp --no-browser
    neuronsteer space user/watch-it-switch
    neuronsteer space user/watch-it-switch --model Qwen/Qwen3-0.6B --set user/qwen3-language-neurons
    neuronsteer space user/watch-it-switch -o spaces_app
    """,
    resume="The Space is as it was before, or has all of its files; run it again to be sure.",
)
def space(
    repo: Annotated[
        str | None,
        typer.Argument(
            metavar="[REPO]",
            help="The Space: owner/name; without it, the page is served here.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The model, for a Space by its Hub id; then --set is needed, too.",
        ),
    ] = "demo",
    neurons: Annotated[
        str, typer.Option("--set", metavar="SET", help="The model's neuron set, likewise.")
    ] = "demo",
    mcp: Annotated[
        bool,
        typer.Option("--mcp", help="Also offer tools to agents, by MCP (extra: mcp)."),
    ] = False,
    host: PageHost = LOCAL,
    port: PagePort = None,
    no_browser: NoBrowser = False,
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
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    token: options.Token = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Serve the page of `neuronsteer demo --ui` for a model, or make it a Hugging Face Space.

    With REPO the Space is created, or updated. It shows one model and its set to everybody; what
    else visitors may load is a setting.
    """
    if repo is None:
        if out is not None or private or hardware or token or title or package or as_json:
            raise ParameterError(
                "--out, --private, --hardware, --token, --title, --package and --json are about a "
                "Space of the Hub: name it, as owner/name."
            )
        place = PagePlace(host=host, port=port, no_browser=no_browser, mcp=mcp)
        serve_page(model, neurons, place, device=device, quiet=quiet)
        return
    if host != LOCAL or port is not None or no_browser or device != "auto":
        raise ParameterError(
            "--host, --port, --no-browser and --device are about a page that this machine serves: "
            "leave the name of the Space out."
        )
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
        files = space_files(model, neurons, title=name, package=package, repo_id=repo, mcp=mcp)
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
        mcp=mcp,
        private=private or None,
        hardware=hardware,
        token=token,
    )
    if as_json:
        console.dump({"url": url})
    else:
        typer.echo(url)
        console.note("The Space is being built; that takes some minutes.", quiet=quiet)
