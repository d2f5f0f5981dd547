"""What a search shows while it runs: on a terminal, in a log, under capture, in a worker."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_divergence.listeners import LogListener
from tests.plugin.conftest import MODELS, Project, shown

FAKE = ("-p", "tests.plugin.fake_search")
CASE_TEST = "def test_case(divergence_case): assert divergence_case.text\n"


def test_a_log_hears_where_a_long_phase_is() -> None:
    lines: list[str] = []
    has_beaten = threading.Event()

    def write(line: str) -> None:
        lines.append(line)
        if "calibrate" in line:
            has_beaten.set()

    listener = LogListener(write, interval=0.01)
    listener.progress("calibrate", 3, 64)
    assert has_beaten.wait(10)
    listener.stop()
    assert "divergence: calibrate 3/64 (0.0 s)" in lines


def test_a_short_search_writes_no_such_line() -> None:
    lines: list[str] = []
    listener = LogListener(lines.append)
    listener.progress("calibrate", 3, 64)
    listener.say("the reference has no chat template")
    listener.stop()
    assert lines == ["divergence: the reference has no chat template"]


@pytest.mark.parametrize("arguments", [(), ("test_cases.py",)], ids=["eager", "lazy"])
def test_what_the_search_says_is_seen_although_pytest_captures(
    project: Project, arguments: tuple[str, ...]
) -> None:
    project.write("test_cases.py", CASE_TEST)
    result = project.run(*FAKE, *MODELS, *arguments, in_process=False)
    assert result.outlines.count("divergence: looking") == 1


def test_a_worker_says_it_on_stderr(project: Project) -> None:
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    project.write("test_cases.py", CASE_TEST)
    result = project.run(*FAKE, "-p", "xdist", "-n2", in_process=False)
    assert result.errlines.count("divergence: looking") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_bar(project: Project) -> None:
    project.write("test_cases.py", CASE_TEST)
    command = [sys.executable, "-m", "pytest", "-p", "divergence", *FAKE, *MODELS, "test_cases.py"]
    ours, theirs = os.openpty()
    run = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    seen = b"".join(_until_closed(ours)).decode("utf-8")  # a terminal holds a few kB at most
    os.close(ours)
    assert run.wait() == pytest.ExitCode.OK
    assert "divergence: looking" in seen
    assert "1/2" in seen


def _until_closed(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so where the other end is closed
            return
        if not chunk:
            return
        yield chunk


def test_quiet_sessions_show_the_outcome_and_the_paths(project: Project) -> None:
    result = project.run(*FAKE, *MODELS, "-q")
    assert "= divergence =" not in shown(result)
    start = next(i for i, line in enumerate(result.outlines) if line.startswith("1 of 2 prompts"))
    assert [line.split(" ")[0] for line in result.outlines[start:]][:7] == [
        "1",
        "nats/token.",
        "broke.",
        "",
        "report:",
        "suite:",
        "run",
    ]
