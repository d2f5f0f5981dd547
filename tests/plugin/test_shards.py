"""A session on each of several machines, the command between them, and what people read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.journal_lines import journal_bytes, read_journal
from pytest_divergence.core.naming import suite_path
from tests.plugin.conftest import MODELS, Project, shown
from tests.plugin.test_search import PAIR, _tiny_search  # noqa: F401  # a fixture

LIMIT = "--divergence-max-kl=0.001"


def journal(project: Project) -> Path:
    return project.path / ".divergence" / "journal"


def other_machine(project: Project) -> Path:
    """What this project's `.divergence` held, as brought from another machine."""
    (project.path / "from-two").mkdir()
    return Path(shutil.move(project.path / ".divergence", project.path / "from-two/.divergence"))


def test_two_machines_by_hand(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run, stop, merge, and let one machine do the rest: the suite of an undivided run."""
    alone = project.run(*PAIR, LIMIT)
    suite = suite_path(project.path, "base", "adapter")
    undivided = (suite.read_bytes(), alone.ret)
    shutil.rmtree(project.path / ".divergence")

    first = project.run(*PAIR, LIMIT, "--divergence-shard=2/2")
    brought = other_machine(project)
    second = project.run(*PAIR, LIMIT, "--divergence-shard=1/2")

    for number, result in ((2, first), (1, second)):
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(errors=1)
        text = " ".join(shown(result).split())
        assert re.search(
            "the search is not complete, and nothing was judged: shard "
            rf"{number}/2 has done \d+ work units? \([\d,]+ forwarded tokens\) and waits for shard "
            rf"{3 - number}/2 \([a-z0-9/_-]+( and \d+ more)?\)\. Bring the \.divergence folder of "
            r"the other machine here, unite both and go on\. Where the machines share one folder, "
            r"--divergence-shard-wait=SECONDS waits for the others\.",
            text,
        )
        assert "unite: pytest-divergence merge FOLDER" in text
        assert f"--divergence-shard={number}/2" in text.partition("go on:")[2]
        assert "Traceback" not in text
    assert not suite.exists()

    monkeypatch.chdir(project.path)
    capsys.readouterr()
    assert main(["merge", str(brought.parent)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    name = suite.name.split(".")[0]
    units = read_journal(journal(project) / f"{name}.jsonl").units
    total = f"{len(units)} work unit{'s' if len(units) > 1 else ''}"
    assert f".divergence/journal/{name}.jsonl: {total}, {len(units)} new" in lines
    assert last == (
        "go on with the same pytest command, or leave out --divergence-shard to do the rest here"
    )
    assert main(["merge", str(brought.parent)]) == 0
    assert f"{total}, none new" in capsys.readouterr().out

    rest = project.run(*PAIR, LIMIT)
    assert (suite.read_bytes(), rest.ret) == undivided


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--divergence-shard=4/3",),
            "--divergence-shard=4/3: must be I/N with 1 <= I <= N, such as 1/2",
        ),
        (
            ("--divergence-shard=0/2",),
            "--divergence-shard=0/2: must be I/N with 1 <= I <= N, such as 1/2",
        ),
        (
            ("--divergence-shard=x",),
            "--divergence-shard=x: must be I/N with 1 <= I <= N, such as 1/2",
        ),
        (
            ("--divergence-shard=1/2", "--divergence-shard-wait=-1"),
            "--divergence-shard-wait=-1: must be a number of seconds, 0 or more",
        ),
        (
            ("--divergence-shard=1/2", "--divergence-mode=replay"),
            "--divergence-shard=1/2 shares out a search, and this session replays; leave it out, "
            "or add --divergence-mode=search",
        ),
        (
            ("--divergence-shard=1/2", "--divergence-budget=300s"),
            "--divergence-shard=1/2 cannot go with --divergence-budget=300s: machines end at "
            "different points on a clock, and the same search on all of them is what is shared "
            "out; give the budget in forwarded tokens",
        ),
        (
            ("--divergence-shard=1/2", "-p", "xdist", "-n", "2"),
            "--divergence-shard=1/2 cannot go with pytest-xdist: one process does a shard's work; "
            "leave out -n",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_one_sentence(
    project: Project, arguments: tuple[str, ...], message: str
) -> None:
    result = project.run(*MODELS, *arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines == [f"ERROR: {message}", ""]
    assert not (project.path / ".divergence").exists()


def test_in_ci_a_shard_says_how_it_may_search(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("PYTEST_DIVERGENCE_SHARD", "1/2")

    result = project.run(*MODELS)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0].endswith("leave it out, or add --divergence-mode=search")


def test_a_session_that_asks_for_no_models_is_left_alone(project: Project) -> None:
    project.pytester.makeini(
        "[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\ndivergence_shard = 1/2\n"
    )
    project.write("test_unit.py", "def test_addition(): assert 1 + 1 == 2\n")

    project.run().assert_outcomes(passed=1)


def test_what_needs_a_result_does_not_pass_without_it(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command, and tests of one's own, which go on from what the command has done."""
    monkeypatch.chdir(project.path)

    assert main(["discover", *PAIR, "--shard=1/2"]) == 1

    said = " ".join(capsys.readouterr().err.replace("\\\n", "").split())
    assert "error: the search is not complete, and nothing was judged: shard 1/2 has done" in said
    assert said.endswith(
        "go on: pytest-divergence discover --divergence-model-1=base "
        "--divergence-model-2=adapter --divergence-shard=1/2"
    )

    assert main(["discover", *PAIR, "--shard=1/2", "--anew"]) == 1
    assert capsys.readouterr().err == (
        "error: --anew and --shard contradict each other: a shard goes on with what all of them "
        "have done; leave out --anew, or remove .divergence/journal first\n"
    )

    project.write("test_own.py", "def test_case(divergence_case): pass\n")
    result = project.run(*PAIR, "--divergence-shard=1/2", "test_own.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0].startswith("ERROR: the search is not complete, and nothing was")


def test_merge_finds_the_project_from_a_folder_inside_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pytest does: it would look in vain for what was merged elsewhere."""
    project.pytester.makeini("[pytest]\n")
    journal(project).mkdir(parents=True)
    units = {"pair": {"result": 1, "tokens": 0, "seconds": 0.0}}
    (journal(project) / "a.shard-1-of-2.jsonl").write_bytes(journal_bytes("k", {}, units))
    (project.path / "tests").mkdir()
    monkeypatch.chdir(project.path / "tests")

    assert main(["merge"]) == 0

    assert (journal(project) / "a.jsonl").is_file()
    assert not (project.path / "tests/.divergence").exists()


def test_merge_names_the_lines_that_it_does_not_take(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edited one, as its checksum tells, and one that contradicts what was merged before."""
    one, two = tmp_path / "one/a.shard-1-of-2.jsonl", tmp_path / "two/a.shard-2-of-2.jsonl"
    record = {"result": 1, "tokens": 0, "seconds": 0.0}
    for path, units in (
        (one, {"confirm/1": {**record, "result": 2}}),
        (two, {"pair": record, "confirm/1": record}),
    ):
        path.parent.mkdir()
        path.write_bytes(journal_bytes("k", {}, units))
    header, pair, confirmed = two.read_bytes().splitlines(keepends=True)
    two.write_bytes(header + pair.replace(b'"tokens": 0', b'"tokens": 9') + confirmed)
    monkeypatch.chdir(tmp_path)

    assert main(["merge", "two"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        ".divergence/journal/a.jsonl: 1 work unit, 1 new, 1 damaged line left out "
        "(two/a.shard-2-of-2.jsonl:2)"
    )
    assert main(["merge", "one"]) == 1
    assert capsys.readouterr().err == (
        "error: .divergence/journal/a.jsonl:2 and one/a.shard-1-of-2.jsonl:2 tell the "
        'work unit "confirm/1" differently: the machines do not compute alike, or a file was '
        "changed; remove one of the files, and its units are done again\n"
    )


def test_merge_in_a_folder_without_journals(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["merge"]) == 1

    assert capsys.readouterr().err == (
        "error: there is no journal of a search in .divergence/journal; name the "
        ".divergence folder of a machine that has done a share of one, or files of its journal "
        "folder\n"
    )
