"""File formats: the keys of each file, from its JSON Schema, which the records generate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from docs.site.markdown import code, table
from pytest_divergence.core.json_schemas import json_schema

Schema = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    page: str
    """The name of the page and of its schema."""
    name: str
    about: str


FORMATS = (
    Format(
        "suite",
        "NAME.divergence.jsonl",
        "A suite: one case per line, in UTF-8, sorted by id. A row written by hand needs only "
        "`input` (alias `prompt`) or `messages`.",
    ),
    Format(
        "tokens",
        "NAME.tokens.jsonl",
        "The continuations that a suite's cases were measured on, and that a replay scores: one "
        "case per line.",
    ),
    Format(
        "provenance",
        "NAME.provenance.json",
        "Where a suite comes from: models, versions, settings, calibration and behaviours.",
    ),
    Format(
        "report",
        "report.json",
        "One complete run. `report.html` and `summary.md` beside it are made from it.",
    ),
)


def format_page(file_format: Format) -> str:
    """Return the page of a file: its keys, and those of every record inside it."""
    page = file_format.page
    whole = json_schema(page)
    parts = [
        f"# {file_format.name}\n\n{file_format.about} `pytest-divergence schema {page}` prints its "
        "JSON Schema.\n",
        _keys(whole),
    ]
    records = {n: part for n, part in whole.get("$defs", {}).items() if "properties" in part}
    for name, part in records.items():
        about = part.get("description", "").split("\n\n")[0]
        parts.append(f"## {name}\n\n{about}\n\n{_keys(part)}")
    return "\n".join(parts)


def _keys(part: Schema) -> str:
    required = part.get("required", [])
    rows = [
        (
            code(key),
            kind(value),
            "required" if key in required else _default(value),
            value.get("description", ""),
        )
        for key, value in part["properties"].items()
    ]
    return table(("key", "value", "default", "meaning"), rows)


def _default(value: Schema) -> str:
    if "default" not in value:
        return "empty"
    return code(json.dumps(value["default"], ensure_ascii=False))


def kind(value: Schema) -> str:
    """Return what a value may be, in words."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(map(kind, value["anyOf"]))
    if "enum" in value or "const" in value:
        return " or ".join(map(code, value.get("enum", [value.get("const")])))
    if value.get("type") == "array" and "prefixItems" in value:
        return "[" + ", ".join(map(kind, value["prefixItems"])) + "]"
    if value.get("type") == "array":
        return f"list of {kind(value.get('items', {}))}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"object of {kind(inner)}" if isinstance(inner, dict) else "object"
    return _scalar(value)


def _scalar(value: Schema) -> str:
    names = {
        "integer": "whole number",
        "null": "null",
        "string": "text",
        "boolean": "true or false",
    }
    text = names.get(value.get("type", ""), value.get("type", "any JSON"))
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {value[name]:g}" for name, sign in limits.items() if name in value]
    if "pattern" in value:
        found.append(f"matches {code(value['pattern'])}")
    return f"{text} {', '.join(found)}".strip()
