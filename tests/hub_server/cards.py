"""Card metadata as the Hub checks it (`/api/validate-yaml`): a faithful subset.

Checked: the YAML itself, `language`, `license`, `tags`, `datasets`, `metrics`, `base_model`,
`base_model_relation`, `pipeline_tag`, `library_name`, `model-index`; for Spaces `sdk`, colours and
`short_description`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"^\s*---[ \t]*\r?\n(.*?)\r?\n?---[ \t]*(\r?\n|$)", re.DOTALL)
LANGUAGES = {"code", "multilingual", "unknown"}
RELATIONS = {"adapter", "merge", "quantized", "finetune"}
VALUES = json.loads(Path(__file__).with_name("card_values.json").read_text("utf-8"))
LICENSES = set(VALUES["license"])
PIPELINES = set(VALUES["pipeline_tag"])
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def metadata(content: str) -> dict[str, Any] | None:
    """Front matter of a card; None without one; raises ValueError on bad YAML."""
    found = FRONT_MATTER.match(content)
    if found is None:
        return None
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as exc:
        raise ValueError(f"YAML metadata could not be parsed: {exc}") from exc
    if data is None:
        return None
    if not isinstance(data, dict):
        raise ValueError("YAML metadata must be a mapping")
    return data


def validate(content: str, kind: str = "model") -> tuple[list[str], list[str]]:
    """Errors and warnings of a card."""
    try:
        data = metadata(content)
    except ValueError as exc:
        return [str(exc)], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if kind == "space":
        return _space(data), []
    errors = _strings(data, "tags", "datasets", "metrics") + _languages(data) + _license(data)
    if kind == "model":
        errors += _model(data)
    return errors, []


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _strings(data: dict[str, Any], *keys: str) -> list[str]:
    errors = []
    for key in keys:
        if key in data and not isinstance(data[key], list):
            errors.append(f'"{key}" must be an array')
            continue
        for position, item in enumerate(data.get(key) or []):
            if not isinstance(item, str):
                errors.append(f'"{key}[{position}]" must be a string')
    return errors


def _languages(data: dict[str, Any]) -> list[str]:
    errors = []
    for position, code in enumerate(_listed(data["language"]) if "language" in data else []):
        # YAML reads the Norwegian "no" as false, a mistake that the Hub reports too.
        if not isinstance(code, str):
            errors.append(f'"language[{position}]" must be a string')
        elif code not in LANGUAGES and not re.fullmatch(r"[a-z]{2,3}", code):
            errors.append(
                f'"language[{position}]" with value "{code}" is not valid. It must be an ISO '
                '639-1, 639-2 or 639-3 code (two/three letters), or a special value like "code",'
                ' "multilingual". If you want to use BCP-47 identifiers, you can specify them in'
                " language_bcp47."
            )
    return errors


def _license(data: dict[str, Any]) -> list[str]:
    names = _listed(data["license"]) if "license" in data else []
    known = all(isinstance(name, str) and name in LICENSES for name in names)
    return [] if known else [f'"license" must be one of [{", ".join(sorted(LICENSES))}]']


def _model(data: dict[str, Any]) -> list[str]:
    errors = []
    for base in _listed(data["base_model"]) if "base_model" in data else []:
        if not isinstance(base, str) or not REPO_ID.fullmatch(base):
            errors.append(f'"base_model" with value "{base}" is not valid. Use a model id.')
    if "base_model_relation" in data and data["base_model_relation"] not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(sorted(RELATIONS))}]')
    if "pipeline_tag" in data and data["pipeline_tag"] not in PIPELINES:
        errors.append(f'"pipeline_tag" must be one of [{", ".join(sorted(PIPELINES))}]')
    if "library_name" in data and not isinstance(data["library_name"], str):
        errors.append('"library_name" must be a string')
    return errors + (_model_index(data["model-index"]) if "model-index" in data else [])


def _model_index(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for i, model in enumerate(index):
        at = f"model-index[{i}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"{at}.name" is required')
            continue
        if not isinstance(model.get("results"), list):
            errors.append(f'"{at}.results" is required')
            continue
        for j, result in enumerate(model["results"]):
            where = f"{at}.results[{j}]"
            for key, fields in (("task", ["type"]), ("dataset", ["name", "type"])):
                part = result.get(key) if isinstance(result, dict) else None
                for name in fields:
                    if not isinstance(part, dict) or not isinstance(part.get(name), str):
                        errors.append(f'"{where}.{key}.{name}" is required')
            metrics = result.get("metrics") if isinstance(result, dict) else None
            if not isinstance(metrics, list) or not metrics:
                errors.append(f'"{where}.metrics" is required')
                continue
            for k, metric in enumerate(metrics):
                for name in ("type", "value"):
                    if not isinstance(metric, dict) or metric.get(name) is None:
                        errors.append(f'"{where}.metrics[{k}].{name}" is required')
    return errors


def _space(data: dict[str, Any]) -> list[str]:
    errors = []
    if data.get("sdk") not in ("gradio", "streamlit", "docker", "static"):
        errors.append('"sdk" must be one of [gradio, streamlit, docker, static]')
    for key in ("colorFrom", "colorTo"):
        if key in data and data[key] not in COLORS:
            errors.append(f'"{key}" must be one of [{", ".join(sorted(COLORS))}]')
    if len(str(data.get("short_description", ""))) > 60:
        errors.append('"short_description" length must be less than or equal to 60 characters long')
    return errors
