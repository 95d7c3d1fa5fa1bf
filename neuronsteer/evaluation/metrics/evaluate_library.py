"""The metrics for users of the `evaluate` library: a folder per metric, and what it calls.

`evaluate.load` wants a folder `<name>/<name>.py` with a class derived from its own. `files` returns
such a folder: a few lines that call `describe` and `compute` here. `metric_spaces.py` pushes the
folders to the Hub, and `python tools/metric_spaces.py FOLDER` writes them to disk.
"""

from __future__ import annotations

import dataclasses
import html
import inspect
from collections.abc import Mapping
from typing import Any

from ...errors import ParameterError, did_you_mean
from . import METRICS, Metric

_TYPES = {"string": "string", "float": "float64", "int": "int64"}

_SCRIPT = '''\
"""{title}, written by neuronsteer: do not edit."""

from typing import Any

import datasets
import evaluate

from neuronsteer.evaluation.metrics.evaluate_library import compute, describe


class {name}(evaluate.Metric):
    """{title}."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            **describe("{metric}"),
            features=[
{features}
            ],
        )

    def _compute(self, **columns: Any) -> dict[str, Any]:
        return compute("{metric}", columns)
'''

_FEATURES = """\
                datasets.Features(
                    {{
{columns}
                    }}
                ),"""

_README = """\
---
title: {title}
colorFrom: indigo
colorTo: gray
sdk: static
app_file: index.html
pinned: false
license: apache-2.0
tags:
- evaluate
- metric
- neuronsteer
description: >-
  {summary}
---

# {title}

{definition}

## Use

```python
import evaluate

metric = evaluate.load("{metric}")  # a path to this folder, or the id of its Space
metric.compute({call})
```

It needs `pip install 'neuronsteer[eval,langid]'`. Every value is in the returned dictionary by its
name, with `intervals`, `details` and `settings` beside it. Parameters are keyword arguments of
`compute`, and so are the columns that may be left out.

| column | type | |
|---|---|---|
{columns}

The headline is `{primary}`; {direction} is better.
{paper}"""

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.6 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto;
       padding: 0 1rem; }}
pre {{ white-space: pre-wrap; font: .9rem/1.5 ui-monospace, monospace; }}
</style>
<h1>{title}</h1>
<pre>{definition}</pre>
<p>The README of this repository says how to load it.</p>
</html>
"""


def compute(name: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a metric's values as the `evaluate` library returns them: one dictionary.

    Args:
        name: Name of the metric.
        columns: The columns, and parameters of the metric, as keyword arguments.
    """
    kind = METRICS.get(name)
    fields = [field.name for field in dataclasses.fields(kind)]
    known = [*kind.columns, *kind.optional, *fields]
    for each in columns:
        if each not in known:
            raise ParameterError(
                f"The metric {name!r} takes no {each!r}.{did_you_mean(each, known)} "
                f"It takes {', '.join(known)}."
            )
    chosen = kind(**{key: value for key, value in columns.items() if key in fields})
    score = chosen.compute(**{key: value for key, value in columns.items() if key not in fields})
    found = score.to_dict()
    rest = {key: found[key] for key in ("n", "intervals", "details", "settings")}
    return {**found["values"], **rest}


def describe(name: str) -> dict[str, Any]:
    """Return the texts that the `evaluate` library shows."""
    kind = METRICS.get(name)
    columns = "\n".join(
        f"    {each}: {of}" for each, of in {**kind.columns, **kind.optional}.items()
    )
    return {
        "description": inspect.getdoc(kind) or kind.title,
        "citation": kind.paper,
        "inputs_description": f"Args:\n{columns}",
    }


def files(name: str) -> dict[str, str]:
    """Return the files of a metric's folder, path to content."""
    kind = METRICS.get(name)
    definition = inspect.getdoc(kind) or ""
    optional = [(each, of, "may be left out") for each, of in kind.optional.items()]
    rows = [(each, of, "one per item") for each, of in kind.columns.items()] + optional
    readme = _README.format(
        title=kind.title,
        metric=name,
        summary=definition.splitlines()[0],
        definition=_markdown(definition),
        call=", ".join(f"{each}=[…]" for each in kind.columns),
        columns="\n".join(f"| `{each}` | {of} | {what} |" for each, of, what in rows),
        primary=kind.primary,
        direction="higher" if kind.higher_is_better else "lower",
        paper=f"\nPaper: {kind.paper}.\n" if kind.paper else "",
    )
    return {
        f"{name}.py": _script(name, kind),
        "README.md": readme,
        "index.html": _PAGE.format(title=kind.title, definition=html.escape(definition)),
        "requirements.txt": "neuronsteer[eval,langid]\n",
    }


def _script(name: str, kind: type[Metric]) -> str:
    variants = [kind.columns]
    if "strings" in kind.columns.values():
        # A single reference may come as a string of its own.
        variants.append({each: of.removesuffix("s") for each, of in kind.columns.items()})
    listed: list[str] = []
    for columns in variants:
        lines = [f'{" " * 24}"{each}": {_feature(of)},' for each, of in columns.items()]
        listed.append(_FEATURES.format(columns="\n".join(lines)))
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return _SCRIPT.format(
        title=kind.title, name=class_name, metric=name, features="\n".join(listed)
    )


def _feature(of: str) -> str:
    if of.endswith("s"):
        return f"datasets.Sequence({_feature(of.removesuffix('s'))})"
    return f'datasets.Value("{_TYPES[of]}")'


def _markdown(docstring: str) -> str:
    """Turn the section of parameters into a list."""
    text, _, arguments = docstring.partition("\nArgs:\n")
    lines = inspect.cleandoc(arguments).splitlines()
    listed: list[str] = []
    for line in lines:
        if line.startswith(" "):
            listed[-1] += f" {line.strip()}"
        else:
            listed.append(f"- `{line.partition(':')[0]}`:{line.partition(':')[2]}")
    return text.strip() + ("\n\n## Parameters\n\n" + "\n".join(listed) if listed else "")
