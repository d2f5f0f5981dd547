"""Two processes at once on one project: each ends as if alone, or says why not."""

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
    make_place,
    session,
    strays_in,
    three_files,
)
from tests.attacks.stories import committed, filled, nothing, own_suite, searched


@dataclass(frozen=True)
class Crowd:
    """Processes that are started in one project, one right after the other."""

    name: str
    prepare: Callable[[Place], None]
    mains: Sequence[Main]
    suite: Callable[[Place], Path]
    """The suite that they write or read."""


_search = session(*PAIR)
_anew = session(*PAIR, "--divergence-mode=search")
_update, _back = (session(*pair, SUITE, "--divergence-update") for pair in (OTHER_PAIR, PAIR))
_promote = command("promote", "latest", SUITE)
CROWDS = (
    Crowd("search and search", nothing, (_search, _search), own_suite),
    Crowd("update and another update", filled, (_update, _back), committed),
    Crowd("promote and promote", searched, (_promote, _promote), committed),
    Crowd("search and promote", searched, (_anew, _promote), committed),
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
    if strays := strays_in(place):
        holes.append(f"left for ever: {', '.join(strays)}")
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
    return three_files(crowd.suite(place))
