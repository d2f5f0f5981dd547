"""Messages between pytest-xdist's controller and workers, and the worker of each test.

Each message is built and read here, as plain values. Does not know how they are used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.file_names import SUITE_SUFFIX
from pytest_divergence.plugin._compat import scheduler_by_scope

CASE_TEST = re.compile(r"\[[^\]]*-[0-9a-f]{10}\b")
"""End of the node id of a test that runs once for each case."""
SUITE, REPORT_DIR = "divergence_suite_path", "divergence_report_dir"
EMPTIED, TWINS = "divergence_emptied_suites", "divergence_twins"
"""Keys of the messages."""


@dataclass(frozen=True)
class Told:
    """A controller's message to this worker."""

    run: str
    """An id that all workers of a run share."""
    suite: Path | None
    """The search's suite, which joins the session."""
    report_dir: Path | None
    """The folder of the controller's search."""


@dataclass(frozen=True)
class Heard:
    """A worker's message to its controller, at its end."""

    report_dir: Path | None
    """The folder of the search that it did, or was told about."""
    emptied: tuple[str, ...]
    """The suites whose items were all deselected, as they are shown to people."""
    twins: tuple[tuple[str, str], ...]
    """The specs of each pair that is one model twice."""


def is_controller(config: pytest.Config) -> bool:
    """Whether workers run the tests; known from `pytest_sessionstart` on."""
    return config.pluginmanager.hasplugin("dsession")


def tell_worker(node: Any, *, suite: Path | None, report_dir: Path | None) -> None:
    """Send the message to a worker that is about to start: strings only, no paths."""
    told = {SUITE: suite, REPORT_DIR: report_dir}
    node.workerinput.update({key: str(path) for key, path in told.items() if path is not None})


def told_by_controller(config: pytest.Config) -> Told | None:
    """Return the controller's message to this process; None if it is not a worker."""
    sent: Mapping[str, Any] | None = getattr(config, "workerinput", None)
    if sent is None:
        return None
    return Told(str(sent.get("testrunuid", "")), _path(sent, SUITE), _path(sent, REPORT_DIR))


def tell_controller(config: pytest.Config, heard: Heard) -> None:
    """Send the message to the controller, at the end of a worker."""
    output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
    output[EMPTIED], output[TWINS] = sorted(heard.emptied), sorted(heard.twins)
    if heard.report_dir is not None:
        output[REPORT_DIR] = str(heard.report_dir)


def heard_from_worker(node: Any) -> Heard:
    """Return a worker's message; an empty one if it was killed."""
    sent: Mapping[str, Any] = getattr(node, "workeroutput", {})
    twins = ((first, second) for first, second in sent.get(TWINS, ()))
    emptied = tuple(sent.get(EMPTIED, ()))
    return Heard(_path(sent, REPORT_DIR), emptied, tuple(twins))


def scheduler(config: pytest.Config, log: Any, *, has_cases: bool) -> Any:
    """Return a scheduler for `--dist load` that keeps our items on one worker.

    Only that worker loads the models; all other tests are spread as usual. `has_cases` says whether
    tests may run once for each case. None: use pytest-xdist's own scheduler.
    """
    if config.getoption("dist") != "load":
        return None

    def scope_of(nodeid: str) -> str:
        is_case_test = has_cases and CASE_TEST.search(nodeid)
        return "divergence" if is_case_test or f"{SUITE_SUFFIX}::" in nodeid else nodeid

    return scheduler_by_scope(config, log, scope_of)


def _path(sent: Mapping[str, Any], key: str) -> Path | None:
    return Path(sent[key]) if sent.get(key) else None
