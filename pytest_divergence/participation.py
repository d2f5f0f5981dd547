"""Which suites and cases take part in a session, and how pytest and its workers are told.

Loaded in every session, so nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.failing import usage_errors
from pytest_divergence.options import SUITE_SUFFIX
from pytest_divergence.pairs import INI
from pytest_divergence.progress_display import SKIP_PREFIX
from pytest_divergence.session import FOLDER, NO_MODELS, REPORT_KEY, DivergenceSession, of

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.discovery.run import SearchOutcome

SUITE_KEY = "divergence_suite_path"
"""Under which pytest-xdist's controller tells its workers which suite joins."""
CASE_SUITE = pytest.StashKey[Path]()
"""Of a test: the suite that its case stands in."""


@dataclass(frozen=True)
class SuiteCase:
    """A case, and the suite that it stands in."""

    case: Case
    suite: Path


@dataclass(frozen=True)
class NoCase:
    """Stands for the case of a test whose filters let none pass: an error, and no skip."""

    reason: str


def named_suites(session: DivergenceSession) -> list[Path]:
    """The suites among the session's arguments."""
    return [path for path in session.arguments if path.name.endswith(SUITE_SUFFIX)]


def mode(session: DivergenceSession) -> str:
    """`search`, `replay` or `off`; `auto` replays given suites, and always in CI."""
    asked = session.resolved.settings.mode
    if asked != "auto":
        return asked
    is_replay = is_ci() or named_suites(session) or session.updates
    return "replay" if is_replay else "search"


def is_ci() -> bool:
    """Whether this is a CI service: nobody watches, and nothing that is written is kept."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def adds_own_suite(session: DivergenceSession) -> bool:
    """Whether the search's cases join the session without being named."""
    choice = session.choice("builtin_suite")
    if not session.has_models or session.is_off or choice == "off":
        return False
    is_ours = session.is_asked and not session.has_paths and not session.updates
    return choice == "on" or is_ours


def joining_suite(session: DivergenceSession) -> Path | None:
    """The search's suite, where it joins this session and exists."""
    if session.worker_input is not None:
        sent = session.worker_input.get(SUITE_KEY)
        return Path(sent) if sent else None
    if not adds_own_suite(session):
        return None
    return session.own_suite if session.outcome or session.own_suite.is_file() else None


def more_arguments(session: DivergenceSession) -> list[str]:
    """The search's suite as an argument of the session, unless a folder among them leads to it.

    Before pytest 9 a folder and a file inside of it, both given, collected the file alone.
    """
    suite = joining_suite(session)
    if suite is None or any(path in suite.parents for path in session.arguments):
        return []
    return [str(suite)]


def prepare(session: DivergenceSession) -> None:
    """Before collection: search, or make sure that there is something to replay.

    Nothing happens where only a path or the ini file could ask for the models: that shows later.
    """
    is_wanted = not session.is_off and not session.is_listing
    if is_wanted and session.is_asked and not (session.has_models or session.config.getini(INI)):
        raise pytest.UsageError(f"a search {NO_MODELS}")
    is_ours = session.has_models and is_wanted
    is_eager = session.is_asked and (session.is_controller or not session.has_paths)
    if is_ours and (is_eager or adds_own_suite(session)):
        session.is_used = True
        if mode(session) == "search":
            session.outcome()
        elif adds_own_suite(session):
            _require_suite(session)
    if session.is_controller and (session.is_used or named_suites(session)):
        _validate_suites(session)


def is_hidden(path: Path, config: pytest.Config) -> bool | None:
    """Whether to ignore a path of `.divergence/`: all but the suites that take part.

    None for paths elsewhere. The folder would be skipped as a hidden one, suites and all.
    """
    if FOLDER not in path.parts:
        return None
    session = of(config)
    own = joining_suite(session)
    shown = [*named_suites(session), *([own] if own else [])]
    return not any(path in (one, *one.parents[:2]) for one in shown)


def cases_for(session: DivergenceSession, marks: Iterator[pytest.Mark]) -> list[SuiteCase]:
    """What `divergence_case` stands for in one test, after its marker's filters.

    Suite by suite, so that each pair of models is loaded once, and by id.
    """
    chosen = everything = session_cases(session)
    for wanted in (mark.kwargs for mark in marks):
        ids = wanted.get("id")
        ids = [ids] if isinstance(ids, str) else ids
        chosen = [
            one
            for one in chosen
            if (ids is None or one.case.id in ids)
            and wanted.get("behaviour") in (None, one.case.behaviour)
        ]
        if (limit := wanted.get("limit")) is not None:
            by_kl = sorted(chosen, key=lambda one: -(one.case.kl.value if one.case.kl else 0.0))
            chosen = by_kl[: max(limit, 0)]
    suites = list(dict.fromkeys(one.suite for one in everything))
    return sorted(chosen, key=lambda one: (suites.index(one.suite), one.case.id))


