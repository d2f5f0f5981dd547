"""Machines that are not what a program hopes for: full, read-only, homeless, with a wrong clock."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.attacks.faults import Fault
from tests.attacks.projects import PAIR, SUITE, Main, Place, left_in, session
from tests.attacks.stories import (
    STORIES,
    Story,
    Undisturbed,
    aftermath,
    committed,
    filled,
    wrong_end,
)

DAY = 86_400
REPLAY = Story("replay", filled, session(*PAIR, SUITE), committed)
TRIED = (*(STORIES[name] for name in ("search", "update", "promote", "accept", "report")), REPLAY)


@dataclass(frozen=True)
class Machine:
    """A machine on which the stories are tried."""

    name: str
    holes: Callable[[Story, Undisturbed, Path, Path], list[str]]
    """Of one story that ran undisturbed elsewhere, in a folder, with the models."""
    lacks: Callable[[], str | None] = lambda: None
    """Why it cannot be tried here."""


def _can_mount() -> str | None:
    if os.geteuid() != 0:
        return "only root can mount a small disk"
    probe = Path("/tmp") / f"attack-mount-{os.getpid()}"
    probe.mkdir()
    try:
        done = subprocess.run(_mount(probe, "64k"), capture_output=True, text=True, check=False)
        if done.returncode:
            return f"no disk can be mounted: {done.stderr.strip()[:80]}"
        subprocess.run(["umount", str(probe)], check=True)
        return None
    finally:
        probe.rmdir()


def _mount(place: Path, size: str) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]


def _short_files(story: Story, run: Undisturbed, folder: Path, models: Path) -> list[str]:
    """No file may grow over so many bytes, which is how a quota shows."""
    holes = []
    for size in (300, 3000):
        place = story.place(folder, models)
        first = place.run(_limited(story.main, size))
        holes += [f"{size} bytes: {hole}" for hole in wrong_end(first, run, left_in(place))]
        holes += [f"{size} bytes: {hole}" for hole in aftermath(story, run, place)]
    return holes


def _limited(main: Main, size: int) -> Main:
    def whole() -> object:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return main()

    # stdout is a file here, and would be full too.
    return lambda: _through_a_pipe(whole)


def _through_a_pipe(main: Main) -> object:
    """Run `main` with its streams in a pipe that `cat` reads: what it says is no file."""
    reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    assert reader.stdin is not None
    for number in (1, 2):
        os.dup2(reader.stdin.fileno(), number)
    reader.stdin.close()
    try:
        return main()
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number in (1, 2):
            os.close(number)
            os.open(os.devnull, os.O_WRONLY)
        reader.wait()


def _small_disk(story: Story, run: Undisturbed, folder: Path, models: Path) -> list[str]:
    """A real disk with little room left."""
    holes = []
    for spare in (0, 12):
        source = story.place(folder, models)
        disk = folder / "disk"
        disk.mkdir(exist_ok=True)
        used = sum(-(-p.stat().st_size // 4096) * 4 for p in source.path.rglob("*") if p.is_file())
        subprocess.run(_mount(disk, f"{used + spare + 200}k"), check=True)
        try:
            place = source.copy(disk / "place")
            stuffing = disk / "stuffing"
            _fill(stuffing, spare)
            first = place.run(story.main)
            holes += [f"{spare} kB: {hole}" for hole in wrong_end(first, run, left_in(place))]
            stuffing.unlink()
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            holes += [f"{spare} kB: {hole}" for hole in aftermath(story, run, place)]
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    return holes


def _fill(path: Path, spare: int) -> None:
    """Take all the disk but `spare` kB."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                break
        file.truncate(max(0, path.stat().st_size - spare * 1024))


