"""`pytest-divergence merge`: unite what several machines have done of one search."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_divergence.core.merging import Merged


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Unite the journals of several machines, of which each did a share of one search "
        "(--divergence-shard), in the project's .divergence folder. The same session then goes on "
        "from there; without --divergence-shard it does alone what is left, and ends in the suite "
        "that one machine would have found. Merging twice changes nothing. Journals of different "
        "searches are refused, and machines that tell one piece of work differently."
    )
    parser.add_argument(
        "places",
        metavar="FOLDER_OR_FILE",
        nargs="*",
        type=Path,
        help="another machine's project, its .divergence, or files of its journal folder; the "
        "shards' files of this folder are always taken, and are all where machines share it",
    )
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Merge, and say what each journal holds now."""
    from pytest_divergence.commands import places
    from pytest_divergence.core.merging import merge
    from pytest_divergence.core.naming import from_here

    root = from_here(places.root())
    for one in merge(root, given.places):
        print(_line(one, root))
    print("go on with the same pytest command, or leave out --divergence-shard to do the rest here")
    return 0


def _line(merged: Merged, root: Path) -> str:
    from pytest_divergence.reports.wording import number_of

    units = number_of(merged.num_units, "work unit")
    new = f"{merged.num_added:,} new" if merged.num_added else "none new"
    return f"{merged.path.relative_to(root)}: {units}, {new}{_left_out(merged.damaged)}"


def _left_out(damaged: Sequence[str]) -> str:
    """The lines that cannot be trusted, the first of them by its place."""
    from pytest_divergence.reports.wording import number_of

    if not damaged:
        return ""
    more = f" and {len(damaged) - 1:,} more" if damaged[1:] else ""
    return f", {number_of(len(damaged), 'damaged line')} left out ({damaged[0]}{more})"
