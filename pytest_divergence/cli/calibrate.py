"""`pytest-divergence calibrate`: noise, shift and bound of a pair, and what its gate catches."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

import pytest

from pytest_divergence.cli._output import give, say_lines
from pytest_divergence.cli._project import in_project, measuring, pytest_words
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.verdicts import check_bound
from pytest_divergence.discovery.calibration_report import calibration_report
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.plugin.progress_bar import search_progress
from pytest_divergence.plugin.session import DivergenceSession
from pytest_divergence.reports.calibration import calibration_lines


def run(given: Namespace) -> int:
    """Calibrate, and print; a bound inside the noise is refused once the table is out."""
    return in_project(pytest_words(given), partial(_calibrate, given.json))


def _calibrate(as_json: bool, config: pytest.Config) -> int:
    with search_progress(config) as listener:
        session = measuring(config, listener.say)
        report = calibration_report(
            session.resolved.settings,
            root=session.root,
            load_pair=partial(_loaded, session),
            listener=listener,
            identity=session.pairs.run_identity(session.models),
        )
    if as_json:
        give(strict_dumps(report.model_dump(mode="json"), indent=2) + "\n")
    else:
        say_lines(calibration_lines(report))
    if session.number_bound is not None:
        check_bound(
            session.number_bound,
            report.noise_floor,
            report.metric,
            dtype=report.pair.dtype,
            name=setting("max_kl"),
        )
    return 0


def _loaded(session: DivergenceSession) -> ModelPair:
    """The session's pair; says so before it is loaded."""
    if not session.pairs.is_loaded(session.models):
        session.say("loading the models")
    return session.pair()
