"""When to use it: a suite is committed, and no change may be merged that the suite fails on.

How to run it: search, keep what you want to guard, commit it; then `pytest` replays it with the
other tests, and the workflow replays it on every pull request.

    pytest-divergence discover
    mkdir -p tests
    pytest-divergence promote latest tests/release.divergence.jsonl

What it leaves to you: who may change the suite. Put `*.divergence.jsonl` and its two neighbours
into CODEOWNERS, or the change that fails the gate can raise the gate's bounds.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SUITE = Path(__file__).parent / "tests" / "release.divergence.jsonl"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the suite last: what needs no model fails first. In CI a run without it is refused."""
    items.sort(key=lambda item: item.path == SUITE)
    if _must_gate(config) and not any(item.path == SUITE for item in items):
        raise pytest.UsageError(
            f"{SUITE.relative_to(config.rootpath)} was not collected, so nothing was gated; "
            "bring it back, or name the tests that shall run without it"
        )


def _must_gate(config: pytest.Config) -> bool:
    """Whether this is a whole run of CI: a deleted or renamed suite would pass in silence."""
    is_whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    is_worker = hasattr(config, "workerinput")  # pytest-xdist: a worker cannot end a session
    return bool(os.environ.get("CI")) and is_whole and not is_worker
