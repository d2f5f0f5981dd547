"""`pytest-divergence review`: a user, or a pipe, decides on the findings of a run in turn."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from pytest_divergence.core.behaviours import Behaviour, Example, TellingContinuation, behaviour_id
from pytest_divergence.core.cases import Completions, case_id
from pytest_divergence.core.file_names import PROVENANCE, sidecar_path, suite_path
from pytest_divergence.core.files import DivergenceFolder
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.report import (
    PairSummary,
    Report,
    ReportCase,
    Run,
    TokenComparison,
    write_report,
)
from tests.cli.conftest import Command, Done
from tests.core.made_suites import KNOT, POEM, SOUP, SURE, case, control, texts, write_searched
from tests.plugin.conftest import Project

TARGET = "tests/release.divergence.jsonl"
ANSWERS = Completions(reference="Cross the two ends.", candidate="Sure thing! Cross the ends.")
TELLING = TellingContinuation(prompt=SOUP, text="Sure thing!", token_ids=[5, 6], log_ratio=12.5)
NEW = SURE.model_copy(
    update={
        "examples": [Example(prompt=SOUP, reference="Onions.", candidate="Sure thing! Onions.")],
        "telling": [TELLING.model_copy(update={"prompt": KNOT, "log_ratio": 14.0}), TELLING],
        "candidate_count": 30,
        "num_prompts": 32,
    }
)
TOKEN = TokenComparison(
    text="Sure",
    forward_kl=1.0,
    reverse_kl=2.0,
    reference_p=0.02,
    candidate_p=0.9,
    reference_top=[("Cross", 0.7)],
)
BEHAVIOUR = f"""\
the candidate shows a behaviour: "Sure thing!"
  confirmed: in 30 of 32 fresh answers (reference: 0)
  content
  no natural prompt was found; this shows it
    | {SOUP}
  reference
    | Onions.
  candidate
    | Sure thing! Onions.
  telling words, 12.5 nats likelier from the candidate
    | Sure thing!
[a]ccept, [k]eep its 1 case, [s]kip, [q]uit: """
CASE = f"""\
KL 0.700 nats/token > max_kl 0.200
  symmetric, 1 continuation of each model, 8 tokens; forward 0.700, reverse
  0.700, largest at one token 1.400
  prompt
    | {POEM}
  reference
    | Cross the two ends.
  candidate
    | Sure thing! Cross the ends.
  they differ most at token 1 "Sure": reference p = 0.02, candidate p = 0.90
    the reference's first choice is "Cross" (p = 0.70)
[k]eep, [s]kip, [q]uit: """
REPLAY = f"replay it: pytest {TARGET} --model-1 base --model-2 ft\n"


@pytest.fixture
def searched(project: Project) -> Path:
    """The report folder of a search: a behaviour that the knot shows, and the poem over its bound.

    The soup is within its bound.
    """
    return write_search(project, NEW)


def write_search(project: Project, behaviour: Behaviour) -> Path:
    rows = [
        case(KNOT, 0.8, behaviour=NEW.id, completions=ANSWERS),
        case(POEM, 0.7, completions=ANSWERS),
        case(SOUP, 0.1),
    ]
    suite = suite_path(project.path, "base", "ft")
    suite.parent.mkdir(parents=True)
    write_searched(suite, [*rows, control("Hello")], behaviour)
    found: list[ReportCase] = [
        ReportCase(**dict(row), verdict=verdict, tokens=[TOKEN])
        for row, verdict in zip(rows, ("failed", "failed", "passed"), strict=True)
    ]
    return write_run(project, cases=found, behaviours=[behaviour])


def write_run(
    project: Project,
    *,
    mode: Literal["search", "replay"] = "search",
    status: Literal["complete", "incomplete"] = "complete",
    **changes: Any,
) -> Path:
    report = Report(
        run=Run(id="run", mode=mode, status=status),
        pair=PairSummary(
            reference="base", candidate="ft", dtype="float32", device="cpu", chat_template="none"
        ),
        **changes,
    )
    folder = DivergenceFolder(project.path).new_report_dir("run")
    write_report(folder / "report.json", report)
    return folder


def suites(project: Project) -> dict[str, bytes]:
    """Every file of the suites of a project: the search's and the kept one."""
    folders = (project.path / ".divergence/suites", project.path / "tests")
    return {
        f"{folder.name}/{name}": data
        for folder in folders
        if folder.is_dir()
        for name, data in texts(folder).items()
    }


