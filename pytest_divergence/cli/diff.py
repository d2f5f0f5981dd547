"""`pytest-divergence diff`: differences between two suites, or two runs."""

from __future__ import annotations

from argparse import Namespace

from pytest_divergence.cli._output import complain, give, say_lines
from pytest_divergence.cli._project import run_meant
from pytest_divergence.core.comparison import compare, read_side
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.parents import Parents, between_parents
from pytest_divergence.reports.comparison import difference_lines
from pytest_divergence.reports.parent_table import parent_lines

SAME, DIFFERENT, TROUBLE = 0, 1, 2
"""Exit codes, as of the Unix tool `diff`."""


def run(given: Namespace) -> int:
    """Compare, and print the differences."""
    try:
        before, after = (read_side(run_meant(path)) for path in (given.before, given.after))
        if given.parents:
            return _between_parents(between_parents(before, after), is_json=given.json)
        differences = compare(before, after)
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


def _between_parents(parents: Parents, *, is_json: bool) -> int:
    """Print which parent a merge follows; 1 if it does what neither does."""
    if is_json:
        give(strict_dumps(parents.model_dump(mode="json"), indent=2) + "\n")
    else:
        say_lines(parent_lines(parents))
    return SAME if parents.is_explained else DIFFERENT
