"""Options of a command that are settings of a session too: one table names both.

A command reads its own options and the environment, not the ini file: that is pytest's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_divergence.options import BY_FIELD, MODELS, Given

if TYPE_CHECKING:
    from pytest_divergence.core.settings import Settings


def add_settings(parser: argparse.ArgumentParser, fields: Sequence[str]) -> None:
    """Register the options of some fields of `Settings`, short and as pytest knows them."""
    for option in (BY_FIELD[field] for field in fields):
        parser.add_argument(
            *sorted({_short(option.field), option.flag}),
            dest=option.field,
            metavar=option.metavar,
            help=option.help.replace("%", "%%"),
        )


def settings_given(given: argparse.Namespace, fields: Sequence[str]) -> Settings:
    """What the command line, before the environment, gives. Raises `SettingsError`."""
    import pytest

    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.options import settings_of

    values = {}
    for option in (BY_FIELD[field] for field in fields):
        if (value := getattr(given, option.field)) is not None:
            values[option.field] = Given(value, _short(option.field))
        elif os.environ.get(option.variable):
            values[option.field] = Given(os.environ[option.variable], option.variable)
    for option in (BY_FIELD[field] for field in MODELS if field not in values):
        raise SettingsError(f"{_short(option.field)} is missing; give it, or {option.variable}")
    _check_metric(values.get("metric"))
    try:
        return settings_of(values)
    except pytest.UsageError as error:
        raise SettingsError(str(error)) from None


def _check_metric(metric: Given | None) -> None:
    """A plugin's own metric is known to pytest only."""
    from pytest_divergence.core.errors import SettingsError, one_of
    from pytest_divergence.core.safe_text import safe_line
    from pytest_divergence.core.settings import BUILT_IN_METRICS

    if metric is not None and metric.value not in BUILT_IN_METRICS:
        rule = one_of(metric.value, BUILT_IN_METRICS)
        raise SettingsError(f"{metric.source}={safe_line(metric.value, 60)}: {rule}")


def _short(field: str) -> str:
    return f"--{field.replace('_', '-')}"