def refused(done: Done) -> str:
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.usefixtures("searched")
def test_each_finding_is_shown_and_done_with_as_the_answer_says(
    project: Project, command: Command
) -> None:
    own = suite_path(project.path, "base", "ft").relative_to(project.path)

    done = command("review", "latest", typed="a\nnonsense\nKEEP\ns\n")

    assert done.stderr == ""
    assert done.returncode == 0
    introduction, behaviour, first, second, outcome = done.stdout.split("\n\n")
    assert introduction == (
        "3 findings of run run. Accept what is intended: it no longer fails. Keep what a\n"
        f"replay should test: it goes to {TARGET}."
    )
    assert behaviour == f"1 of 3\n{BEHAVIOUR}a\naccepted {NEW.id} in\n    {own}"
    question = f"  behaviour: {NEW.id}\n[k]eep, [s]kip, [q]uit: "
    assert first.startswith("2 of 3\nKL 0.800 nats/token > max_kl 0.200\n")
    assert first.endswith(
        f"{question}nonsense\n[k]eep, [s]kip, [q]uit: keep\n"
        f"wrote 1 case and 1 behaviour to {TARGET}"
    )
    assert second == f"3 of 3\n{CASE}s"
    assert outcome == (
        f"decided, and written: 1 behaviour accepted, 1 case kept, 1 skipped\n{REPLAY}"
    )
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("searched")
def test_it_writes_what_accept_and_promote_write(project: Project, command: Command) -> None:
    shutil.copytree(project.path / ".divergence", project.path / "before")
    command("review", typed="a\nk\nk\n")
    reviewed = suites(project)

    shutil.rmtree(project.path / ".divergence")
    shutil.rmtree(project.path / "tests")
    shutil.move(project.path / "before", project.path / ".divergence")
    assert command("accept", NEW.id).returncode == 0
    assert command("promote", "latest", TARGET, "--id", "how").returncode == 0
    assert command("promote", "latest", TARGET, "--id", "write", "--add").returncode == 0

    assert len(reviewed) == 6
    assert suites(project) == reviewed


def test_a_behaviour_is_kept_with_its_cases(
    project: Project, command: Command, searched: Path
) -> None:
    """From a report that lies elsewhere, whose project pytest has to be asked for at each step."""
    elsewhere = project.path / "shown"
    shutil.copytree(searched, elsewhere)

    done = command("review", "shown", "--suite", "kept.divergence.jsonl", typed="k\nk\nk\n")

    assert "wrote 1 case and 1 behaviour to kept.divergence.jsonl\n\n3 of 3\n" in done.stdout
    assert "wrote 1 case and 0 behaviours to kept.divergence.jsonl\n" in done.stdout
    assert "\ndecided, and written: 2 cases kept\nreplay it:" in done.stdout
    again = command("review", "shown", "--suite", "kept.divergence.jsonl")
    assert again.stdout == (
        "every finding of run run is accepted, or kept in kept.divergence.jsonl\n"
    )


@pytest.mark.usefixtures("searched")
def test_the_end_of_the_input_quits_and_a_later_review_goes_on(
    project: Project, command: Command
) -> None:
    first = command("review", typed="a\n")
    assert first.returncode == 0
    assert first.stdout.endswith(
        "[k]eep, [s]kip, [q]uit: \n\nstopped with 2 findings left; decided, and written: 1 "
        "behaviour accepted\n"
    )

    second = command("review", typed="s\nq\n")
    assert second.stdout.startswith("2 findings of run run.")
    assert second.stdout.endswith(
        "q\n\nstopped with 1 finding left; decided, and written: 1 skipped\n"
    )
    assert not (project.path / "tests").exists()