def session_cases(session: DivergenceSession) -> list[SuiteCase]:
    """The cases of the named suites in replay, else of the search. Raises UsageError."""
    from pytest_divergence.core.suites import load_suite

    session.is_used = True
    with usage_errors(session):
        paths = named_suites(session)
        if mode(session) == "search" and not session.is_listing:
            paths = [session.own_suite] if search_outcome(session).report.has_cases else []
        elif not paths and session.own_suite.is_file():
            paths = [session.own_suite]
        elif not paths and not session.is_listing:
            raise _nothing_to_replay(session)
        return [SuiteCase(case, path) for path in paths for case in load_suite(path).cases]


def _suites_below(session: DivergenceSession) -> Iterator[Path]:
    """Every suite that pytest would find from the session's arguments."""
    hidden = session.config.getini("norecursedirs")
    for path in session.arguments:
        if path.is_file() and path.name.endswith(SUITE_SUFFIX):
            yield path
        for folder, below, files in os.walk(path):
            below[:] = [one for one in below if not any(fnmatch(one, p) for p in hidden)]
            yield from (Path(folder, file) for file in files if file.endswith(SUITE_SUFFIX))


def _require_suite(session: DivergenceSession) -> None:
    if not session.own_suite.is_file() and not any(_suites_below(session)):
        raise _nothing_to_replay(session)


def _nothing_to_replay(session: DivergenceSession) -> pytest.UsageError:
    is_ci = session.resolved.settings.mode == "auto"
    why = ", and in CI nothing is searched unless you ask for it" if is_ci else ""
    return pytest.UsageError(
        f"there is no suite to replay: no *{SUITE_SUFFIX} is given, nor is there "
        f"{session.shown(session.own_suite)}{why}; commit a suite and name it, or search with "
        "--divergence-mode=search"
    )


def search_outcome(session: DivergenceSession) -> SearchOutcome:
    """The outcome of this session's search. Raises UsageError where it only replays."""
    if session.has_models and mode(session) != "search":
        raise pytest.UsageError(
            "this needs a search, and this session only replays; add --divergence-mode=search"
        )
    return session.outcome()


def for_workers(session: DivergenceSession) -> dict[str, str]:
    """What the controller of pytest-xdist tells its workers."""
    told = {}
    if (suite := joining_suite(session)) is not None:
        told[SUITE_KEY] = str(suite)
    if session.outcome:
        told[REPORT_KEY] = str(session.outcome().report_dir)
    return told


def _validate_suites(session: DivergenceSession) -> None:
    """Workers cannot end a session by one clear error, so their controller looks first."""
    from pytest_divergence.core.stored import read_suite
    from pytest_divergence.measuring import suite_bounds

    with usage_errors(session):
        for path in _suites_below(session):
            suite_bounds(session, path, read_suite(path))
            models = session.models_for(path)
            if models is not None and not session.outcome:
                session.pairs.check(models)


def parametrize(metafunc: pytest.Metafunc, session: DivergenceSession) -> None:
    """Give a test that takes `divergence_case` one run a case; our id comes first in brackets."""
    try:
        params = _params(metafunc, session)
    except pytest.UsageError:
        if session.worker_input is not None:
            raise
        params = []  # `session.error` ends the session once this file is collected
    metafunc.parametrize("divergence_case", params, indirect=True)


def _params(metafunc: pytest.Metafunc, session: DivergenceSession) -> list[Any]:
    has_cases = session.has_models or named_suites(session)
    if session.is_off or not has_cases:
        why = "--divergence-mode=off" if session.is_off else f"divergence_case {NO_MODELS}"
        return [_skipped("unconfigured", why)]
    cases = cases_for(session, metafunc.definition.iter_markers("divergence"))
    if not cases and session.is_listing:
        return [_skipped("pending", "no search has run yet")]
    if not cases and session_cases(session):
        return [pytest.param(_no_case(metafunc), id="none")]
    if not cases:
        return [_skipped("none", "the search found no case")]
    times = Counter(one.case.id for one in cases)
    return [
        pytest.param(
            one,
            id=one.case.id if times[one.case.id] == 1 else with_suite(one.suite, one.case.id),
            marks=pytest.mark.divergence(id=one.case.id, behaviour=one.case.behaviour),
        )
        for one in cases
    ]


def with_suite(suite: Path, case_id: str) -> str:
    """A case's id where two suites of one session hold its prompt."""
    return f"{suite.name.removesuffix(SUITE_SUFFIX)}-{case_id}"


def _no_case(metafunc: pytest.Metafunc) -> NoCase:
    marks = metafunc.definition.iter_markers("divergence")
    given = ", ".join(f"{key}={value!r}" for mark in marks for key, value in mark.kwargs.items())
    return NoCase(
        f"no case of this session passes the filters of this test, divergence({given}), so that it "
        "would test nothing; correct them, or name the suite that holds such cases"
    )


def _skipped(name: str, why: str) -> Any:
    return pytest.param(None, id=name, marks=pytest.mark.skip(reason=SKIP_PREFIX + why))
