from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_divergence.core import json_files, regular_files, suites
from pytest_divergence.core.cases import Case, Completions, case_id
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.json_files import strict_dumps, strict_loads
from pytest_divergence.core.provenance import write_provenance
from pytest_divergence.core.report import ReportCase
from pytest_divergence.core.suites import load_suite, write_suite
from tests.core.made_suites import control, provenance

Write = Callable[[str | bytes], Path]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(content: str | bytes) -> Path:
        path = tmp_path / "knots.divergence.jsonl"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


def fault_in(path: Path) -> str:
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    return str(caught.value).replace(str(path), "FILE")


def test_a_suite_in_git_reads_one_case_a_line_sorted(tmp_path: Path) -> None:
    path = tmp_path / "s.divergence.jsonl"
    write_suite(path, [Case(input="b?"), Case(input="a…"), Case(input="Où?", max_kl=0.2)])
    suite = load_suite(path)
    assert [case.input for case in suite.cases] == ["a…", "b?", "Où?"]
    assert dict(suite.lines) == {case_id("a…"): 1, case_id("b?"): 2, case_id("Où?"): 3}
    assert path.read_text("utf-8").splitlines()[2] == (
        f'{{"schema_version": 1, "id": "{case_id("Où?")}", "input": "Où?", "max_kl": 0.2, '
        '"tags": [], "metadata": {}}'
    )


@settings(deadline=None, max_examples=50)
@given(prompts=st.sets(st.text(min_size=1), min_size=1, max_size=5), metadata=json_values)
def test_any_text_survives_a_suite(
    tmp_path_factory: pytest.TempPathFactory, prompts: set[str], metadata: Any
) -> None:
    path = tmp_path_factory.mktemp("any") / "s.divergence.jsonl"
    cases = {case_id(prompt): Case(input=prompt, metadata={"m": metadata}) for prompt in prompts}
    write_suite(path, cases.values())
    assert {case.id: case for case in load_suite(path).cases} == cases


def test_a_suite_cut_at_any_byte_never_holds_half_a_row(write: Write, tmp_path: Path) -> None:
    whole = tmp_path / "whole.divergence.jsonl"
    write_suite(whole, [Case(input=f"Prompt {n} …", max_kl=0.25) for n in range(3)])
    data = whole.read_bytes()
    cases = load_suite(whole).cases
    row_ends = [at for at, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data)):
        path = write(data[:size])
        num_whole = sum(end <= size for end in row_ends)
        if size in row_ends or size - 1 in row_ends:
            assert load_suite(path).cases == cases[:num_whole]
        else:
            assert ": " in fault_in(path)


def test_a_cut_row_is_faulty_at_its_end(write: Write) -> None:
    assert fault_in(write('{"input": "a"}\n{"input": "b')) == (
        "FILE:2: not valid JSON: Unterminated string starting at column 11; "
        "the last line has no line break, so the file may be cut off"
    )
    assert fault_in(write('{"input": "a\n{"input": "b"}\n')) == (
        "FILE:1: not valid JSON: Unterminated string starting at column 11"
    )


def test_what_editors_leave_behind_is_no_fault(write: Write) -> None:
    suite = load_suite(write(b'\xef\xbb\xbf{"input": "a"}\r\n\r\n  \n{"prompt": "b"}'))
    assert [case.input for case in suite.cases] == ["a", "b"]
    assert list(suite.lines.values()) == [1, 4]


def test_the_cases_of_a_report_become_a_suite_without_their_verdicts(tmp_path: Path) -> None:
    path = tmp_path / "s.divergence.jsonl"
    write_suite(path, [ReportCase(input="a", verdict="passed")])
    assert load_suite(path).cases == (Case(input="a"),)


def test_line_separators_inside_a_prompt_end_no_line(write: Write) -> None:
    prompt = "a\u2028b\x85c\x0cd"
    path = write(json.dumps({"input": prompt}, ensure_ascii=False))
    assert load_suite(path).cases[0].input == prompt


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "FILE: has no cases; an empty suite would pass without a test"),
        (
            '{"input": "a"}\n{"input": "b"}\n{"prompt": "a"}\n',
            "FILE:3: repeats the prompt of line 1 (id a-ca978112ca); drop one",
        ),
        (
            '{"input": "a"}\n{"input": "b", "max_k": 1}\n',
            'FILE:2: unknown key "max_k"; did you mean "max_kl"?',
        ),
        (
            '{"input": "a", "zzz": 1}\n',
            'FILE:1: unknown key "zzz"; known are schema_version, id, input, messages, max_kl, '
            "tags, behaviour, kl, completions, origin, template_arguments, metadata",
        ),
        (
            '{"input": "a", "origin": {"stratgy": "x"}}\n',
            "FILE:1: origin.strategy is missing",
        ),
        ('{"input": "a", "max_kl": -1}\n', "FILE:1: max_kl is -1; it should be greater than 0"),
        ('{"input": 7}\n', "FILE:1: input is 7; it should be a valid string"),
        (
            '{"input": "a", "id": "b"}\n',
            'FILE:1: id is "b", but this prompt\'s id is "a-ca978112ca"; '
            "leave `id` out and it is filled in",
        ),
        (
            '{"input": "a", "schema_version": 9, "new_key": 1}\n',
            "FILE:1: schema_version is 9, but this pytest-divergence knows versions up to 1; "
            "upgrade it: pip install --upgrade pytest-divergence",
        ),
        (
            '{"input": "a", "max_kl": NaN}\n',
            "FILE:1: not valid JSON: NaN is not a number in JSON",
        ),
        (
            '{"input": "a", "max_kl": 1e999}\n',
            'FILE:1: not valid JSON: the number "1e999" is too large',
        ),
        (
            '{"input": "a", "input": "b"}\n',
            'FILE:1: not valid JSON: the key "input" is given twice',
        ),
        (
            '{"input": "a\\ud800"}\n',
            "FILE:1: not valid JSON: a string holds half a character (a lone surrogate)",
        ),
        ("[" * 100_000 + "\n", "FILE:1: not valid JSON: nested too deeply"),
        (
            '["input"]\n',
            'FILE:1: each line must be one JSON object, in braces; this is "["input"]"',
        ),
        (
            '{"input": "a"} extra\n',
            "FILE:1: not valid JSON: Extra data at column 16",
        ),
        (
            '{"input": "a"}\n'.encode("utf-16"),
            "FILE:1: not UTF-8 (invalid start byte at byte 0); save the file as UTF-8",
        ),
    ],
)
def test_each_fault_is_named_with_its_line(write: Write, content: str | bytes, fault: str) -> None:
    assert fault_in(write(content)) == fault


