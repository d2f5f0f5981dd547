"""`pytest-divergence promote` and `diff`, as a user types them, between two pytest sessions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from _pytest.pytester import LineMatcher

from pytest_divergence.cli import main
from pytest_divergence.core.cases import case_id
from pytest_divergence.core.file_names import suite_path
from tests.core.made_suites import SIGNAL, SURE, case, control, write_searched
from tests.plugin.conftest import KNOT, MODELS, POEM, Project, shown

TARGET = "tests/release.divergence.jsonl"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def searched(project: Project) -> Path:
    """The suite of a search of `base` and `ft`, with a behaviour that someone accepted."""
    path = suite_path(project.path, "base", "ft")
    path.parent.mkdir(parents=True)
    (project.path / "tests").mkdir()
    rows = [case(KNOT, 0.8, behaviour=SIGNAL.id), case(POEM, 0.1), control("Hello")]
    return write_searched(path, rows, SIGNAL, SURE)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """The exit code of `pytest-divergence` with these words, and all that it says."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return main(words), *capsys.readouterr()

    return run


def test_promote_says_what_it_wrote_and_how_to_replay_it(
    project: Project, searched: Path, command: Command
) -> None:
    code, out, err = command("promote", str(searched), TARGET, "--id", "nothing")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert 'no case begins with "nothing"; there are how-do-i-tie-a-knot-' in err
    assert not (project.path / TARGET).exists()

    code, out, err = command("promote", str(searched), TARGET)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"wrote 2 cases and 1 behaviour to {TARGET}",
        "it now has 1 control row",
        f"not chosen: {SURE.id} (use --behaviour ID or --all for",
        "what no chosen case shows)",
        f"replay it: pytest {TARGET} --model-1 base --model-2 ft",
    ]

    code, out, err = command("promote", str(searched), TARGET, "--add", "--all")
    assert out.startswith(
        f"wrote 0 cases and 2 behaviours to {TARGET}\nit now has 1 control row\n"
        "2 chosen cases were already there and did not change (--force replaces)\n"
    )


def test_the_commands_are_ready_before_torch_would_be(project: Project, searched: Path) -> None:
    code = (
        "import sys; from pytest_divergence.cli import main; main(sys.argv[1:]);"
        "main(['diff', sys.argv[2], sys.argv[2]]); assert 'torch' not in sys.modules"
    )

    done = project.pytester.run(sys.executable, "-c", code, "promote", str(searched), TARGET)

    assert done.ret == 0, shown(done)
    assert f"no difference between {searched} and {searched}" in done.outlines


def test_what_was_found_gates_the_release(project: Project, command: Command) -> None:
    """Search (here: fill), promote, replay the same models, then a worse candidate."""
    found = "found.divergence.jsonl"
    project.write_suite(found, {"input": KNOT}, {"input": POEM})
    project.run(*MODELS, found, "--divergence-fill").assert_outcomes(passed=2)
    (project.path / "tests").mkdir()
    assert command("promote", found, TARGET, "--id", "write")[0] == 0

    same = project.run(*MODELS, TARGET, "-W", "default")
    same.assert_outcomes(passed=2, warnings=1)
    update = project.run("--model-1=base", "--model-2=adapter", TARGET, "--divergence-update")
    update.assert_outcomes(passed=1)

    code, out, _ = command("diff", found, TARGET)
    assert code == 1
    LineMatcher(out.splitlines()).re_match_lines(
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


def test_diff_of_what_cannot_be_read_exits_with_two(
    project: Project, searched: Path, command: Command
) -> None:
    project.write("bad.divergence.jsonl", "{")

    for name, words in (
        ("no.divergence.jsonl", "does not exist; name a suite, or the folder of a run's"),
        ("bad.divergence.jsonl", "bad.divergence.jsonl:1: not valid JSON"),
    ):
        code, _, err = command("diff", str(searched), name)
        assert code == 2
        assert words in err
