"""The parsers of the plugin's own files: suites and what lies beside them, reports, journals."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from pytest_divergence.core.cases import Case
from pytest_divergence.core.comparison import compare, side_of_run
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.file_names import sidecar_path, suite_beside, suite_path
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.json_files import (
    load_document,
    write_document,
)
from pytest_divergence.core.promotion import promote
from pytest_divergence.core.provenance import accept, load_provenance, write_provenance
from pytest_divergence.core.recorded_reference import RecordedReference
from pytest_divergence.core.report import Report, load_report, write_report
from pytest_divergence.core.suites import faults_of, load_suite, read_suite, write_suite
from pytest_divergence.core.tokens import ListedTokens, load_tokens
from pytest_divergence.reports.html import render_html
from pytest_divergence.reports.markdown import render_markdown
from tests.attacks.mutations import damaged, json_files, row_files, texts
from tests.attacks.parsers import KEY, HoleError, Parser, in_file, round_trip
from tests.core.made_suites import KNOT, POEM, SIGNAL, case, control, write_searched
from tests.reports.made_reports import report as made_report
from tests.tokens_writing import write_tokens

SUITE = "x.divergence.jsonl"
NAMES = (SUITE, "x.tokens.jsonl", "x.provenance.json")


def _made() -> dict[str, bytes]:
    """The three files of a suite."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [case(KNOT, 0.1), case(POEM, 0.2), control("Hi")]
        write_searched(Path(folder, SUITE), rows, SIGNAL)
        return {name: Path(folder, name).read_bytes() for name in NAMES}


MADE = _made()
ROWS, TOKENS = ([json.loads(line) for line in MADE[name].splitlines()] for name in NAMES[:2])
PROVENANCE = json.loads(MADE[NAMES[2]])
CHAT = {
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"}],
    "metadata": {"category": "x"},
}
RECORD = {
    "schema_version": 1,
    "tool_version": "0.1.0",
    "reference": PROVENANCE["reference"],
    "vocabulary_sha256": "0" * 64,
    "vocab_size": 9,
    "num_told": 1,
    "dtype": "float32",
    "device": "cpu",
    "rows": {"1" * 64: {"chosen": "AAAAvw==", "head_ids": "AQAAAA==", "head": "AAAAvw=="}},
}
REPORT = json.loads(made_report().model_dump_json())
UNITS = {"pair": ["float32", None], "score 1": {"a": [1.5, "x"]}, "n": None}


def _journal() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "j.jsonl")
        with Journal.open(path, key=KEY) as journal:
            for unit, result in UNITS.items():
                journal.remember(unit, lambda result=result: result)  # type: ignore[misc]
        return path.read_bytes()


JOURNAL = _journal()


def _go_on(path: Path) -> None:
    """Whatever a journal holds, the units have their results, and the file is whole afterwards."""
    with Journal.open(path, key=KEY) as journal:
        for unit, result in UNITS.items():
            if journal.remember(unit, lambda result=result: result) != result:  # type: ignore[misc]
                raise HoleError(f"unit {unit} of a damaged journal has another result")
        if journal.recovered is not None:
            raise _DamageError(journal.recovered)
    with Journal.open(path, key=KEY) as journal:
        if not all(unit in journal for unit in UNITS):
            raise HoleError("a journal that went on does not hold its units")


class _DamageError(DivergenceError):
    """What is said of a damaged journal, which is held to the rules of an error."""


def _with_one_changed(folder: Path, changed: tuple[str, bytes]) -> Path:
    for name, data in {**MADE, changed[0]: changed[1]}.items():
        (folder / name).write_bytes(data)
    return folder / SUITE


def _as_a_whole(folder: Path, changed: tuple[str, bytes]) -> None:
    """What is promoted from a suite that can be read is a suite that can be read."""
    path = _with_one_changed(folder, changed)
    faults = faults_of(path)
    for fault in faults[:5]:
        if len(str(fault)) > 2000:
            raise HoleError(f"a fault of {len(str(fault))} characters")
    target = folder / "made" / "y.divergence.jsonl"
    try:
        promote(path, target)
    except DivergenceError:
        if target.exists():
            raise HoleError("refused, and written all the same") from None
        raise
    read_suite(target)


def _accept(folder: Path, changed: tuple[str, bytes]) -> None:
    path = _with_one_changed(folder, changed)
    before = {name: (folder / name).read_bytes() for name in NAMES}
    try:
        accept(SIGNAL.id, [path])
    except DivergenceError:
        if before != {name: (folder / name).read_bytes() for name in NAMES}:
            raise HoleError("refused, and changed all the same") from None
        raise


def _shown(path: Path) -> None:
    """A report in all its views, beside another, and written and read again."""
    report = round_trip(load_report, write_report)(path)
    assert isinstance(report, Report)
    render_html(report)
    for line in render_markdown(report).splitlines():
        if "\x1b" in line or line.startswith("::"):
            raise HoleError(f"a line of the summary is {line[:200]!r}")
    compare(side_of_run(made_report()), side_of_run(report))


def _listed(path: Path) -> None:
    """Tokens in a listing, which reads a row when it is asked for, and all of them at once."""
    tokens = round_trip(load_tokens, lambda copy, read: write_tokens(copy, read.values()))(path)
    if dict(ListedTokens(path)) != tokens:
        raise HoleError("a listing knows other tokens than the file holds")


def _names(folder: Path, spec: tuple[str, str]) -> None:
    """A suite lies where suites lie, whatever the models are called."""
    path = suite_path(folder, *spec)
    if path.parent != folder / ".divergence" / "suites" or len(path.name) > 120:
        raise HoleError(f"a pair's suite is {path}")
    for kind in ("tokens.jsonl", "provenance.json"):
        if suite_beside(sidecar_path(path, kind)) != path:
            raise HoleError(f"{sidecar_path(path, kind)} is not beside {path}")


A_FILE = st.one_of(
    st.tuples(st.just(NAMES[0]), row_files(*ROWS, CHAT)),
    st.tuples(st.just(NAMES[1]), row_files(*TOKENS)),
    st.tuples(st.just(NAMES[2]), json_files(PROVENANCE)),
)
SPECS = texts("base", "./base,dtype=bfloat16", "org/model,revision=x", "demo:smollm2-135m", "~/a b")


def _ids_and_rows(path: Path) -> dict[str, Case]:
    return {row.id: row for row in load_suite(path).rows}


FILE_PARSERS = [
    Parser(
        "suite",
        row_files(*ROWS, CHAT),
        in_file(SUITE, round_trip(_ids_and_rows, lambda p, rows: write_suite(p, rows.values()))),
    ),
    Parser("three files, promoted", A_FILE, _as_a_whole),
    Parser("three files, accepted", A_FILE, _accept),
    Parser("tokens", row_files(*TOKENS), in_file("x.tokens.jsonl", _listed)),
    Parser(
        "recorded reference",
        json_files(RECORD),
        in_file(
            "x.reference.json",
            round_trip(lambda path: load_document(path, RecordedReference), write_document),
        ),
    ),
    Parser(
        "provenance",
        json_files(PROVENANCE),
        in_file("x.provenance.json", round_trip(load_provenance, write_provenance)),
    ),
    Parser("report", json_files(REPORT), in_file("report.json", _shown)),
    Parser(
        "journal",
        damaged(st.just(JOURNAL)) | damaged(st.binary(max_size=200)),
        in_file("j.jsonl", _go_on),
    ),
    Parser("file names", st.tuples(SPECS, SPECS), _names),
]
