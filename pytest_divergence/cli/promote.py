"""`pytest-divergence promote`: copy cases of a search into a suite that is committed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from pytest_divergence.cli._output import say
from pytest_divergence.cli._project import root, run_meant
from pytest_divergence.core.files import check_inside
from pytest_divergence.core.promotion import Choice, Promoted, promote
from pytest_divergence.core.quantities import number_of
from pytest_divergence.reports.text_blocks import WIDTH, command, sentence
from pytest_divergence.reports.wording import rerun_command


def run(given: Namespace) -> int:
    """Promote, and print what was written and how to replay it."""
    check_inside(given.target.parent, within=Path.cwd())
    promoted = promote(
        run_meant(given.source),
        given.target,
        Choice(given.id, given.behaviour, given.all),
        root_of=root,
        is_adding=given.add,
        is_forced=given.force,
    )
    for line in _lines(promoted, given.target):
        say(line)
    return 0


def _lines(promoted: Promoted, target: Path) -> Iterator[str]:
    yield written(promoted, target)
    yield f"it now has {number_of(promoted.num_controls, 'control row')}"
    if promoted.kept:
        kept = number_of(len(promoted.kept), "chosen case")
        verb = "was" if len(promoted.kept) == 1 else "were"
        yield f"{kept} {verb} already there and did not change (--force replaces)"
    if promoted.left_behind:
        ids = ", ".join(behaviour.id for behaviour in promoted.left_behind)
        text = f"not chosen: {ids} (use --behaviour ID or --all for what no chosen case shows)"
        yield from sentence(text, width=WIDTH)
    yield from replay_lines(promoted, target)


def written(promoted: Promoted, target: Path) -> str:
    """Return the sentence on what was written."""
    behaviours = number_of(len(promoted.behaviours), "behaviour")
    return f"wrote {number_of(len(promoted.written), 'case')} and {behaviours} to {target}"


def replay_lines(promoted: Promoted, target: Path) -> list[str]:
    """Return the command that replays the suite."""
    made = promoted.provenance
    models = {"model_1": made.reference.spec, "model_2": made.candidate.spec}
    arguments = {"template_arg": made.settings.get("template_arg") or None}
    replay = rerun_command(str(target), {**models, **arguments})
    return command("replay it", replay, width=WIDTH, indent="")
