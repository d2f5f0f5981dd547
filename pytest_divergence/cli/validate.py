"""`pytest-divergence validate`: whether suites can be read, and every line that cannot."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from pytest_divergence.cli._project import suites_below


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Read suites with the tokens and provenance beside them, as a replay would, and name "
        "every line that cannot be read. No model is loaded. Exit code 1: something is wrong."
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        type=Path,
        help="a *.divergence.jsonl, or a file beside one (default: every suite below this folder "
        "that is not hidden)",
    )
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Check each suite once, and say what is wrong."""
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.core.file_names import suite_beside
    from pytest_divergence.core.suites import faults_of

    suites = list(dict.fromkeys(map(suite_beside, given.files))) or suites_below(Path())
    if not suites:
        raise SettingsError("there is no *.divergence.jsonl below this folder; name one")
    faults = [fault for suite in suites for fault in faults_of(suite)]
    for fault in faults:
        print(fault)
    print(f"suites: {len(suites)}, faults: {len(faults)}")
    return 1 if faults else 0