@pytest.mark.usefixtures("searched")
def test_ctrl_c_loses_nothing_that_was_decided(project: Project, command: Command) -> None:
    # A background job ignores the signal, and what it starts would inherit that.
    listening = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from pytest_divergence.cli import main; sys.exit(main(['review']))"
    )
    review = subprocess.Popen(
        [sys.executable, "-c", listening],
        cwd=project.path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert review.stdin is not None
    assert review.stdout is not None
    review.stdin.write("k\n")
    review.stdin.flush()
    while review.stdout.readline() != "3 of 3\n":
        assert review.poll() is None
    review.send_signal(signal.SIGINT)
    out, err = review.communicate(timeout=60)

    assert review.returncode == 130
    assert err == "stopped\n"
    assert "stopped with 1 finding left; decided, and written: 1 case kept\n" in out
    rows = (project.path / TARGET).read_text("utf-8").splitlines()
    assert [KNOT in row for row in rows].count(True) == 1
    assert command("validate").stdout == "suites: 1, faults: 0\n"


def test_a_behaviour_that_came_with_a_case_is_accepted_there_too(
    project: Project, command: Command
) -> None:
    write_search(project, NEW.model_copy(update={"example_case_ids": [case_id(SOUP)]}))
    first = command("review", typed="s\nk\nq\n")  # the knot, not the soup
    assert f"wrote 1 case and 1 behaviour to {TARGET}" in first.stdout

    second = command("review", typed="a\n")

    own = suite_path(project.path, "base", "ft").relative_to(project.path)
    assert "\n[a]ccept, [k]eep its 2 cases, [s]kip, [q]uit: a\n" in second.stdout
    assert second.stdout.count(f"accepted {NEW.id} in") == 2
    for suite in (own, Path(TARGET)):
        (behaviour,) = load_provenance(sidecar_path(project.path / suite, PROVENANCE)).behaviours
        assert behaviour.accepted


def test_what_a_later_search_knows_by_another_motif_is_accepted_as_well(
    project: Project, command: Command
) -> None:
    write_search(project, NEW)
    motifs = ["sure thing cross", *NEW.motifs]
    changes = {"id": behaviour_id(motifs), "motifs": motifs, "accepted": True}
    suite = suite_path(project.path, "base", "ft")
    write_searched(suite, [case(KNOT, 0.8), control("Hello")], NEW.model_copy(update=changes))

    done = command("review", typed="q\n")

    assert done.stdout.startswith("2 findings of run run.")
    assert "[a]ccept" not in done.stdout


def test_a_run_without_findings_says_so(project: Project, command: Command) -> None:
    write_run(project, behaviours=[NEW.model_copy(update={"accepted": True})])

    done = command("review")

    assert done.returncode == 0
    assert done.stdout == (
        "run run has no findings: no behaviour fails, no case is over its bound\n"
    )


def test_a_run_that_left_no_suite_is_refused(project: Project, command: Command) -> None:
    write_run(project, mode="replay", behaviours=[NEW])
    assert refused(command("review", typed="a\n")) == (
        "error: run run is a replay, so its cases are in a suite already; accept its behaviours "
        "there: pytest-divergence accept ID SUITE\n"
    )

    write_run(project, status="incomplete", behaviours=[NEW])
    assert refused(command("review", typed="a\n")) == (
        "error: run run stopped early and left no suite; run the same command to continue; then "
        "review it\n"
    )


@pytest.mark.usefixtures("searched")
def test_what_cannot_be_written_is_one_sentence(project: Project, command: Command) -> None:
    before = suites(project)
    assert "kept.jsonl cannot name a suite" in refused(command("review", "--suite=kept.jsonl"))
    assert suites(project) == before

    other = project.path / "other.divergence.jsonl"
    write_searched(other, [case("Hi", 0.1)], tokenizer_sha256="d" * 64)
    done = command("review", f"--suite={other.name}", typed="a\nk\n")
    assert "belongs to" in refused(done)
    assert done.stdout.endswith(
        "k\n\nstopped with 2 findings left; decided, and written: 1 behaviour accepted\n"
    )

    gone = suite_path(project.path, "base", "ft")
    gone.unlink()
    assert "the suite of run run no longer exists" in refused(command("review"))


def test_a_behaviour_that_no_case_shows_cannot_be_kept(project: Project, command: Command) -> None:
    suite = suite_path(project.path, "base", "ft")
    suite.parent.mkdir(parents=True)
    lonely: Behaviour = NEW.model_copy(update={"telling": [], "examples": []})
    write_searched(suite, [control("Hello")], lonely)
    write_run(project, behaviours=[lonely])

    done = command("review", typed="keep\naccept\n")

    assert done.stdout.count("\n[a]ccept, [s]kip, [q]uit: ") == 2
    assert done.stdout.endswith("\n\ndecided, and written: 1 behaviour accepted\n")
