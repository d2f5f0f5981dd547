"""Commands that are killed, torn or refused the disk at one file event, and then given again.

`ATTACK_EVERY=1` meets every event; `benchmarks/attack.py` does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.faults import Fault
from tests.attacks.projects import PAIR, SUITE, Main, Place, session
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


@pytest.mark.parametrize("name", STORIES)
def test_a_disturbed_command_goes_on_as_if_nothing_had_been(
    name: str, attacked: Path, tiny_models: Path
) -> None:
    story = STORIES[name]
    run = undisturbed(story, attacked, tiny_models)

    holes = [
        f"{fault} ({run.events[fault.at] if fault.at < len(run.events) else 'the end'}): {hole}"
        for fault in faults_of(run, every=EVERY)
        for hole in holes_of(story, fault, run, attacked, tiny_models)
    ]

    assert not holes, "\n".join(holes)


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


def in_place(place: Path) -> int:
    """Writes over a file that is there: cut, it is half of one."""
    path = place / "tests" / "release.provenance.json"
    data = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**data, "settings": {"x": 1}}), "utf-8")
    return 0


def swallowed(place: Path) -> int:
    """Says that all is well, though the disk is full."""
    try:
        (place / "found.txt").write_text("found", "utf-8")
    except OSError:
        return 0
    return 0


def shouting(place: Path) -> int:
    """Shows its inside where the disk is full."""
    (place / "found.txt").write_text("found", "utf-8")
    return 0


def twice(place: Path) -> int:
    """Does again what it had done: a journal that no one reads."""
    folder = place / ".divergence" / "journal"
    folder.mkdir(parents=True, exist_ok=True)
    for unit in range(4):
        with (folder / "x.jsonl").open("a") as journal:
            journal.write(f"{unit}\n")
    return 0


def untidy(place: Path) -> int:
    """Leaves its stage where it is ended before the rename, and finds another name next time."""
    stage = place / f".found.{os.getpid():012x}.divergence-tmp"
    stage.write_text("found", "utf-8")
    os.replace(stage, place / "found.txt")
    return 0


def main_of(program: Callable[[Path], int]) -> Main:
    return lambda: program(Path.cwd())


@pytest.mark.parametrize(
    ("program", "kinds", "found"),
    [
        (one_by_one, ("kill",), "new"),
        (in_place, ("torn",), "the same command again"),
        (swallowed, ("ENOSPC",), "green, though not all was written"),
        (shouting, ("EIO",), "the inside of the program is shown"),
        (twice, ("kill",), "finished work was done twice"),
        (untidy, ("kill",), "left for ever"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_plan_finds(
    program: Callable[[Path], int],
    kinds: tuple[str, ...],
    found: str,
    tmp_path: Path,
    tiny_models: Path,
) -> None:
    is_of_suite = program in (one_by_one, in_place)
    story = Story(
        "planted",
        filled if is_of_suite else nothing,
        main_of(program),
        committed if is_of_suite else lambda place: None,
    )
    run = undisturbed(story, tmp_path, tiny_models)

    holes = [
        hole
        for fault in faults_of(run)
        if fault.kind in kinds
        for hole in holes_of(story, fault, run, tmp_path, tiny_models)
    ]

    assert any(found in hole for hole in holes), holes


def test_the_plan_finds_a_replay_that_lets_a_mixture_pass(
    tmp_path: Path, tiny_models: Path
) -> None:
    """Replayed by one that compares nothing, any mixture passes."""
    story = Story(
        "planted", filled, main_of(one_by_one), committed, replay=lambda *words: lambda: 0
    )
    run = undisturbed(story, tmp_path, tiny_models)

    (fault,) = (
        Fault("kill", at)
        for at, event in enumerate(run.events)
        if event.name == "rename" and "divergence.jsonl" in event.path
    )
    holes = holes_of(story, fault, run, tmp_path, tiny_models)

    assert any("passes" in hole for hole in holes), holes


def test_a_fault_comes_at_its_event(place: Place) -> None:
    """The same event each time: the first write to the file is torn in its middle."""

    def write() -> int:
        with open("a.txt", "w") as file:
            file.write("abcdef")
        return 0

    whole = place.run(write)
    assert [str(event) for event in whole.events] == [
        "create project/a.txt",
        "write project/a.txt",
    ]
    (place.project / "a.txt").unlink()
    torn = place.run(write, fault=Fault("torn", 1))
    assert torn.code == -9
    assert (place.project / "a.txt").read_text() == "abc"
    refused = place.run(write, fault=Fault("EIO", 1))
    assert "Input/output error" in refused.text


def test_a_suite_that_was_filled_is_replayed(place: Place) -> None:
    """What the stories start from is a gate that passes."""
    filled(place)
    assert place.run(session(*PAIR, SUITE)).is_green
