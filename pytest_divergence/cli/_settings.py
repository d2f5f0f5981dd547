"""Options of a command that are settings of a session too: one table names both.

What is given goes on to pytest, which reads the environment and the ini file too.
"""

from __future__ import annotations

import argparse
from argparse import SUPPRESS
from collections.abc import Sequence
from typing import Any

from pytest_divergence.plugin.options import BY_FIELD, MODELS, given_twice

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
        shared: dict[str, Any] = {"dest": option.field, **takes}
        if option.field in MODELS:
            shared["action"] = _Once
        group.add_argument(_short(option.field), **shared, help=option.help.replace("%", "%%"))
        group.add_argument(option.flag, **shared, default=SUPPRESS, help=SUPPRESS)


class _Once(argparse.Action):
    """Stores one value; the last of two would win, and the first be left out unseen."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Refuse another value than the one before."""
        before = getattr(namespace, self.dest, None)
        if before not in (None, values):
            parser.error(given_twice(BY_FIELD[self.dest], before, values))
        setattr(namespace, self.dest, values)


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


def _short(field: str) -> str:
    return f"--{field.replace('_', '-')}"
