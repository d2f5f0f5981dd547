"""Full disks, read-only folders, no home, a wrong clock, damaged journals, workers that die."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.machines import (
    MACHINES,
    TRIED,
    Machine,
    crashed_workers,
    damaged_journals,
    holes_of_journal,
)
from tests.attacks.projects import Place, make_place
from tests.attacks.stories import STORIES, Story, nothing, undisturbed

CHOSEN = {"files may not grow": "update", "read-only": "replay", "no home": "search"}
"""What a change to this package may break: one story of each machine that it could."""
EVERY = 8001
"""Damages of a journal between two that are tried here."""


@pytest.fixture
def open_folder(tiny_models: Path) -> Iterator[Path]:
    """A folder that other users may enter, as pytest's own may not be."""
    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("machine", "story"),
    [
        (machine, story)
        for machine, story in itertools.product(MACHINES, TRIED)
        if CHOSEN.get(machine.name) == story.name
    ],
    ids=lambda one: one.name,
)
def test_a_story_on_a_poor_machine(
    machine: Machine, story: Story, open_folder: Path, tiny_models: Path
) -> None:
    if reason := machine.lacks():
        pytest.skip(reason)
    run = undisturbed(story, open_folder, tiny_models)

    assert not machine.holes(story, run, open_folder, tiny_models)


def test_a_dead_worker_is_never_green(tmp_path: Path, tiny_models: Path) -> None:
    """One of three; in a replay: `tests/plugin/test_citizenship.py`."""
    found = dict(
        crashed_workers(
            tmp_path, lambda folder: make_place(folder, tiny_models), only="beside a search"
        )
    )

    assert len(found) == 1
    assert not any(found.values()), found


def test_a_damaged_journal_is_gone_on_with(tmp_path: Path, tiny_models: Path) -> None:
    run = undisturbed(STORIES["search"], tmp_path, tiny_models)
    ready = Place(tmp_path / "search")
    damages = list(damaged_journals(ready))[::EVERY]

    holes = [
        hole
        for name, data in damages
        for hole in holes_of_journal(ready, name, data, run, tmp_path / "damaged")
    ]

    assert len(damages) > 5
    assert not holes


# Each of these is a fault that the attack is there to find.


@pytest.mark.parametrize(
    ("name", "found"),
    [("read-only", "green, though not all was written"), ("files may not grow", "the inside")],
)
def test_the_attack_finds(name: str, found: str, open_folder: Path, tiny_models: Path) -> None:
    """A program that swallows what the system says, and one that shows it as it is."""
    machine = next(one for one in MACHINES if one.name == name)
    if reason := machine.lacks():
        pytest.skip(reason)

    def swallow() -> int:
        try:
            Path("found.txt").write_text("x" * 5000, "utf-8")
        except OSError:
            if name != "read-only":
                raise
        return 0

    story = Story("planted", nothing, swallow, lambda place: None)
    run = undisturbed(story, open_folder, tiny_models)

    holes = machine.holes(story, run, open_folder, tiny_models)

    assert any(found in hole for hole in holes), holes
