"""Machines that are not what a program hopes for: a read-only disk, no home, damaged journals."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.attacks.projects import OTHER_PAIR, PAIR, SUITE, Place, left_in, session, three_files
from tests.attacks.stories import filled, own_suite


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted: {done.stderr.strip()[:80]}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_read_only_disk_a_replay_passes_and_an_update_says_why_not(
    disk: Path, place: Place
) -> None:
    filled(place)
    there = place.copy(disk)
    before = left_in(there)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    replayed = there.run(session(*PAIR, SUITE))
    updated = there.run(session(*OTHER_PAIR, SUITE, "--divergence-update"))

    assert replayed.is_green, replayed.end
    assert updated.code == 1
    assert not updated.has_crashed
    assert "stays as it was: cannot write" in " ".join(updated.text.split())
    assert "Read-only file system" in updated.text
    assert left_in(there) == before


def test_without_a_home_a_search_is_done_or_the_way_out_is_named(place: Place) -> None:
    """No HOME, no cache folder, and a user whom no list knows."""

    def nobody_is_known(number: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    def homeless() -> object:
        for name in ("HOME", "PYTEST_DIVERGENCE_CACHE", "XDG_CACHE_HOME", "USER", "LOGNAME"):
            os.environ.pop(name, None)
        pwd.getpwuid = nobody_is_known
        return session(*PAIR)()

    done = place.run(homeless)

    assert not done.has_crashed, done.end
    assert "PYTEST_DIVERGENCE_CACHE" in done.text or own_suite(place).is_file()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def without_a_line(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(lines[:1] + lines[2:])


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut, flipped, without_a_line])
def test_a_search_goes_on_with_damaged_journals(
    damage: Callable[[bytes], bytes], place: Place
) -> None:
    """What is lost is redone, and the suite is as it was."""
    place.run(session(*PAIR))
    was = three_files(own_suite(place))
    journals = list((place.project / ".divergence" / "journal").glob("*.jsonl"))
    assert journals
    for journal in journals:
        journal.write_bytes(damage(journal.read_bytes()))

    done = place.run(session(*PAIR))

    assert done.code in (0, 1), done.end
    assert not done.has_crashed, done.end
    assert three_files(own_suite(place)) == was
