"""`pytest-divergence rank`: a user's own prompts, the most affected first."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from pytest_divergence.cli._output import complain, give, say, say_lines
from pytest_divergence.cli._project import in_project, measuring, pytest_words
from pytest_divergence.core.files import check_inside
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.promotion import existing_suite, make_folder_of
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.ranked_prompts import RankedPrompt
from pytest_divergence.core.suites import write_suite
from pytest_divergence.discovery.prompt_files import read_seeds
from pytest_divergence.discovery.prompt_ranks import rank_prompts
from pytest_divergence.plugin.options import BY_FIELD
from pytest_divergence.plugin.progress_bar import search_progress
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.plugin.usage_errors import shown_settings
from pytest_divergence.reports.rank_table import rank_lines
from pytest_divergence.reports.text_blocks import WIDTH, command
from pytest_divergence.reports.wording import rerun_command


def run(given: Namespace) -> int:
    """Rank, print the order, and write the suite that is asked for."""
    return in_project(pytest_words(given), partial(_rank, given))


def _rank(given: Namespace, config: pytest.Config) -> int:
    with search_progress(config) as listener:
        session = measuring(config, listener.say)
        suite: Path | None = given.to_suite
        if suite is not None:  # refused before the models are loaded
            check_inside(suite.parent, within=Path.cwd())
            existing_suite(suite, is_adding=False)
            make_folder_of(suite)
        prompts = read_seeds(given.prompts, option="PROMPTS")
        listener.say("loading the models")
        ranking = rank_prompts(session.pair(), prompts, listener)
    if given.json:
        give("".join(strict_dumps(each.model_dump(mode="json")) + "\n" for each in ranking.prompts))
    else:
        say_lines(rank_lines(ranking, given.top))
    if suite is not None:
        top = ranking.prompts[: given.top]
        write_suite(suite, [prompt.case() for prompt in top])
        for line in _written(session, suite, top):
            (complain if given.json else say)(line)  # stdout is for JSON alone
    return 0


def _written(session: DivergenceSession, suite: Path, rows: Sequence[RankedPrompt]) -> list[str]:
    fill = rerun_command(str(suite), shown_settings(session), BY_FIELD["fill"].flag)
    return [
        f"wrote {number_of(len(rows), 'prompt')} to {suite}, not measured yet",
        *command("measure them", fill, width=WIDTH, indent=""),
    ]
