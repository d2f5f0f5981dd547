"""Options of a command that are settings of a session too: one table names both.

`settings_given` takes them and the environment as they are; `pytest_words` hands them on to pytest,
which reads the ini file too.
"""

from __future__ import annotations

import argparse
import os
from argparse import SUPPRESS
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_divergence.option_values import Given
from pytest_divergence.options import BY_FIELD, MODELS

if TYPE_CHECKING:
    from pytest_divergence.core.settings import Settings

MEASURED_PAIR = (
    "model_1",
    "model_2",
    "dtype",
    "device",
    "metric",
    "chat_template",
    "system_prompt",
)
"""What a measurement of two models depends on."""


def add_settings(parser: argparse.ArgumentParser, fields: Sequence[str]) -> None:
    """Register the options of some fields of `Settings`, short; pytest's names do too."""
    group = parser.add_argument_group(
        "settings", "as pytest has them, under these names and under --divergence-…"
    )
    for option in (BY_FIELD[field] for field in fields):
        takes: dict[str, str] = {"metavar": option.metavar}
        if option.is_switch:
            takes = {"action": "store_const", "const": "true"}
        shared = {"dest": option.field, **takes}
        group.add_argument(_short(option.field), **shared, help=option.help.replace("%", "%%"))  # type: ignore[arg-type]
        group.add_argument(option.flag, **shared, default=SUPPRESS, help=SUPPRESS)  # type: ignore[arg-type]


def fields_without(*fields: str) -> tuple[str, ...]:
    """All fields but those that mean nothing to a command."""
    return tuple(field for field in BY_FIELD if field not in fields)


def pytest_words(given: argparse.Namespace, fields: Sequence[str]) -> list[str]:
    """The settings that the command line gives, as arguments of pytest.

    Behind `=`: pytest takes a folder that stands alone for a test path.
    """
    options = (BY_FIELD[field] for field in fields if getattr(given, field) is not None)
    return [
        one.flag if one.is_switch else f"{one.flag}={getattr(given, one.field)}" for one in options
    ]


def settings_given(given: argparse.Namespace, fields: Sequence[str]) -> Settings:
    """What the command line, before the environment, gives. Raises `SettingsError`."""
    import pytest

    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.option_values import settings_of

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
