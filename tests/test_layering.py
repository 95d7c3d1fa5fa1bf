"""The layers: who may import whom, and how large a file may grow.

Read from the source text, so that an import inside a function or under TYPE_CHECKING counts too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "neuronsteer"
LIMIT = 600

# From the lowest layer up. A module imports modules of lower lines only; those in one line do not
# import each other. A module is here a file or a folder directly in neuronsteer/.
LAYERS = """
errors
registry, hub, languages
models, operations
neuron_set
codecs, steering
stats, enhancement
detectors, exports
plots
evaluation
analysis
integrations
demo
space
cli
__init__
"""
LEVEL = {
    module.strip(): height
    for height, line in enumerate(LAYERS.strip().splitlines())
    for module in line.split(",")
}
# The only files that may register hooks with torch.
HOOKS = {
    "steering/layer_hooks.py",
    "models/readonly_hooks.py",
    "models/probe.py",
    "integrations/vllm/layers.py",
}
# Folders whose __init__ holds the contract and finds its plugins by scanning.
PLUGINS = (
    "detectors",
    "evaluation/metrics",
    "exports",
    "operations",
    "evaluation/experiments",
    "stats/reducers",
    "stats/document_measures",
    "analysis",
)

# These look for modules by name, because that is their job: plugins in a folder or an extra, and
# public names that are loaded on first use.
BY_NAME = {
    "__init__.py",
    "registry.py",
    "errors.py",
    "integrations/peft_hook.py",
    "integrations/vllm/vllm_internals.py",
}

FILES = sorted(PACKAGE.rglob("*.py"))


def _name(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def imports(file: Path) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield `(line, path below neuronsteer)` for every import of the package's own modules."""
    package = file.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            targets = [tuple(name[1:]) for name in names if name[0] == "neuronsteer"]
        elif isinstance(node, ast.ImportFrom):
            module = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                keep = len(package) - (node.level - 1)
                assert keep >= 0, f"{_name(file)}:{node.lineno} imports from outside the package"
                base = (*package[:keep], *module)
            elif module[0] == "neuronsteer":
                base = module = module[1:]
            else:
                continue
            # `from . import x`: x may be a module, and then it is x that is imported.
            targets = [base] if module else [(*base, alias.name) for alias in node.names]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield node.lineno, target


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_imports_point_strictly_downward(file: Path):
    module = file.relative_to(PACKAGE).with_suffix("").parts[0]
    assert module in LEVEL, f"{module} is in no layer; give it a line in LAYERS"
    for line, target in imports(file):
        where = f"{_name(file)}:{line}"
        other = target[0] if target else None
        assert other in LEVEL, (
            f"{where} imports the package root (or an unknown module {other!r}). The root is for "
            "users; inside the package, import the module itself: from ..errors import …"
        )
        if other != module:
            assert LEVEL[other] < LEVEL[module], (
                f"{where}: {module} imports {other}, which is not below it. Move what is shared "
                "into a lower module, or let the caller pass it in."
            )


def test_no_file_imports_itself_through_others():
    """Circles are found between files, wherever the import stands: types and functions count."""
    modules = {_module(file): file for file in FILES}
    arrows: dict[str, set[str]] = {}
    for name, file in modules.items():
        found: set[str] = set()
        for _, target in imports(file):
            # `from .file import name` imports a file, `from . import name` the folder's __init__.
            path = list(target)
            while path and ".".join(path) not in modules:
                path.pop()
            found.add(".".join(path))
        arrows[name] = found - {name}
    circles = [sorted(each) for each in _circles(arrows)]
    assert not circles, (
        "These files import each other in a circle, so that none can be read or moved alone: "
        + "; ".join(", ".join(each) for each in circles)
        + ". Move what they share into a file below all of them."
    )


def test_nothing_is_imported_by_its_name():
    for file in FILES:
        if _name(file) in BY_NAME:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            first = node.args[0]
            own = not isinstance(first, ast.Constant) or str(first.value).startswith(
                (".", "neuronsteer")
            )
            assert called not in ("import_module", "__import__") or not own, (
                f"{_name(file)}:{node.lineno} imports one of our modules by a string, which no "
                "reader and no test of layers can see. Import it, or let the caller pass it in."
            )


def _module(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected groups of more than one name."""
    reach: dict[str, set[str]] = {}
    for start in arrows:
        seen: set[str] = set()
        waiting = list(arrows[start])
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting.extend(arrows.get(each, ()))
        reach[start] = seen
    groups = {
        frozenset({name} | {other for other in reach[name] if name in reach[other]})
        for name in arrows
        if name in reach[name]
    }
    return [set(group) for group in groups]


@pytest.mark.parametrize("folder", PLUGINS)
def test_plugin_folders_never_name_their_plugins(folder: str):
    file = PACKAGE / folder / "__init__.py"
    own = tuple(folder.split("/"))
    for line, target in imports(file):
        inner = target[len(own) :]
        plugin = target[: len(own)] == own and bool(inner) and not inner[0].startswith("_")
        assert not (plugin and (PACKAGE / folder / f"{inner[0]}.py").exists()), (
            f"{folder}/__init__.py:{line} imports {inner[0]} by name: plugins are found by "
            "scanning the folder, so that adding one is one new file."
        )


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_files_stay_small(file: Path):
    lines = len(file.read_text(encoding="utf-8").splitlines())
    assert lines <= LIMIT, (
        f"{_name(file)} has {lines} lines. Files beyond {LIMIT} are where unrelated things gather "
        "and cycles begin: find the part with a noun of its own and give it a file."
    )


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_conventions(file: Path):
    text, name = file.read_text(encoding="utf-8"), _name(file)
    assert file.stem not in ("utils", "util", "helpers", "common", "misc"), (
        f"{name}: name a file after what it owns"
    )
    assert name == name.lower(), f"{name}: file names are lower-case"
    if name not in HOOKS:
        for found in re.finditer(r"register_\w*(?:forward|backward)\w*hook", text):
            line = text[: found.start()].count("\n") + 1
            raise AssertionError(
                f"{name}:{line} registers a hook; only {', '.join(sorted(HOOKS))} may, because "
                "hooks that are not removed together go on steering silently."
            )
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec"), (
                f"{name}:{node.lineno} calls {node.func.id}()"
            )
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert (module or "").split(".")[0] not in ("pickle", "dill", "marshal"), (
                f"{name}:{node.lineno}: loading a pickle runs code; use safetensors or JSON"
            )


def test_the_fence_itself_notices_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "module").mkdir()
    file = tmp_path / "module" / "file.py"
    file.write_text(
        "import torch\nimport neuronsteer\nimport neuronsteer.hooks\nfrom typing import Any\n"
        "from neuronsteer import stats\nfrom .. import __version__\nfrom ..errors import X\n"
        "from . import other\nfrom .other import y\n"
    )
    assert [target for _, target in imports(file)] == [
        (),
        ("hooks",),
        ("stats",),
        ("__version__",),
        ("errors",),
        ("module", "other"),
        ("module", "other"),
    ]
