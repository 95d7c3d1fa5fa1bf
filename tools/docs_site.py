"""What mkdocs does beyond its configuration; named in mkdocs.yml under `hooks`.

The pages are written for GitHub first: links go to files of the repository. CONTRIBUTING.md, which
lies outside of docs/, becomes a page of the site, as do the notebooks; links are changed to fit.
In the end every page is searched for what it would load from elsewhere: the site has to work
without a network.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Documents outside of docs/ -> their page.
OUTSIDE = {"CONTRIBUTING.md": "contributing.md"}
NOTEBOOKS = "examples/notebooks"
#: A tag that makes a browser fetch something; `href` of a plain link does not.
_LOADS = re.compile(
    r"<(?:script|img|iframe|source|video|audio|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|url\([\"']?((?:https?:)?//[^\"')\s]+)"
)


def on_files(files: Any, config: Any) -> Any:
    """Return the files of the site, with the documents from outside of docs/."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / NOTEBOOKS).glob("*.ipynb")):
        page = notebook_page(path, repository())
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page))
    for name, page in OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with links to documents outside of docs/ leading to their pages."""
    for name, page in OUTSIDE.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return re.sub(rf"\]\(\.\./{NOTEBOOKS}/(\w+)\.ipynb", r"](notebooks/\1.md", markdown)


def repository(project: Path = ROOT / "pyproject.toml") -> str | None:
    """Return the public address of the repository, `None` as long as there is none."""
    found = re.search(r'^Repository = "(.+)"$', project.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else None


def notebook_page(path: Path, address: str | None = None) -> str:
    """Return a notebook as a page of the site.

    Args:
        path: The notebook.
        address: Where the repository is on GitHub, from which Colab opens notebooks; without it
            there is no link.
    """
    parts: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    place = f"{NOTEBOOKS}/{path.name}"
    told = f"*This page is the notebook `{place}` of the repository; its cells run in order.*"
    github = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)/?", address or "")
    if github:
        colab = f"https://colab.research.google.com/github/{github[1]}/blob/main/{place}"
        told += f" [Open it in Colab]({colab})."
    # The heading stays first.
    parts.insert(1, told)
    page = "\n\n".join(parts) + "\n"
    page = page.replace("](../../docs/", "](../")
    return re.sub(r"\]\((\w+)\.ipynb", r"](\1.md", page)


def on_post_build(config: Any) -> None:
    """Raise if a page loads something from elsewhere."""
    from mkdocs.exceptions import PluginError

    for file in sorted(Path(config["site_dir"]).rglob("*")):
        if file.suffix in (".html", ".css"):
            found = _LOADS.search(file.read_text(encoding="utf-8"))
            # The address of a page itself is no resource.
            if found and 'rel="canonical"' not in found[0]:
                raise PluginError(
                    f"{file.name} loads {found[1] or found[2]}. The site has to work without a "
                    "network: put the file into docs/, or leave it out."
                )
