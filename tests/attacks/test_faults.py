"""Commands that are killed or refused the disk at one change of a file, and then given again.

`ATTACK_EVERY=1` meets every change; `benchmarks/attack.py` does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.faults import Fault
from tests.attacks.stories import (
    STORIES,
    Story,
    committed,
    faults_of,
    filled,
    holes_of,
    nothing,
    undisturbed,
)

EVERY = int(os.environ.get("ATTACK_EVERY", "36"))


def holes_of_all(name: str, every: int | None, folder: Path, models: Path) -> list[str]:
    """What is wrong after faults at each `every`th change, or after one kill half way."""
    story = STORIES[name]
    run = undisturbed(story, folder, models)
    half_way = [Fault("kill", run.done.num_changes // 2)]
    return [
        f"{fault}: {hole}"
        for fault in (half_way if every is None else faults_of(run, every=every))
        for hole in holes_of(story, fault, run, folder, models)
    ]


@pytest.mark.parametrize("name", STORIES)
def test_a_command_that_is_killed_half_way_goes_on(
    name: str, tmp_path: Path, tiny_models: Path
) -> None:
    assert holes_of_all(name, None, tmp_path, tiny_models) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_a_disturbed_command_goes_on_as_if_nothing_had_been(
    name: str, tmp_path: Path, tiny_models: Path
) -> None:
    assert holes_of_all(name, EVERY, tmp_path, tiny_models) == []


# Each of these is a fault of a program that the plan is there to find.


def one_by_one(place: Path) -> int:
    """Writes three files one after the other, each whole: between them they are a mixture."""
    names = ("release.tokens.jsonl", "release.provenance.json", "release.divergence.jsonl")
    for name in names:
        path = place / "tests" / name
        stage = path.with_suffix(".new")
        stage.write_bytes(path.read_bytes().replace(b"0.", b"1."))
        os.replace(stage, path)
    return 0


def swallowed(place: Path) -> int:
    """Says that all is well, though the disk is full."""
    with contextlib.suppress(OSError):
        os.write(os.open(place / "found.txt", os.O_WRONLY | os.O_CREAT), b"found")
    return 0


def untidy(place: Path) -> int:
    """Leaves its stage where it is ended before the rename, and finds another name next time."""
    stage = place / f".found.{os.getpid():012x}.divergence-tmp"
    stage.write_text("found", "utf-8")
    os.replace(stage, place / "found.txt")
    return 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "kind", "found"),
    [
        (one_by_one, "kill", "neither the old nor the new"),
        (swallowed, "full", "green, though not all was written"),
        (untidy, "kill", "left for ever"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_plan_finds(
    program: Callable[[Path], int], kind: str, found: str, tmp_path: Path, tiny_models: Path
) -> None:
    story = Story(
        "planted",
        filled if program is one_by_one else nothing,
        lambda: program(Path.cwd()),
        committed,
    )
    run = undisturbed(story, tmp_path, tiny_models)

    holes = [
        hole
        for fault in faults_of(run)
        if fault.kind == kind
        for hole in holes_of(story, fault, run, tmp_path, tiny_models)
    ]

    assert any(found in hole for hole in holes), holes
