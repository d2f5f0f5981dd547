"""The columns of a suite for `datasets.load_dataset`, made from its published JSON Schema.

Without them the loader infers the columns from the first rows of the first file, and then refuses
a file or row with another key.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.json_schemas import published_path

if TYPE_CHECKING:
    import datasets


def suite_features() -> datasets.Features:
    """Return the columns of suites, whichever keys their rows have; a missing key is None.

    For `datasets.load_dataset("json", data_files=[…], features=suite_features())`. A column that
    may hold any keys, such as `metadata`, is a `datasets.Json`. Raises SettingsError if datasets
    does not have it.
    """
    return columns("suite")


def columns(kind: Literal["suite", "tokens"]) -> datasets.Features:
    """Return the columns of a kind of file. Raises SettingsError as `suite_features` does."""
    try:
        from datasets import Features, Json  # noqa: F401
    except ImportError:
        raise SettingsError(
            "the columns of a suite need a version of datasets that has datasets.Json: "
            "pip install --upgrade datasets"
        ) from None
    schema = json.loads(published_path(kind).read_text("utf-8"))
    return Features(
        {
            name: _feature(part, schema.get("$defs", {}))
            for name, part in schema["properties"].items()
        }
    )


def _feature(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a column, or a part of one, as datasets describes it."""
    from datasets import Json, List, Value

    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        (schema,) = (choice for choice in schema["anyOf"] if choice.get("type") != "null")
        return _feature(schema, definitions)
    if schema["type"] == "array":
        return List(_feature(schema["items"], definitions))
    if schema["type"] == "object" and "properties" not in schema:  # of any keys
        return Json()
    if schema["type"] == "object":
        return {name: _feature(part, definitions) for name, part in schema["properties"].items()}
    return Value({"string": "string", "number": "float64", "integer": "int64"}[schema["type"]])
