"""`pytest-divergence accept`: mark a behaviour as intended, so that it no longer fails."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from pytest_divergence.cli._project import add_suites, suites_of


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Mark a behaviour as intended in the provenance of the suites that know it."
    )
    parser.add_argument("behaviour", metavar="ID", help="printed with the behaviour's failure")
    add_suites(parser)
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Mark it, and say where."""
    from pytest_divergence.core.provenance import accept

    for suite in accept(given.behaviour, suites_of(given.suites)):
        print(f"accepted {given.behaviour} in {suite}")
    return 0
