"""`pytest-divergence accept`: mark a behaviour as intended, so that it no longer fails."""

from __future__ import annotations

from argparse import Namespace

from pytest_divergence.cli._output import say
from pytest_divergence.cli._project import suites_meant
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import is_on_hub
from pytest_divergence.core.provenance import accept


def run(given: Namespace) -> int:
    """Mark the behaviour, and print each suite that knows it."""
    for path in filter(is_on_hub, given.suites):
        raise SettingsError(
            f"{path} is a suite on the Hub, and its copies here are replaced; promote it into a "
            "suite of your own, and accept there"
        )
    for suite in accept(given.behaviour, suites_meant(given.suites)):
        say(f"accepted {given.behaviour} in {suite}")
    return 0
