"""What mkdocs does beyond its configuration; named in mkdocs.yml under `hooks`.

The pages are written for GitHub first: links go to files of the repository. CONTRIBUTING.md, which
lies outside of docs/, becomes a page of the site, and links are changed to fit. In the end every
page is searched for what it would load from elsewhere: the site has to work without a network.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Documents outside of docs/ -> their page.
OUTSIDE = {"CONTRIBUTING.md": "contributing.md"}
#: A tag that makes a browser fetch something; `href` of a plain link does not.
_LOADS = re.compile(
    r"<(?:script|img|iframe|source|video|audio|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
    r"|url\([\"']?((?:https?:)?//[^\"')\s]+)"
)


def on_files(files: Files, config: Any) -> Files:
    """Return the files of the site, with the documents from outside of docs/."""
    for name, page in OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with links to documents outside of docs/ leading to their pages."""
    for name, page in OUTSIDE.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return markdown


def on_post_build(config: Any) -> None:
    """Raise if a page loads something from elsewhere."""
    for file in sorted(Path(config["site_dir"]).rglob("*")):
        if file.suffix in (".html", ".css"):
            found = _LOADS.search(file.read_text(encoding="utf-8"))
            # The address of a page itself is no resource.
            if found and 'rel="canonical"' not in found[0]:
                raise PluginError(
                    f"{file.name} loads {found[1] or found[2]}. The site has to work without a "
                    "network: put the file into docs/, or leave it out."
                )
