"""`pytest-divergence diff`: differences between two suites, or two runs."""

from __future__ import annotations

from argparse import Namespace

from pytest_divergence.cli._output import complain, give, say_lines
from pytest_divergence.cli._project import run_meant
from pytest_divergence.core.comparison import compare, read_side
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.reports.comparison import difference_lines

SAME, DIFFERENT, TROUBLE = 0, 1, 2
"""Exit codes, as of the Unix tool `diff`."""


def run(given: Namespace) -> int:
    """Compare, and print the differences."""
    try:
        differences = compare(*(read_side(run_meant(path)) for path in (given.before, given.after)))
    except (
        DivergenceError
    ) as error:  # 1, the code of other commands, means here that something differs
        complain(f"error: {error}")
        return TROUBLE
    if given.json:
        give(strict_dumps(differences.model_dump(mode="json"), indent=2) + "\n")
    else:
        say_lines(difference_lines(differences, str(given.before), str(given.after)))
    return SAME if differences.is_empty else DIFFERENT
