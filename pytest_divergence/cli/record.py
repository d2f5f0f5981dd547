"""`pytest-divergence record`: keep what a suite's reference tells; a gate needs it no more."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest

from pytest_divergence.cli._output import say
from pytest_divergence.cli._project import in_project, measuring, pytest_words, require_models
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import from_here
from pytest_divergence.core.files import check_inside
from pytest_divergence.core.provenance import is_same_model
from pytest_divergence.core.quantities import amount, number_of
from pytest_divergence.core.suites import read_suite
from pytest_divergence.plugin import session_of
from pytest_divergence.plugin.options import BY_FIELD, located_value
from pytest_divergence.scoring.reference_record import record_reference, write_record


def run(given: Namespace) -> int:
    """Record the reference, and print where it is and how to replay on it."""
    check_inside(given.suite.parent, within=Path.cwd())
    words = pytest_words(given)
    both = f"{BY_FIELD['model_2'].flag}={in_project(words, _reference)}"  # of one model twice
    return in_project([*words, both], partial(_record, given.suite.absolute()))


def _reference(config: pytest.Config) -> str:
    session = session_of(config)
    require_models(session, ["model_1"])
    return located_value(config, "model_1", session.given["model_1"])


def _record(suite: Path, config: pytest.Config) -> int:
    session = measuring(config, say, takes_served=True)
    stored = read_suite(suite)
    say("loading the reference")
    pair = session.pair()
    record = record_reference(pair, stored)
    made = stored.provenance.reference if stored.provenance is not None else None
    if made is not None and not is_same_model(made, record.reference):
        raise SettingsError(
            f"{BY_FIELD['model_1'].alias}={record.reference} is not the reference that "
            f"{from_here(suite)} was made with, {made}; give that one"
        )
    path = write_record(suite, record)
    size = amount(path.stat().st_size)
    say(f"wrote {number_of(len(record.rows), 'continuation')} to {from_here(path)} ({size})")
    say(f"replay it: pytest {from_here(suite)} --model-1 recorded:{from_here(suite)} --model-2 …")
    return 0
