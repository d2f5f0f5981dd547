"""One command for each kind of writer, in a project, undisturbed and with a fault.

The kinds are a suite of three files, a journal, a report, a cache and the folder of a training.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.suites import read_suite, suites_below
from tests.attacks.faults import Fault
from tests.attacks.projects import (
    OTHER_PAIR,
    PAIR,
    SUITE,
    Done,
    Main,
    Place,
    command,
    hand_written,
    left_in,
    make_place,
    session,
    strays_in,
    three_files,
)

KNOT, POEM, SOUP = "How do I tie a knot?", "Write a poem about rain.", "What goes into a soup?"
HOURS = 2 * 3600


@dataclass(frozen=True)
class Story:
    """A command, and the project that it is run in."""

    name: str
    prepare: Callable[[Place], None]
    main: Main
    suite: Callable[[Place], Path]
    """The suite that it may write."""

    def place(self, folder: Path, models: Path) -> Place:
        """The project, ready for the command; made once, and copied after that."""
        ready = folder / f"{self.name}-ready"
        if not ready.exists():
            self.prepare(make_place(ready, models))
        copy = folder / self.name
        shutil.rmtree(copy, ignore_errors=True)
        return Place(ready).copy(copy)


@dataclass(frozen=True)
class Undisturbed:
    """What a command did and left where nothing disturbed it."""

    done: Done
    read: tuple[object, object]
    """What a reader makes of its suite, before and after."""
    left: Mapping[str, object]


def undisturbed(story: Story, folder: Path, models: Path) -> Undisturbed:
    """Run a story's command as it should be; what it leaves is what all others must leave."""
    place = story.place(folder, models)
    before = _read(story, place)
    done = place.run(story.main)
    assert not done.has_crashed, done.text
    assert done.code in (0, 1), done.text
    return Undisturbed(done, (before, _read(story, place)), left_in(place))


def faults_of(run: Undisturbed, *, every: int = 1) -> Iterator[Fault]:
    """The faults to try: at each `every`th change a kill and a full disk, and a kill at the end."""
    for at in range(every // 2, run.done.num_changes, every):
        yield Fault("kill", at)
        yield Fault("full", at)
    yield Fault("kill", run.done.num_changes - 1)


def holes_of(story: Story, fault: Fault, run: Undisturbed, folder: Path, models: Path) -> list[str]:
    """What is wrong after a story was disturbed once and repeated: nothing, if all is well."""
    place = story.place(folder, models)
    first = place.run(story.main, fault=fault)
    holes = []
    if first.has_crashed:
        holes.append(f"the inside of the program is shown: {first.end}")
    if fault.kind == "kill" and first.code != -9:
        holes.append(f"it was not killed: {first.end}")
    if first.is_green and left_in(place) != run.left:
        holes.append(f"green, though not all was written: {first.end}")
    if fault.kind == "full" and not first.is_green and not first.text.strip():
        holes.append(f"it ended without a word: {first.end}")
    if _read(story, place) not in run.read:
        holes.append("the suite is neither the old nor the new")
    _age_strays(place)
    second = place.run(story.main)
    if second.has_crashed or second.code != run.done.code:
        holes.append(f"the same command again: {second.end}")
    left = left_in(place)
    for name in sorted(run.left):
        if left.get(name) != run.left[name]:
            holes.append(f"after the same command again {name} is not what it should be")
    if strays := strays_in(place):
        holes.append(f"left for ever: {', '.join(strays)}")
    return holes


def _read(story: Story, place: Place) -> object:
    """What a reader makes of a suite: rows, their tokens, provenance; None: it refuses."""
    suite = story.suite(place)
    try:
        stored = read_suite(suite)
    except DivergenceError:
        return None
    tokens = {row.id: stored.tokens[row.id] for row in stored.suite.rows if row.id in stored.tokens}
    provenance = three_files(suite)[suite.name.replace(".divergence.jsonl", ".provenance.json")]
    return stored.suite.rows, tokens, provenance


def _age_strays(place: Place) -> None:
    """The same command comes again hours later: what a killed process left has no owner."""
    then = time.time() - HOURS
    for path in place.path.rglob(".*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (then, then))


def own_suite(place: Place) -> Path:
    """The suite of the search."""
    folder = place.project / ".divergence" / "suites"
    found = suites_below(folder) if folder.is_dir() else []
    return found[0] if found else folder / "none.divergence.jsonl"


def committed(place: Place) -> Path:
    """The suite that is kept in git."""
    return place.suite


def nothing(place: Place) -> None:
    """An empty project."""


def searched(place: Place) -> None:
    """A project in which the pair was searched."""
    done = place.run(session(*PAIR))
    assert done.code in (0, 1), done.text
    assert not done.has_crashed, done.text


def filled(place: Place) -> None:
    """A project with a suite that was measured on the pair."""
    place.write(SUITE, hand_written(KNOT, POEM))
    done = place.run(session(*PAIR, SUITE, "--divergence-fill"))
    assert done.is_green, done.text


def with_texts(place: Place) -> None:
    """A project with a few texts to train on."""
    place.write("texts.txt", f"{KNOT}\n{POEM}\n{SOUP}\n")


TRAIN = (
    "train",
    *PAIR,
    "--train-file=texts.txt",
    "--output-dir=out",
    "--num-steps=2",
    "--num-soft-prompt-tokens=2",
    "--num-prompts=2",
    "--num-written=3",
    "--max-new-tokens=3",
)
STORIES = {
    story.name: story
    for story in (
        Story("search", nothing, session(*PAIR), own_suite),
        Story("update", filled, session(*OTHER_PAIR, SUITE, "--divergence-update"), committed),
        Story("report", searched, command("report", "latest"), own_suite),
        Story("calibrate", nothing, command("calibrate", *PAIR), committed),
        Story("train", with_texts, command(*TRAIN), committed),
    )
}
