"""What pytest-xdist's controller and workers tell each other, and which worker runs which test.

Each message is built and read here, as plain values: a worker's session says what it was told, its
controller's what it heard. Does not know what is done with it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.file_names import SUITE_SUFFIX
from pytest_divergence.plugin._compat import scheduler_by_scope

OUR_NODEIDS = re.compile(rf"{re.escape(SUITE_SUFFIX)}::|\[[^\]]*-[0-9a-f]{{10}}\b")
"""Suite items, and tests that run once for each case."""
SUITE, REPORT_DIR = "divergence_suite_path", "divergence_report_dir"
EMPTIED, TWINS = "divergence_emptied_suites", "divergence_twins"
REPLAYED = "divergence_replayed"
"""Keys of the messages."""


@dataclass(frozen=True)
class Told:
    """What a controller told this worker."""

    run: str
    """The same for all workers of a run."""
    suite: Path | None
    """The search's, which joins the session."""
    report_dir: Path | None
    """Of the search that the controller did."""


@dataclass
class ReplayLog:
    """What items of replayed suites came to, and when the first was asked for."""

    started: float | None = None
    """Seconds, by the clock that all processes share."""
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By node id: plain values."""

    def note(self, nodeid: str, entry: dict[str, Any]) -> None:
        """Take what an item of this process came to."""
        self.started = time.time() if self.started is None else self.started
        self.entries[nodeid] = entry

    def add(self, other: ReplayLog) -> None:
        """Take what another process has come to."""
        times = [one for one in (self.started, other.started) if one is not None]
        self.started = min(times, default=None)
        self.entries |= other.entries


@dataclass(frozen=True)
class Heard:
    """What a worker told its controller at its end."""

    report_dir: Path | None
    """Of the search that it did, or was told of."""
    emptied: tuple[str, ...]
    """The suites whose items were all deselected, as people are shown them."""
    twins: tuple[tuple[str, str], ...]
    """The specs of each pair that is one model twice."""
    replayed: ReplayLog


def is_controller(config: pytest.Config) -> bool:
    """Whether workers run the tests; known from `pytest_sessionstart` on."""
    return config.pluginmanager.hasplugin("dsession")


def tell_worker(node: Any, *, suite: Path | None, report_dir: Path | None) -> None:
    """Tell a worker that is about to start: strings only, no paths."""
    told = {SUITE: suite, REPORT_DIR: report_dir}
    node.workerinput.update({key: str(path) for key, path in told.items() if path is not None})


def told_by_controller(config: pytest.Config) -> Told | None:
    """What the controller told this process; None where it is no worker."""
    sent: Mapping[str, Any] | None = getattr(config, "workerinput", None)
    if sent is None:
        return None
    return Told(str(sent.get("testrunuid", "")), _path(sent, SUITE), _path(sent, REPORT_DIR))


def tell_controller(config: pytest.Config, heard: Heard) -> None:
    """Tell the controller, at the end of a worker."""
    output: dict[str, Any] = config.workeroutput  # type: ignore[attr-defined]
    output[EMPTIED], output[TWINS] = sorted(heard.emptied), sorted(heard.twins)
    if heard.report_dir is not None:
        output[REPORT_DIR] = str(heard.report_dir)
    if heard.replayed.entries:
        output[REPLAYED] = json.dumps(asdict(heard.replayed))


def heard_from_worker(node: Any) -> Heard:
    """What a worker told; of one that was killed, nothing."""
    sent: Mapping[str, Any] = getattr(node, "workeroutput", {})
    replayed = json.loads(sent[REPLAYED]) if REPLAYED in sent else {}
    twins = ((first, second) for first, second in sent.get(TWINS, ()))
    emptied = tuple(sent.get(EMPTIED, ()))
    return Heard(_path(sent, REPORT_DIR), emptied, tuple(twins), ReplayLog(**replayed))


def scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist load`: our items on one worker, so that only that one loads the models.

    All others go one by one. None: pytest-xdist's own.
    """
    if config.getoption("dist") != "load":
        return None
    return scheduler_by_scope(
        config, log, lambda nodeid: "divergence" if OUR_NODEIDS.search(nodeid) else nodeid
    )


def _path(sent: Mapping[str, Any], key: str) -> Path | None:
    return Path(sent[key]) if sent.get(key) else None
