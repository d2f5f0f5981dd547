"""`pytest-divergence promote` and `diff`, as a user types them, between two pytest sessions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pytest_divergence.core.cases import case_id
from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.suites import read_suite
from tests.core.made_suites import SIGNAL, SURE, case, control, write_searched
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown

TARGET = "tests/release.divergence.jsonl"


@pytest.fixture
def searched(project: Project) -> Path:
    """The suite of a search of `base` and `ft`, with a behaviour that someone accepted."""
    path = suite_path(project.path, "base", "ft")
    path.parent.mkdir(parents=True)
    (project.path / "tests").mkdir()
    rows = [case(KNOT, 0.8, behaviour=SIGNAL.id), case(POEM, 0.1), control("Hello")]
    return write_searched(path, rows, SIGNAL, SURE)


def command(project: Project, *words: str) -> pytest.RunResult:
    return project.pytester.run(sys.executable, "-m", "pytest_divergence.cli", *words)


def test_promote_says_what_it_wrote_and_how_to_replay_it(project: Project, searched: Path) -> None:
    done = command(project, "promote", str(searched), TARGET)

    assert done.ret == 0
    assert done.errlines == []
    assert done.outlines == [
        f"wrote 2 cases and 1 behaviour to {TARGET}",
        "it now has 1 control row",
        f"not chosen: {SURE.id} (use --behaviour ID or --all for",
        "what no chosen case shows)",
        f"replay it: pytest {TARGET} --model-1 base --model-2 ft",
    ]


def test_promote_is_ready_before_torch_would_be(project: Project, searched: Path) -> None:
    code = (
        "import sys; from pytest_divergence.cli import main; main(sys.argv[1:]);"
        "main(['diff', sys.argv[2], sys.argv[2]]); assert 'torch' not in sys.modules"
    )

    done = project.pytester.run(sys.executable, "-c", code, "promote", str(searched), TARGET)

    assert done.ret == 0, shown(done)


def test_adding_says_what_stayed(project: Project, searched: Path) -> None:
    command(project, "promote", str(searched), TARGET, "--id", "how")

    again = command(project, "promote", str(searched), TARGET, "--add", "--all")

    assert again.outlines[:3] == [
        f"wrote 1 case and 2 behaviours to {TARGET}",
        "it now has 1 control row",
        "1 chosen case was already there and did not change (--force replaces)",
    ]
    once_more = command(project, "promote", str(searched), TARGET, "--add", "--all")
    assert "2 chosen cases were already there and did not change" in shown(once_more)


def test_a_refused_promotion_is_one_sentence(project: Project, searched: Path) -> None:
    done = command(project, "promote", str(searched), TARGET, "--id", "nothing")

    assert done.ret == 1
    assert done.outlines == []
    assert len(done.errlines) == 1
    assert 'no case begins with "nothing"; there are how-do-i-tie-a-knot-' in done.errlines[0]
    assert not (project.path / TARGET).exists()


def test_what_was_found_gates_the_release(project: Project) -> None:
    """Search (here: fill), promote, replay the same models, then a worse candidate."""
    found = "found.divergence.jsonl"
    project.write_suite(found, {"input": KNOT}, {"input": POEM})
    project.run(*MODELS, found, "--divergence-fill").assert_outcomes(passed=2)
    (project.path / "tests").mkdir()
    assert command(project, "promote", found, TARGET, "--id", "write").ret == 0

    same = project.run(*MODELS, TARGET, "-W", "default")
    same.assert_outcomes(passed=2, warnings=1)
    update = project.run("--model-1=base", "--model-2=adapter", TARGET, "--divergence-update")
    update.assert_outcomes(passed=1)

    differs = command(project, "diff", found, TARGET)
    assert differs.ret == 1
    differs.stdout.re_match_lines(
        [
            rf"--- {found}",
            rf"\+\+\+ {TARGET}",
            r'candidate: "ft" [0-9a-f]{8} -> "adapter" [0-9a-f]{8}',
            r"2 cases: 1 changed, 1 removed",
            rf"~ {case_id(POEM)}",
            r"    KL \d\.\d{3} -> \d\.\d{3} \(x \d.*\), max_kl \d\.\d{3} -> \d\.\d{3}",
            rf"- {case_id(KNOT)}",
        ]
    )


def test_diff_of_equal_suites_exits_with_zero(project: Project, searched: Path) -> None:
    done = command(project, "diff", str(searched), str(searched))

    assert done.ret == 0
    assert done.outlines == [f"no difference between {searched} and {searched}"]


def test_diff_for_machines_is_json(project: Project, searched: Path) -> None:
    command(project, "promote", str(searched), TARGET, "--id", "how")

    done = command(project, "diff", str(searched), TARGET, "--json")

    assert done.ret == 1
    found = json.loads(done.stdout.str())
    assert found["values"] == []
    changes = {one["id"]: (one["change"], one["after"]) for one in found["cases"]}
    assert changes[case_id(POEM)] == ("removed", None)
    assert changes[case_id(KNOT)][0] == "changed"
    limit = read_suite(project.path / TARGET).suite.cases[0].max_kl
    assert changes[case_id(KNOT)][1]["max_kl"] == limit


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("no.divergence.jsonl", None, "does not exist; name a suite, or the folder of a run's"),
        ("bad.divergence.jsonl", "{", "bad.divergence.jsonl:1: not valid JSON"),
    ],
)
def test_diff_of_what_cannot_be_read_exits_with_two(
    project: Project, searched: Path, name: str, text: str | None, words: str
) -> None:
    if text is not None:
        project.write(name, text)

    done = command(project, "diff", str(searched), name)

    assert done.ret == 2
    assert words in done.errlines[0]
