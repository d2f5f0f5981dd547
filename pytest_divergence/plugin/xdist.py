"""Which worker of pytest-xdist runs which test: ours stay together, so that one loads the models.

Knows pytest-xdist's scheduler. Does not know what a test does.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_divergence.plugin.session import REPORT_KEY, DivergenceSession, joining_suite

OUR_NODEIDS = re.compile(r"\.divergence\.jsonl::|\[[^\]]*-[0-9a-f]{10}\b")
"""Suite items, and tests that run once for each case."""

SUITE_KEY = "divergence_suite_path"
"""Under which pytest-xdist's controller tells its workers which suite joins."""


def scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist load`: our items on one worker, all others one by one."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class DivergenceScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "divergence" if OUR_NODEIDS.search(nodeid) else nodeid

        def remove_node(self, node: Any) -> str | None:
            """Give the rest of a killed worker's tests to others, but not the one that killed it.

            The base gives that one to each new worker, until none is left to be killed.
            """
            pending = (
                (tests, nodeid)
                for tests in self.assigned_work[node].values()
                for nodeid, is_complete in tests.items()
                if not is_complete
            )
            first = next(pending, None)
            if first is not None:
                tests, killer = first
                tests[killer] = True
            super().remove_node(node)
            return None if first is None else killer

    return DivergenceScheduling(config, log)


def for_workers(session: DivergenceSession) -> dict[str, str]:
    """What the controller of pytest-xdist tells its workers."""
    told = {}
    if (suite := joining_suite(session)) is not None:
        told[SUITE_KEY] = str(suite)
    if session.outcome:
        told[REPORT_KEY] = str(session.outcome().report_dir)
    return told
