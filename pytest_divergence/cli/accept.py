"""`pytest-divergence accept`: mark a behaviour as intended, so that it no longer fails."""

from __future__ import annotations

from argparse import Namespace

from pytest_divergence.cli._output import say
from pytest_divergence.cli._project import suites_meant
from pytest_divergence.core.provenance import accept


def run(given: Namespace) -> int:
    """Mark the behaviour, and print each suite that knows it."""
    for suite in accept(given.behaviour, suites_meant(given.suites)):
        say(f"accepted {given.behaviour} in {suite}")
    return 0
