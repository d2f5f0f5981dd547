"""JSON Schemas of our files, made by pydantic from the records that read them.

Adds what pydantic cannot know of a record: that a prompt comes under one of three names.
`python -m pytest_divergence.core.json_schemas` rewrites the published files; a test compares
them, word by word where the same release of pydantic worded them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic import VERSION, BaseModel
from pydantic.json_schema import GenerateJsonSchema

from pytest_divergence.core.cases import SCHEMA_VERSION, Case
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.report import Report, ReportCase
from pytest_divergence.core.tokens import StoredTokens

RECORDS: dict[str, type[BaseModel]] = {
    "suite": Case,
    "tokens": StoredTokens,
    "provenance": Provenance,
    "report": Report,
}
"""The record of each schema: one line of a suite or tokens file, or a whole document."""
SCHEMAS = Path(__file__).parents[1] / "schemas"
PROMPTS = {
    "input": {"type": "string", "minLength": 1},
    "prompt": {"type": "string", "minLength": 1},
    "messages": {"type": "array", "minItems": 1},
}
"""The names under which a row may give its prompt, and what makes it one."""


class _Untitled(GenerateJsonSchema):
    """Leaves titles out: they only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: no key needs a title."""
        return False


def json_schema(kind: str) -> dict[str, Any]:
    """Return the schema of a kind of file, draft 2020-12. Raises KeyError for another kind."""
    model = RECORDS[kind]
    schema = model.model_json_schema(schema_generator=_Untitled)
    for name, part in {**schema.get("$defs", {}), model.__name__: schema}.items():
        properties = part.get("properties", {})
        for key, rule in properties.items():
            properties[key] = _in_json_words(rule)
        if name in (Case.__name__, ReportCase.__name__):
            properties["prompt"] = {"description": "Another name of `input`.", "type": "string"}
            part["oneOf"] = [
                {"required": [key], "properties": {key: rule}} for key, rule in PROMPTS.items()
            ]
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:pytest-divergence:{kind}:{SCHEMA_VERSION}",
        "$comment": f"worded by pydantic {VERSION}",
        **schema,
    }


def published_path(kind: str) -> Path:
    """Return the file that is published for a kind."""
    return SCHEMAS / f"divergence-{kind}.schema.json"


def as_published(kind: str) -> str:
    """Return the text that this file must hold."""
    return strict_dumps(json_schema(kind), indent=2) + "\n"


def _in_json_words(rule: dict[str, Any]) -> dict[str, Any]:
    """Return a key's rule with its description first, on one line, and null for None."""
    if "description" not in rule:
        return rule
    text = " ".join(rule.pop("description").split())
    return {"description": re.sub(r"\bNone\b", "null", text), **rule}


if __name__ == "__main__":
    for kind in RECORDS:
        published_path(kind).write_text(as_published(kind), "utf-8")
