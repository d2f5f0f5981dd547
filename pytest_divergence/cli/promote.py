"""`pytest-divergence promote`: copy cases of a search into a suite that is committed."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_divergence.core.promotion import Promoted


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Copy cases of a search into a suite that is committed, with their continuations, "
        "behaviours and control rows. Without --id, --behaviour and --all: every case, and "
        "the behaviours that the cases show."
    )
    parser.add_argument(
        "source",
        metavar="SUITE_OR_RUN",
        type=Path,
        help="a *.divergence.jsonl, the folder of a run's report, or latest",
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        type=Path,
        help="the suite to write, such as tests/release.divergence.jsonl",
    )
    parser.add_argument(
        "--id", action="append", default=[], help="a case, by its id or the start of it"
    )
    parser.add_argument(
        "--behaviour",
        metavar="ID",
        action="append",
        default=[],
        help="a behaviour, by its id or the start of it, and the cases that show it",
    )
    parser.add_argument("--all", action="store_true", help="every case and every behaviour")
    parser.add_argument("--add", action="store_true", help="merge into a TARGET that is there")
    parser.add_argument(
        "--force", action="store_true", help="with --add: replace rows that both have"
    )
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Promote, and say what was written and how to replay it."""
    from pytest_divergence.cli import _project
    from pytest_divergence.core.promotion import Choice, promote

    promoted = promote(
        _project.run_meant(given.source),
        given.target,
        Choice(given.id, given.behaviour, given.all),
        root_of=_project.root,
        is_adding=given.add,
        is_forced=given.force,
    )
    for line in _lines(promoted, given.target):
        print(line)
    return 0


def _lines(promoted: Promoted, target: Path) -> Iterator[str]:
    from pytest_divergence.reports.text_blocks import WIDTH, command, sentence
    from pytest_divergence.reports.wording import number_of

    behaviours = number_of(len(promoted.behaviours), "behaviour")
    yield f"wrote {number_of(len(promoted.written), 'case')} and {behaviours} to {target}"
    yield f"it now has {number_of(promoted.num_controls, 'control row')}"
    if promoted.kept:
        there = number_of(len(promoted.kept), "chosen case")
        stayed = "stayed as it was" if len(promoted.kept) == 1 else "stayed as they were"
        yield f"{there} stood there already and {stayed} (--force replaces)"
    if promoted.left_behind:
        ids = ", ".join(one.id for one in promoted.left_behind)
        text = f"not chosen: {ids} (--behaviour ID or --all takes what no chosen case shows)"
        yield from sentence(text, width=WIDTH)
    models = (promoted.provenance.reference.spec, promoted.provenance.candidate.spec)
    replay = ["pytest", str(target), "--model-1", models[0], "--model-2", models[1]]
    yield from command("replay it", shlex.join(replay), width=WIDTH, indent="")
