"""Two and three processes at once on one project: each ends as if alone, or says why not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    make_place,
    names_in,
    session,
    three_files,
)
from tests.attacks.stories import (
    KNOT,
    POEM,
    filled,
    nothing,
    own_suite,
    searched,
    with_a_behaviour,
)
from tests.core.made_suites import SURE

UPDATE = "--divergence-update"
AGAIN = "--divergence-mode=search"


@dataclass(frozen=True)
class Crowd:
    """Processes that are started in one project, one right after the other."""

    name: str
    prepare: Callable[[Place], None]
    mains: Sequence[Main]
    suite: Callable[[Place], Path | None]
    """The suite that they write or read."""


def _both(place: Place) -> None:
    """A searched project with a measured suite in it."""
    searched(place)
    place.write(SUITE, hand_written(KNOT, POEM))
    assert place.run(session(*PAIR, SUITE, "--divergence-fill")).is_green


def _committed(place: Place) -> Path:
    return place.suite


_search, _replay = session(*PAIR), session(*PAIR, SUITE)
_update, _back = session(*OTHER_PAIR, SUITE, UPDATE), session(*PAIR, SUITE, UPDATE)
_promote = command("promote", "latest", SUITE)
_add = command("promote", "latest", "tests/b.divergence.jsonl", "--add")
CROWDS = (
    Crowd("search and search", nothing, (_search, _search), own_suite),
    Crowd("three searches", nothing, (_search, _search, _search), own_suite),
    Crowd("search and search of the same anew", searched, (session(*PAIR, AGAIN),) * 2, own_suite),
    Crowd("search and search of another", nothing, (_search, session(*OTHER_PAIR)), own_suite),
    Crowd("search and replay", _both, (session(*PAIR, AGAIN), _replay), _committed),
    Crowd("search and calibrate", nothing, (_search, command("calibrate", *PAIR)), own_suite),
    Crowd("update and the same update", filled, (_update, _update), _committed),
    Crowd("update and another update", filled, (_update, _back), _committed),
    Crowd("update and replay", filled, (_update, _replay, _replay), _committed),
    Crowd("promote and promote", searched, (_promote, _promote), _committed),
    Crowd("three promotions", searched, (_promote,) * 3, _committed),
    Crowd(
        "promote and add", searched, (_add, _add), lambda p: p.project / "tests/b.divergence.jsonl"
    ),
    Crowd("search and promote", searched, (session(*PAIR, AGAIN), _promote), _committed),
    Crowd(
        "accept and update",
        with_a_behaviour,
        (command("accept", SURE.id, SUITE), _update),
        _committed,
    ),
)


def holes_of(crowd: Crowd, folder: Path, models: Path, *, delay: float = 0.0) -> list[str]:
    """What is wrong after all of them have ended: nothing, if all is well."""
    ready = folder / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    crowd.prepare(make_place(ready, models))
    alone, codes = [_files(crowd, Place(ready))], {}
    kinds = list(dict.fromkeys(crowd.mains))
    for first in kinds:  # one after the other is as good as at once
        place = _copied(ready, folder / "alone")
        codes[first] = place.run(first).code
        alone.append(_files(crowd, place))
        for following in kinds:
            if following is not first:
                place.run(following)
                alone.append(_files(crowd, place))
    place = _copied(ready, folder / "at-once")
    running = []
    for main in crowd.mains:
        running.append(place.start(main))
        time.sleep(delay)
    ended = [one.wait() for one in running]
    done = [Done(one.returncode, one.stdout + one.stderr) for one in ended]
    holes = []
    for one, main in zip(done, crowd.mains, strict=True):
        code = codes[main]
        if one.has_crashed or one.code < 0:
            holes.append(f"one of them crashes: {one.end}")
        elif one.code != code and not _says_why(one):
            holes.append(f"one of them ends unlike alone ({code}), without a reason: {one.end}")
    if _files(crowd, place) not in alone:
        holes.append("the files are those of no one of them")
    if strays := [name for name in names_in(place) if is_stray(name)]:
        holes.append(f"left for ever: {', '.join(sorted(strays))}")
    return holes


def _copied(ready: Path, target: Path) -> Place:
    shutil.rmtree(target, ignore_errors=True)
    return Place(ready).copy(target)


def _says_why(done: Done) -> bool:
    words = (
        "exists already",
        "has changed since it was read",
        "stays as it was",
        "another search",
        "holds no report.json",  # a search has begun, and is the latest run already
        "ERROR",
    )
    return not done.is_green and any(word in done.text for word in words)


def _files(crowd: Crowd, place: Place) -> dict[str, object]:
    suite = crowd.suite(place)
    return {} if suite is None else three_files(suite)
