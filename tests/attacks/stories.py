"""The commands that write, each in a project that it is run in, undisturbed and with a fault."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.suites import read_suite, suites_below, write_stored
from tests.attacks.faults import KINDS, Event, Fault
from tests.attacks.projects import (
    OTHER_PAIR,
    PAIR,
    SUITE,
    Done,
    Main,
    Place,
    command,
    hand_written,
    is_stray,
    left_in,
    make_place,
    names_in,
    session,
    three_files,
)
from tests.core.made_suites import SURE

KNOT, POEM, SOUP = "How do I tie a knot?", "Write a poem about rain.", "What goes into a soup?"
HOURS = 2 * 3600
DONE_BEFORE = ("nothing to fill", "already")
"""What a command says that had ended but for its last words."""


@dataclass(frozen=True)
class Story:
    """A command, and the project that it is run in."""

    name: str
    prepare: Callable[[Place], None]
    main: Main
    suite: Callable[[Place], Path | None]
    """The suite that it writes; None: another file."""
    replayed_on: tuple[str, ...] = PAIR
    """The pair that a suite must not be passed on unmeasured."""
    replay: Callable[..., Main] = session
    """How it is replayed, given the pair and the suite."""

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
    before: Mapping[str, object]
    """The three files of its suite, before and after."""
    after: Mapping[str, object]
    read: Sequence[object]
    """What a reader makes of these files, before and after."""
    left: Mapping[str, object]
    names: frozenset[str]
    num_records: int
    """Lines that it wrote to journals."""

    @property
    def events(self) -> list[Event]:
        return list(self.done.events)


def undisturbed(story: Story, folder: Path, models: Path) -> Undisturbed:
    """Run a story's command as it should be; what it leaves is what all others must leave."""
    place = story.place(folder, models)
    before, read = _files(story, place), [_read(story, place)]
    done = place.run(story.main)
    assert not done.has_crashed, done.text
    assert done.code in (0, 1), done.text
    after = _files(story, place)
    names = frozenset(names_in(place))
    read.append(_read(story, place))
    return Undisturbed(done, before, after, read, left_in(place), names, _num_records(done.events))


