"""`pytest-divergence validate`: check suites, and name every line that cannot be read.

Does not import pytest, so that a pre-commit hook takes no time.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from pytest_divergence.cli._output import say
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import SUITE_SUFFIX, suite_beside
from pytest_divergence.core.suites import faults_of, suites_below


def run(given: Namespace) -> int:
    """Check each suite once, and print its faults."""
    suites = list(dict.fromkeys(map(suite_beside, given.files))) or suites_below(Path())
    if not suites:
        raise SettingsError(f"there is no *{SUITE_SUFFIX} below this folder; name one")
    faults = [fault for suite in suites for fault in faults_of(suite)]
    for fault in faults:
        say(fault)
    say(f"suites: {len(suites)}, faults: {len(faults)}")
    return 1 if faults else 0
