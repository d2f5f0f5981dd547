"""`pytest-divergence validate`: whether suites can be read, and every line that cannot.

Does without pytest, so that a pre-commit hook is done at once.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from pytest_divergence.cli._output import say
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import SUITE_SUFFIX, suite_beside
from pytest_divergence.core.suites import faults_of, suites_below


def run(given: Namespace) -> int:
    """Check each suite once, and say what is wrong."""
    suites = list(dict.fromkeys(map(suite_beside, given.files))) or suites_below(Path())
    if not suites:
        raise SettingsError(f"there is no *{SUITE_SUFFIX} below this folder; name one")
    faults = [fault for suite in suites for fault in faults_of(suite)]
    for fault in faults:
        say(fault)
    say(f"suites: {len(suites)}, faults: {len(faults)}")
    return 1 if faults else 0