def faults_of(run: Undisturbed, *, every: int = 1) -> Iterator[Fault]:
    """The faults to try: all of them, or at each `every`th event one kind, in turn.

    With these, in both cases: killed before each of a committed suite's files takes its place.
    """
    if every == 1:
        for kind in KINDS:
            yield from (
                Fault(kind, at)
                for at, event in enumerate(run.events)
                if kind != "torn" or event.name == "write"
            )
        yield Fault("kill", len(run.events))
        return
    for at, event in enumerate(run.events):
        if event.name == "rename" and event.path.startswith("project/tests/"):
            yield Fault("kill", at)
    for turn, at in enumerate(range(every // 2, len(run.events), every)):
        kind = KINDS[turn % len(KINDS)]
        if kind == "torn":
            writes = (n for n, event in enumerate(run.events) if n >= at and event.name == "write")
            torn = next(writes, None)
            kind, at = ("kill", at) if torn is None else ("torn", torn)
        yield Fault(kind, at)


def holes_of(story: Story, fault: Fault, run: Undisturbed, folder: Path, models: Path) -> list[str]:
    """What is wrong after a story was disturbed once and repeated: nothing, if all is well."""
    place = story.place(folder, models)
    first = place.run(story.main, fault=fault)
    if fault.kind in ("kill", "torn"):
        is_hit = first.code == -9 or fault.at >= len(run.events)
        holes = [] if is_hit else [f"it was not killed: {first.end}"]
    else:
        holes = list(wrong_end(first, run, left_in(place)))
    return holes + aftermath(story, run, place)


def aftermath(story: Story, run: Undisturbed, place: Place, **options: Any) -> list[str]:
    """What is wrong in a place whose command was disturbed, and when the same command comes again.

    `options` are those of the process that runs it.
    """
    holes = list(_wrong_state(story, place, run))
    whole = _whole_records(place)
    was_done = left_in(place) == run.left
    _age_strays(place)
    second = place.run(story.main, **options)
    if second.has_crashed:
        holes.append(f"the same command again crashes: {second.end}")
    is_over = was_done and any(word in second.text for word in DONE_BEFORE)
    if second.code != run.done.code and not is_over:
        holes.append(f"the same command again: {second.end}")
    left = left_in(place)
    for name in sorted(run.left):
        if left.get(name) != run.left[name] and not _is_view(name):
            holes.append(f"after the same command again {name} is not what it should be")
    if strays := {name for name in names_in(place) - run.names if not _is_run(name)}:
        holes.append(f"left for ever: {', '.join(sorted(strays))}")
    num_again = _num_records(second.events)
    if whole + num_again > max(run.num_records, whole):
        holes.append(
            f"finished work was done twice: {whole} records were whole, {num_again} were written "
            f"after that, and {run.num_records} are all"
        )
    return holes


def wrong_end(done: Done, run: Undisturbed, left: Mapping[str, object]) -> Iterator[str]:
    """What is wrong with how a command ended that the system refused something."""
    if done.has_crashed:
        yield f"the inside of the program is shown: {done.end}"
    if done.is_green and any(
        left.get(name) != value for name, value in run.left.items() if not _is_view(name)
    ):
        yield f"green, though not all was written: {done.end}"
    if not done.is_green and not done.text.strip():
        yield f"it ended without a word: {done.end}"


def _wrong_state(story: Story, place: Place, run: Undisturbed) -> Iterator[str]:
    """What is wrong with the suite that lies there now: neither old nor new, and not refused."""
    now = _files(story, place)
    suite = story.suite(place)
    if suite is None or now in (run.before, run.after) or not suite.is_file():
        return
    mixed = [
        f"{name} {'old' if value == run.before.get(name) else 'new'}"
        for name, value in now.items()
        if value in (run.before.get(name), run.after.get(name))
    ]
    what = ", ".join(mixed)
    read = _read(story, place)
    if read is not None and read in run.read:
        return  # as it was or as it will be, whatever else lies beside it
    replayed = place.run(story.replay(*story.replayed_on, str(suite.relative_to(place.project))))
    if replayed.has_crashed:
        yield f"a replay of a mixture crashes ({what}): {replayed.end}"
    if read is None and replayed.is_green:
        yield f"a replay of a suite that cannot be read passes ({what})"
    if read is not None and replayed.is_green:
        yield f"a mixture is read without a word and passes ({what})"


def _read(story: Story, place: Place) -> object:
    """What a reader makes of a suite: rows, their tokens, provenance; None: it refuses."""
    suite = story.suite(place)
    if suite is None:
        return None
    try:
        stored = read_suite(suite)
    except DivergenceError:
        return None
    name = suite.name.replace(".divergence.jsonl", ".provenance.json")
    tokens = {row.id: stored.tokens[row.id] for row in stored.suite.rows if row.id in stored.tokens}
    return stored.suite.rows, tokens, three_files(suite)[name]


def _files(story: Story, place: Place) -> dict[str, object]:
    suite = story.suite(place)
    return {} if suite is None else three_files(suite)


def _num_records(events: Sequence[Event]) -> int:
    return sum(event.name == "write" and "/journal/" in event.path for event in events)


def _whole_records(place: Place) -> int:
    journals = place.project.rglob(".divergence/journal/*.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in journals)


def _is_view(name: str) -> bool:
    """A page for people, which holds the time and the name of its run."""
    return name.endswith((".html", ".md"))


def _is_run(name: str) -> bool:
    """What a run that was ended leaves in the folder of its report, but for half files."""
    return "/reports/" in name and not is_stray(name)


def _age_strays(place: Place) -> None:
    """The same command comes again hours later: what a killed process left has no owner."""
    then = time.time() - HOURS
    for path in place.path.rglob(".*"):
        if path.is_file() and not path.is_symlink():
            os.utime(path, (then, then))


def own_suite(place: Place) -> Path | None:
    """The suite of the search."""
    folder = place.project / ".divergence" / "suites"
    found = suites_below(folder) if folder.is_dir() else []
    return found[0] if found else folder / "none.divergence.jsonl"


def _ok(place: Place, main: Main) -> None:
    done = place.run(main)
    assert done.code in (0, 1), done.text
    assert not done.has_crashed, done.text


def nothing(place: Place) -> None:
    """An empty project."""


def searched(place: Place) -> None:
    """A project in which the pair was searched."""
    _ok(place, session(*PAIR))


def filled(place: Place) -> None:
    """A project with a suite that was measured on the pair."""
    place.write(SUITE, hand_written(KNOT, POEM))
    _ok(place, session(*PAIR, SUITE, "--divergence-fill"))


def half_promoted(place: Place) -> None:
    """A project with a suite that holds one of the search's cases."""
    searched(place)
    suite = own_suite(place)
    assert suite is not None
    first = read_suite(suite).suite.cases[0].id
    _ok(place, command("promote", "latest", SUITE, "--id", first))


def half_filled(place: Place) -> None:
    """A project with a measured suite and one more row, written by hand."""
    filled(place)
    with place.suite.open("a", encoding="utf-8") as file:
        file.write('{"input": "' + SOUP + '"}\n')


def with_a_behaviour(place: Place) -> None:
    """A project with a suite that knows a behaviour."""
    filled(place)
    stored = read_suite(place.suite)
    assert stored.provenance is not None
    known = stored.provenance.model_copy(update={"behaviours": [SURE]})
    write_stored(place.suite, stored.suite.rows, stored.tokens.values(), known)


def with_texts(place: Place) -> None:
    """A project with a few texts to train on."""
    place.write("texts.txt", f"{KNOT}\n{POEM}\n{SOUP}\n")


def committed(place: Place) -> Path | None:
    """The suite that is kept in git."""
    return place.suite


def _no_suite(place: Place) -> Path | None:
    return None


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
        Story(
            "update",
            filled,
            session(*OTHER_PAIR, SUITE, "--divergence-update"),
            committed,
            OTHER_PAIR,
        ),
        Story("fill", half_filled, session(*PAIR, SUITE, "--divergence-fill"), committed),
        Story("promote", searched, command("promote", "latest", SUITE), committed),
        Story(
            "promote-add", half_promoted, command("promote", "latest", SUITE, "--add"), committed
        ),
        Story("record", filled, command("record", SUITE, PAIR[0]), committed),
        Story("accept", with_a_behaviour, command("accept", SURE.id, SUITE), committed),
        Story("report", searched, command("report", "latest"), _no_suite),
        Story("calibrate", nothing, command("calibrate", *PAIR), _no_suite),
        Story(
            "export",
            filled,
            command("export", SUITE, "--format=promptfoo", "--output=cases.yaml"),
            _no_suite,
        ),
        Story("train", with_texts, command(*TRAIN), _no_suite),
    )
}
