"""`pytest-divergence show-config`: every setting, and where its value comes from."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest

from pytest_divergence.cli._output import give, say_lines
from pytest_divergence.cli._project import in_project, places_of, pytest_words
from pytest_divergence.core.file_names import from_here
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.core.safe_text import public_value
from pytest_divergence.core.settings import Settings
from pytest_divergence.plugin.options import BY_FIELD, DEFAULT, PAIRS_INI, given
from pytest_divergence.plugin.settings_sources import resolve

VALUE_WIDTH = 30
"""Columns of a value; a longer one moves its source to the right, and nothing is cut."""


class _Row(NamedTuple):
    name: str
    value: str | None
    """The given value or the default; None if there is neither."""
    source: str


def run(given: Namespace) -> int:
    """Print the settings of this folder."""
    return in_project(pytest_words(given), partial(_show, given.json))


def _show(as_json: bool, config: pytest.Config) -> int:
    rows = list(_rows(config))
    if as_json:
        give(strict_dumps([row._asdict() for row in rows], indent=2) + "\n")
    else:
        say_lines([*_places(config), "", *(_line(row) for row in rows)])
    resolve(config)  # an error comes last, below the whole table
    return 0


def _rows(config: pytest.Config) -> Iterator[_Row]:
    found, defaults = given(config), Settings()
    for option in BY_FIELD.values():
        name = option.field.replace("_", "-")
        if option.field in found:
            setting = found[option.field]
            yield _Row(name, public_value(setting.value), setting.source)
        else:
            default = getattr(defaults, option.field)
            yield _Row(name, None if default is None else _text(default), DEFAULT)
    for line in config.getini(PAIRS_INI):
        yield _Row("pairs", public_value(line), "ini")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _places(config: pytest.Config) -> list[str]:
    ini = "-" if config.inipath is None else from_here(config.inipath)
    return [f"{'ini file':16}{ini}", f"{'results':16}{places_of(config).own}"]


def _line(row: _Row) -> str:
    value = "-" if row.value is None else row.value
    gap = "" if len(value) < VALUE_WIDTH else "  "
    return f"{row.name:16}{value:{VALUE_WIDTH}}{gap}{row.source}"
