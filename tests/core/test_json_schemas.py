"""The published JSON Schemas: they are the records', and accept what the records read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pytest_divergence.cli import main
from pytest_divergence.cli._arguments import KINDS
from pytest_divergence.core.cases import Case, Completions, Message, Origin
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.json_schemas import RECORDS, json_schema, published_path
from pytest_divergence.core.redaction import redacted
from pytest_divergence.core.report import write_report
from tests.core.made_suites import KNOT, SIGNAL, SURE, case, control, measured, write_searched
from tests.reports.made_reports import report

CHAT = (
    Message(role="system", content=""),
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Ho"),
    Message(role="user", content="And?"),
)
SHIPPED = Path(published_path("suite")).parents[1] / "data"


def faults(kind: str, value: Any) -> list[str]:
    schema = json.loads(published_path(kind).read_text("utf-8"))
    return [fault.message for fault in Draft202012Validator(schema).iter_errors(value)]


def rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


REWRITE = "write it anew: python -m pytest_divergence.core.json_schemas"


PROBES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 0.5, 2, "", "a", "two words", "0" * 64, [], [0], [[]], {}, {"a": 0}),
)


def said_of(schema: dict[str, Any]) -> dict[str, Any]:
    """By record: its keys with what is said of each and which values it takes, and which must be.

    Other releases of pydantic may word a rule in another way, but none of this.
    """
    definitions = schema.get("$defs", {})
    return {
        name: (
            {
                key: (one.get("description"), takes({**one, "$defs": definitions}))
                for key, one in record["properties"].items()
            },
            set(record.get("required", ())),
            record.get("additionalProperties"),
        )
        for name, record in {"": schema, **definitions}.items()
        if "properties" in record
    }


def takes(rule: dict[str, Any]) -> list[Any]:
    validator = Draft202012Validator(rule)
    return [probe for probe in PROBES if validator.is_valid(probe)]


@pytest.mark.parametrize("kind", RECORDS)
def test_a_published_schema_is_that_of_its_record_and_the_one_that_is_printed(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", kind]) == 0
    assert capsys.readouterr().out == published_path(kind).read_text("utf-8")
    published, made = json.loads(published_path(kind).read_text("utf-8")), json_schema(kind)
    Draft202012Validator.check_schema(published)
    assert said_of(published) == said_of(made), REWRITE
    if published["$comment"] == made["$comment"]:  # worded by the same release of pydantic
        assert published == made, REWRITE
    assert set(KINDS) == set(RECORDS)


def test_a_key_is_described_by_the_docstring_under_it() -> None:
    suite, whole = json_schema("suite"), json_schema("report")
    assert suite["properties"]["max_kl"]["description"] == (
        "Asserted limit in nats per token; null takes the session's."
    )
    sd = whole["$defs"]["Measurement"]["properties"]["sd"]["description"]
    assert sd.endswith("null where there is only one.")
    inherited = whole["$defs"]["ReportCase"]["properties"]
    assert {"max_kl", "excess"} <= {key for key in inherited if "description" in inherited[key]}


def test_what_a_search_leaves_is_valid(tmp_path: Path) -> None:
    suite = tmp_path / "s.divergence.jsonl"
    full = case(
        KNOT,
        0.8,
        behaviour=SIGNAL.id,
        tags=("a",),
        kl=measured(0.8, sd=0.1),
        completions=Completions(reference="r", candidate="c"),
        origin=Origin(strategy="seeds", search_kl=1.0),
        metadata={"any": [1, {"thing": None}]},
    )
    write_searched(suite, [full, Case(messages=CHAT), control("Hello")], SIGNAL, SURE)

    for row in rows(suite):
        assert faults("suite", row) == []
    for row in rows(sidecar_path(suite, "tokens.jsonl")):
        assert faults("tokens", row) == []
    provenance = sidecar_path(suite, "provenance.json").read_text("utf-8")
    assert faults("provenance", json.loads(provenance)) == []


@pytest.mark.parametrize("shown", [report(), redacted(report())], ids=["plain", "redacted"])
def test_a_report_is_valid(tmp_path: Path, shown: Any) -> None:
    path = tmp_path / "report.json"
    write_report(path, shown)

    assert faults("report", json.loads(path.read_text("utf-8"))) == []


def test_the_shipped_prompts_are_valid() -> None:
    controls = rows(SHIPPED / "controls.jsonl")
    assert controls
    assert [row for row in controls[::8] if faults("suite", row)] == []


GOOD = [
    {"input": "a"},
    {"prompt": "a", "max_kl": 1},
    {"input": None, "messages": [{"role": "user", "content": "a"}]},
    {"schema_version": 1, "input": "a", "behaviour": None, "kl": None},
]
BAD = [
    {},
    {"input": ""},
    {"input": "a", "prompt": "a"},
    {"input": "a", "messages": [{"role": "user", "content": "a"}]},
    {"messages": []},
    {"input": "a", "max_kl": 0},
    {"input": "a", "max_k": 1},
    {"input": "a", "schema_version": 2},
    {"input": "a", "behaviour": "not an id"},
    {"input": "a", "kl": {"value": 1.0}},
]


@pytest.mark.parametrize("row", [*GOOD, *BAD], ids=json.dumps)
def test_schema_and_reader_agree_on_a_row_written_by_hand(row: dict[str, Any]) -> None:
    try:
        Case.model_validate(row)
        is_read = True
    except ValueError:
        is_read = False
    assert is_read == (row in GOOD)
    assert (faults("suite", row) == []) == is_read
