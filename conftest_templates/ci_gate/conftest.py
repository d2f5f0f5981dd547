"""When to use it: a suite is committed, and no change that fails it may be merged.

How to run it: search, keep what you want to guard, and commit it. Then `pytest` replays it with the
other tests, and the workflow replays it on every pull request.

    pytest-divergence discover
    mkdir -p tests
    pytest-divergence promote latest tests/release.divergence.jsonl

What it leaves to you: who may change the suite. Put `*.divergence.jsonl` and its two neighbours
into CODEOWNERS, or a change that fails the gate can raise the gate's bounds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SUITE = Path(__file__).parent / "tests" / "release.divergence.jsonl"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the suite last, so tests without a model fail first. In CI, refuse a run without it."""
    items.sort(key=lambda item: item.path == SUITE)
    if not hasattr(config, "workerinput"):  # a worker of pytest-xdist cannot end a session
        _require_suite(config, [item.nodeid for item in items])


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's: only its workers collect
def pytest_xdist_node_collection_finished(node: Any, ids: Sequence[str]) -> None:
    """Check what a worker has collected, before any test runs."""
    _require_suite(node.config, ids)


def _require_suite(config: pytest.Config, ids: Sequence[str]) -> None:
    """End a full CI run without the suite: if deleted or renamed, it would pass silently."""
    is_whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    suite = SUITE.relative_to(config.rootpath).as_posix()
    is_there = any(node_id.startswith(f"{suite}::") for node_id in ids)
    if os.environ.get("CI") and is_whole and not is_there:
        raise pytest.UsageError(
            f"{suite} was not collected, so nothing was gated; restore it, or name the tests to "
            "run without it and add --divergence-mode=off"
        )