def test_hostile_text_in_a_row_is_harmless_in_the_message(write: Write) -> None:
    row = json.dumps({"input": "a", "\x1b[31m##[error]": 1, "metadata": {}})
    assert fault_in(write(row)).startswith(
        'FILE:1: unknown key "\\u{1b}[31m#\\#[error]"; known are '
    )


def test_metadata_nested_beyond_reason_is_a_short_fault(write: Write) -> None:
    fault = fault_in(write('{"input": "a", "metadata": ' + '{"a":' * 400 + "1" + "}" * 401))
    assert fault.startswith("FILE:1: metadata.a.")
    assert len(fault) < 300


def test_a_missing_file_and_a_folder_are_faults(tmp_path: Path) -> None:
    assert fault_in(tmp_path / "no.divergence.jsonl").endswith("No such file or directory")
    assert fault_in(tmp_path) == "FILE: cannot be read: it is a directory, not a regular file"


def test_files_past_the_limits_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    long_line = json.dumps({"input": "x" * json_files.MAX_LINE_BYTES})
    assert fault_in(write('{"input": "a"}\n' + long_line)) == (
        "FILE:2: the line is longer than 1 MiB; split it"
    )
    two = write('{"input": "a"}\n{"input": "b"}\n')
    monkeypatch.setattr(suites, "MAX_CASES", 1)
    assert fault_in(two) == "FILE:2: more than 1 cases; split the suite"
    monkeypatch.setattr(json_files, "MAX_FILE_BYTES", 20)
    assert fault_in(two).startswith("FILE: the file is longer than")
    with pytest.raises(SuiteError, match="the file is longer than"):
        write_provenance(two, provenance())


def test_the_limits_are_the_documented_ones() -> None:
    assert json_files.MAX_LINE_BYTES == 1024 * 1024
    assert regular_files.MAX_FILE_BYTES == 64 * 1024 * 1024
    assert suites.MAX_CASES == 100_000


@pytest.mark.parametrize(
    ("cases", "fault"),
    [
        ([], "FILE: no cases to write; an empty suite would pass without a test"),
        (
            [control("a"), control("b")],
            "FILE: no cases to write, only controls; add a row that is ",
        ),
        ([Case(input="a"), Case(input="a")], "FILE: case a-ca978112ca is given twice; drop one"),
        ([Case(input="x" * (1 << 20))], "FILE:1: the line is longer than 1 MiB; split it"),
        (
            [Case(input="a").model_copy(update={"max_kl": float("nan")})],
            "FILE: a row cannot be stored as JSON: Out of range float values",
        ),
        (
            [Case(input="a", completions=Completions(reference="\ud800", candidate=""))],
            "FILE: a row cannot be stored as JSON: 'utf-8' codec can't encode character",
        ),
    ],
)
def test_what_could_not_be_read_back_is_not_written(
    write: Write, cases: list[Case], fault: str
) -> None:
    path = write("old\n")
    with pytest.raises(SuiteError) as caught:
        write_suite(path, cases)
    assert str(caught.value).replace(str(path), "FILE").startswith(fault)
    assert path.read_text() == "old\n"


@settings(deadline=None)
@given(json_values)
def test_strict_json_reads_what_it_wrote(value: Any) -> None:
    assert strict_loads(strict_dumps(value)) == value
    assert strict_loads(strict_dumps(value).encode()) == value


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=40) | st.text(st.sampled_from('{}[]",:0123eE.-NaInfityud8 \\'), max_size=40)
)
def test_strict_json_answers_or_raises_value_error(text: str | bytes) -> None:
    try:
        value = strict_loads(text)
    except ValueError:
        return
    assert strict_loads(strict_dumps(value)) == value


@pytest.mark.parametrize(
    ("suite", "kind", "expected"),
    [
        ("x.divergence.jsonl", "provenance.json", "x.provenance.json"),
        ("x.jsonl", "tokens.jsonl", "x.tokens.jsonl"),
    ],
)
def test_a_suites_other_files_lie_beside_it(suite: str, kind: str, expected: str) -> None:
    assert sidecar_path(Path("folder") / suite, kind) == Path("folder") / expected
