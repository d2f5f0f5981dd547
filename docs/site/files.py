"""File formats: the keys of each file, from the records that read and write it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from docs.site.markdown import attribute_docs, code, table
from pytest_divergence.core.cases import Case
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.report import Report
from pytest_divergence.core.tokens import StoredTokens

Schema = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    page: str
    name: str
    about: str
    record: type[BaseModel]


FORMATS = (
    Format(
        "suite",
        "NAME.divergence.jsonl",
        "A suite: one case a line, in UTF-8, sorted by id. A row written by hand needs only "
        "`input` (alias `prompt`) or `messages`.",
        Case,
    ),
    Format(
        "tokens",
        "NAME.tokens.jsonl",
        "The continuations that a suite's cases were measured on, one case a line: what a replay "
        "scores.",
        StoredTokens,
    ),
    Format(
        "provenance",
        "NAME.provenance.json",
        "Where a suite comes from: models, versions, settings, calibration and behaviours.",
        Provenance,
    ),
    Format(
        "report",
        "report.json",
        "One run, complete enough to draw every view of it. `report.html` and `summary.md` beside "
        "it are made from it.",
        Report,
    ),
)


def schema(record: type[BaseModel]) -> Schema:
    """The JSON Schema of a record, with the docstrings of its attributes as descriptions."""
    whole = record.model_json_schema()
    for name, one in _records(record).items():
        part = whole if one is record else whole["$defs"].get(name)
        for key, meaning in attribute_docs(one).items():
            if part is not None and key in part.get("properties", {}):
                part["properties"][key]["description"] = meaning
    return whole


def _records(record: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """A record and all that it holds, by name."""
    found, left = {}, [record]
    while left:
        one = left.pop()
        if one.__name__ not in found:
            found[one.__name__] = one
            left += [part for field in one.model_fields.values() for part in _in(field.annotation)]
    return found


def _in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _in(part)


def format_page(one: Format) -> str:
    """A file's keys, and those of every record inside of it."""
    whole = schema(one.record)
    parts = [
        f"# {one.name}\n\n{one.about} [Its JSON Schema]({one.page}.schema.json) is "
        "made from the same records.\n",
        _keys(whole),
    ]
    records = {n: part for n, part in whole.get("$defs", {}).items() if "properties" in part}
    for name, part in records.items():
        about = part.get("description", "").split("\n\n")[0]
        parts.append(f"## {name}\n\n{about}\n\n{_keys(part)}")
    return "\n".join(parts)


def schema_text(one: Format) -> str:
    """The JSON Schema as a file."""
    return json.dumps(schema(one.record), indent=2, ensure_ascii=False) + "\n"


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
    """What a value may be, in words."""
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[-1]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(kind(one) for one in value["anyOf"])
    if "enum" in value or "const" in value:
        return " or ".join(code(one) for one in value.get("enum", [value.get("const")]))
    if value.get("type") == "array" and "prefixItems" in value:
        return "[" + ", ".join(kind(one) for one in value["prefixItems"]) + "]"
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
