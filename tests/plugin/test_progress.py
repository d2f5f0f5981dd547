"""What a search shows while it runs: on a terminal, in a log, under capture, in a worker."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console

from pytest_divergence.discovery.progress import Countdown
from pytest_divergence.plugin.progress_bar import LogListener, bar_on
from tests.plugin.conftest import MODELS, Project, shown

FAKE = ("-p", "tests.plugin.fake_search")
CASE_TEST = "def test_case(divergence_case): assert divergence_case.text\n"


def test_a_log_hears_where_a_long_phase_is_and_how_much_time_is_left() -> None:
    lines: list[str] = []
    has_beaten, tells_time = threading.Event(), threading.Event()

    def write(line: str) -> None:
        lines.append(line)
        (tells_time if "left" in line else has_beaten).set()

    listener = LogListener(write, interval=0.01)
    listener.progress("calibrate", 3, 64)
    assert has_beaten.wait(10)
    assert re.fullmatch(r"divergence: calibrate 3/64 \(\d\.\d s\)", lines[0])
    listener.expect(200.0)
    assert tells_time.wait(10)
    listener.close()
    assert re.fullmatch(r"divergence: calibrate 3/64 \(\d\.\d s, about 3 min left\)", lines[-1])


def test_what_takes_longer_than_it_was_expected_to_says_so() -> None:
    countdown = Countdown()
    assert str(countdown) == ""
    countdown.expect(-1.0)
    assert str(countdown) == "longer than estimated"


def test_a_bar_fits_80_columns_and_shows_the_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with bar_on(console) as listener:
        listener.progress("calibrate", 32, 64)
        listener.expect(200.0)
        listener.progress("minimise what causes a behaviour", 1, 12)
        listener.say("a line above the bar")
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", drawn)]
    assert "divergence: a line above the bar" in lines
    assert all(len(line) <= 80 for line in lines)
    drawn_last = [line for line in lines if "minimise what causes a behaviour" in line][-1]
    assert drawn_last.endswith("  1/12 about 3 min left")


def test_a_short_search_writes_no_such_line() -> None:
    lines: list[str] = []
    listener = LogListener(lines.append)
    listener.progress("calibrate", 3, 64)
    listener.say("the reference has no chat template")
    listener.close()
    assert lines == ["divergence: the reference has no chat template"]


def test_a_logs_thread_imports_nothing() -> None:
    """Beside one that compiles it would now and then die: pytest compiles what it rewrites."""
    code = (
        "import builtins, threading, pytest_divergence.plugin.progress_bar as listeners\n"
        "plain, seen = builtins.__import__, []\n"
        "def watched(*words, **more):\n"
        "    seen.append(threading.current_thread().name)\n"
        "    return plain(*words, **more)\n"
        "builtins.__import__ = watched\n"
        "listener = listeners.LogListener(lambda line: None, interval=60)\n"
        "listener.close()\n"
        "assert set(seen) <= {'MainThread'}, set(seen)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [(), ("test_cases.py",)], ids=["eager", "lazy"])
def test_what_the_search_says_is_seen_although_pytest_captures(
    project: Project, arguments: tuple[str, ...]
) -> None:
    project.write("test_cases.py", CASE_TEST)
    result = project.run_forked(*FAKE, *MODELS, *arguments)
    assert result.outlines.count("divergence: looking") == 1


@pytest.mark.slow
def test_a_worker_says_it_on_stderr(project: Project) -> None:
    project.pytester.makeini("[pytest]\ndivergence_model_1 = base\ndivergence_model_2 = ft\n")
    project.write("test_cases.py", CASE_TEST)
    result = project.run_forked(*FAKE, "-p", "xdist", "-n2")
    assert result.errlines.count("divergence: looking") == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_bar(project: Project) -> None:
    project.write("test_cases.py", CASE_TEST)
    command = [sys.executable, "-m", "pytest", "-p", "divergence", *FAKE, *MODELS, "test_cases.py"]
    divergence, theirs = os.openpty()
    run = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs
    )
    os.close(theirs)
    seen = b"".join(_until_closed(divergence)).decode("utf-8")  # a terminal holds a few kB at most
    os.close(divergence)
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


def test_quiet_sessions_show_one_line(project: Project) -> None:
    result = project.run(*FAKE, *MODELS, "-q")
    assert "= divergence =" not in shown(result)
    start = next(i for i, line in enumerate(result.outlines) if line.startswith("divergence: 1 of"))
    assert result.outlines[start] == (
        "divergence: 1 of 2 cases over the bound; report: .divergence/reports/run/report.html"
    )
    assert "FAILED" in result.outlines[start + 1] or "short test" in result.outlines[start + 1]