def _read_only(story: Story, run: Undisturbed, folder: Path, models: Path) -> list[str]:
    """The disk may not be written: what need not write works, and all else says so."""
    disk = folder / "read-only" / "place"  # what is noted of the process lies beside it
    disk.mkdir(parents=True, exist_ok=True)
    subprocess.run(_mount(disk, "64m"), check=True)
    try:
        place = story.place(folder, models).copy(disk)
        before = left_in(place)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        first = place.run(story.main)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        holes = [*wrong_end(first, run, left_in(place))]
        if left_in(place) != before:
            holes.append("something was written")
        if story is REPLAY and first.code != run.done.code:
            holes.append(f"a replay needs to write: {first.end}")
        return holes + aftermath(story, run, place)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _homeless(story: Story, run: Undisturbed, folder: Path, models: Path) -> list[str]:
    """No HOME, no cache folder, and a user whom no list knows: done, or the way out is named."""
    place = story.place(folder, models)

    def homeless() -> object:
        for name in ("HOME", "PYTEST_DIVERGENCE_CACHE", "XDG_CACHE_HOME", "USER", "LOGNAME"):
            os.environ.pop(name, None)
        pwd.getpwuid = _nobody_is_known
        return story.main()

    done = place.run(homeless)
    holes = [*wrong_end(done, run, left_in(place))]
    if done.code != run.done.code and "PYTEST_DIVERGENCE_CACHE" not in done.text:
        holes.append(f"without a home it cannot be done: {done.end}")
    return holes


def _nobody_is_known(number: int) -> NoReturn:
    raise KeyError(f"getpwuid(): uid not found: {number}")


def _back_in_time(story: Story, run: Undisturbed, folder: Path, models: Path) -> list[str]:
    """Ended in its middle, and given again on the day before: all files are of the future."""
    place = story.place(folder, models)
    place.run(story.main, fault=Fault("kill", len(run.events) // 2))
    return [
        hole
        for hole in aftermath(_yesterday(story), run, place)
        if "left for ever" not in hole  # a stray of the future has an owner, as far as one knows
    ]


def _yesterday(story: Story) -> Story:
    real = time.time

    def whole() -> object:
        time.time = lambda: real() - DAY
        return story.main()

    return Story(story.name, story.prepare, whole, story.suite, story.replayed_on, story.replay)


MACHINES = (
    Machine("files may not grow", _short_files),
    Machine("a small disk", _small_disk, _can_mount),
    Machine("read-only", _read_only, _can_mount),
    Machine("no home", _homeless),
    Machine("a clock that goes back", _back_in_time),
)


def crashed_workers(
    folder: Path, make: Callable[[Path], Place], *, only: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Workers of pytest-xdist that die while they search, replay or wait: never green."""
    dying = "import os, pytest\n"
    dies: dict[str, tuple[str, tuple[str, ...]]] = {
        "in a test beside a search": (
            f"{dying}def test_it(divergence_case):\n    os._exit(1)\n",
            PAIR,
        ),
        "in a test with the pair": (f"{dying}def test_it(model_pair):\n    os._exit(1)\n", PAIR),
        "in a test beside a replay": (f"{dying}def test_it():\n    os._exit(1)\n", (*PAIR, ".")),
    }
    for number, (name, (test, words)) in enumerate(dies.items()):
        if only not in name:
            continue
        place = make(folder / f"workers-{number}")
        if "." in words:
            filled(place)
        place.write("test_it.py", test)
        arguments = ("-p", "xdist", "-n2", "--max-worker-restart=0", *words)
        done = place.run(session(*arguments))
        yield name, [] if done.code == 1 and "crashed" in done.text else [done.end]


def damaged_journals(place: Place) -> Iterator[tuple[str, bytes]]:
    """The journals of a searched project, each with one damage; yields the file's name."""
    for path in sorted((place.project / ".divergence" / "journal").glob("*.jsonl")):
        data = path.read_bytes()
        lines = data.splitlines(keepends=True)
        for at in range(len(data)):
            yield path.name, data[:at]
            yield path.name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        for at, line in enumerate(lines):
            yield path.name, b"".join(lines[:at] + lines[at + 1 :])
            yield path.name, b"".join([*lines[:at], line, *lines[at:]])
            yield path.name, b"".join([*lines[:at], b"\n", *lines[at:]])
            yield path.name, b"".join(lines[at:] + lines[:at])


def holes_of_journal(
    ready: Place, name: str, data: bytes, run: Undisturbed, folder: Path
) -> list[str]:
    """What is wrong when a search goes on with a damaged journal."""
    shutil.rmtree(folder, ignore_errors=True)
    place = ready.copy(folder)
    (place.project / ".divergence" / "journal" / name).write_bytes(data)
    done = place.run(session(*PAIR))
    if done.has_crashed:
        return [f"it crashes: {done.end}"]
    if not done.is_green and done.code != run.done.code:
        return [] if name.split(".")[0] in done.text else [f"it ends without a reason: {done.end}"]
    now, then = left_in(place), run.left
    suites = [one for one in then if "/suites/" in one]
    return [f"{one} is not what it was" for one in suites if now.get(one) != then[one]]
