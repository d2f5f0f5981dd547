"""`pytest-divergence damage`: items with known answers, lost and won."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

import pytest

from pytest_divergence.cli._output import give, say, say_lines
from pytest_divergence.cli._project import in_project, measuring, pytest_words
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.discovery.damage_test import compare_answers, read_items
from pytest_divergence.plugin.progress_bar import search_progress
from pytest_divergence.reports.damage_table import damage_lines, plan_lines
from pytest_divergence.scoring.paired_test import detectable_loss, fewest_losses

SHARES = (0.01, 0.03, 0.1)
"""Shares of changed answers for which the smallest detectable loss is told beforehand."""


def run(given: Namespace) -> int:
    """Say what the items can find, ask both models, and return 1 if the candidate is worse."""
    return in_project(pytest_words(given), partial(_test, given))


def _test(given: Namespace, config: pytest.Config) -> int:
    with search_progress(config) as listener:
        session = measuring(config, listener.say)
        items = read_items(given.items)
        if not given.json:
            count = len(items.items)
            losses = {share: detectable_loss(count, share) for share in SHARES}
            say_lines(plan_lines(count, fewest_losses(), losses))
            say("")
        listener.say("loading the models")
        report = compare_answers(session.pair(), items, given.tolerance, listener)
    if given.json:
        give(strict_dumps(report.model_dump(mode="json")) + "\n")
    else:
        say_lines(damage_lines(report))
    return int(report.verdict == "worse")
