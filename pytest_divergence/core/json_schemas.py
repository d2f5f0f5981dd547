"""JSON Schemas of our files, made from the records that read them.

Knows what pydantic does not say of a record: that a prompt comes under one of three names, and what
the docstrings under its fields say. `python -m pytest_divergence.core.json_schemas` writes the
published files anew; a test compares them, word by word where pydantic is the one that worded them.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

from pydantic import VERSION, BaseModel
from pydantic.json_schema import GenerateJsonSchema

from pytest_divergence.core.cases import SCHEMA_VERSION, Case, Record
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.provenance import Provenance
from pytest_divergence.core.report import Report
from pytest_divergence.core.tokens import StoredTokens

RECORDS: dict[str, type[BaseModel]] = {
    "suite": Case,
    "tokens": StoredTokens,
    "provenance": Provenance,
    "report": Report,
}
"""What each schema describes: one line of a suite or tokens file, or a whole document."""
SCHEMAS = Path(__file__).parents[1] / "schemas"
PROMPTS = {
    "input": {"type": "string", "minLength": 1},
    "prompt": {"type": "string", "minLength": 1},
    "messages": {"type": "array", "minItems": 1},
}
"""The names under which a row may give its prompt, and what makes it one."""


class _Untitled(GenerateJsonSchema):
    """Without titles, which only repeat the keys."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Whether a key needs a title: never."""
        return False


def json_schema(kind: str) -> dict[str, Any]:
    """The schema of a kind of file, draft 2020-12. Raises KeyError for what is not in `RECORDS`."""
    model = RECORDS[kind]
    schema = model.model_json_schema(schema_generator=_Untitled)
    records = {record.__name__: record for record in _kinds_of(Record)}
    for name, part in {**schema.get("$defs", {}), model.__name__: schema}.items():
        if name in records:
            _describe(part, records[name])
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:pytest-divergence:{kind}:{SCHEMA_VERSION}",
        "$comment": f"worded by pydantic {VERSION}",
        **schema,
    }


def published_path(kind: str) -> Path:
    """The file that is published for a kind."""
    return SCHEMAS / f"divergence-{kind}.schema.json"


def as_published(kind: str) -> str:
    """What that file must hold."""
    return strict_dumps(json_schema(kind), indent=2) + "\n"


def _kinds_of(record: type[Record]) -> Iterator[type[Record]]:
    yield record
    for kind in record.__subclasses__():
        yield from _kinds_of(kind)


def _describe(schema: dict[str, Any], record: type[Record]) -> None:
    """Say what each key means, and for a case under which names its prompt may come."""
    properties = schema.get("properties", {})
    for kind in reversed(record.__mro__):
        if issubclass(kind, Record):
            for name, text in _docstrings(kind):
                properties[name] = {"description": text, **properties[name]}
    if issubclass(record, Case):
        properties["prompt"] = {"description": "Another name of `input`.", "type": "string"}
        schema["oneOf"] = [
            {"required": [name], "properties": {name: rule}} for name, rule in PROMPTS.items()
        ]


def _docstrings(record: type[Record]) -> Iterator[tuple[str, str]]:
    """Each field with the string that stands under it, on one line."""
    (definition,) = ast.parse(dedent(inspect.getsource(record))).body
    assert isinstance(definition, ast.ClassDef)
    for field, below in pairwise(definition.body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, re.sub(r"\bNone\b", "null", " ".join(text.split()))


if __name__ == "__main__":
    for kind in RECORDS:
        published_path(kind).write_text(as_published(kind), "utf-8")
