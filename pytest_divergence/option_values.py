"""What was given for each option becomes `Settings`, with the source of each value.

Knows which source comes before which, and how a wrong value is refused. Imports nothing heavy:
pytest loads this in every session.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_divergence.added import PluginModels, added_metrics
from pytest_divergence.options import BY_FIELD, MODELS, OPTIONS, Option, flags_of

if TYPE_CHECKING:
    from pytest_divergence.core.settings import Settings

COMMAND_LINE, INI, DEFAULT = "command line", "ini", "default"
PATHS = (*MODELS, "seeds", "chat_template", "report_dir")


@dataclass(frozen=True)
class Given:
    """A value as text, and where it was given: command line, a variable's name, or ini."""

    value: str
    source: str


@dataclass(frozen=True)
class Resolved:
    """What a session is asked to do, and where each value came from."""

    settings: Settings
    sources: Mapping[str, str]
    """By field: command line, the environment variable's name, ini, or default."""


def given(config: pytest.Config) -> dict[str, Given]:
    """What was given, by field: command line before environment before ini file."""
    found = {}
    for option in OPTIONS:
        on_command_line = config.getoption(f"divergence_{option.field}")
        in_ini = config.getini(option.ini)
        if on_command_line is not None:
            found[option.field] = Given(on_command_line, COMMAND_LINE)
        elif os.environ.get(option.variable):
            found[option.field] = Given(os.environ[option.variable], option.variable)
        elif in_ini:
            found[option.field] = Given(in_ini, INI)
    return found


def resolve(config: pytest.Config) -> Resolved:
    """The session's settings. Raises `pytest.UsageError` naming the first wrong value."""
    values = given(config)
    check_both_models(values)
    settings = settings_of(
        {f: replace(one, value=_located(config, f, one)) for f, one in values.items()}
    )
    sources = {field: values[field].source if field in values else DEFAULT for field in BY_FIELD}
    _check_specs(config, settings, values)
    _check_metric(config, settings.metric, values)
    return Resolved(settings, sources)


def settings_of(values: Mapping[str, Given]) -> Settings:
    """What was given as settings. Raises `pytest.UsageError` naming the first wrong value."""
    from pydantic import ValidationError

    from pytest_divergence.core.settings import Settings

    try:
        return Settings(**{field: one.value for field, one in values.items()})
    except ValidationError as error:
        field = str(error.errors(include_url=False)[0]["loc"][0])
        raise _wrong_value(values[field], BY_FIELD[field]) from None


def report_dir(config: pytest.Config) -> Path | None:
    """Where reports were asked to go, from where pytest was started; checks nothing else."""
    one = given(config).get("report_dir")
    return Path(_located(config, "report_dir", one)) if one is not None else None


def name_of(field: str, one: Given) -> str:
    """What the user wrote to give the value."""
    option = BY_FIELD[field]
    if one.source == COMMAND_LINE:
        return option.short_flag
    return option.ini if one.source == INI else one.source


def check_both_models(values: Mapping[str, Given]) -> None:
    """Raise `pytest.UsageError` where one model is given without the other."""
    named = [field for field in MODELS if field in values]
    if len(named) == 1:
        there = BY_FIELD[named[0]]
        other = BY_FIELD[next(field for field in MODELS if field not in named)]
        raise pytest.UsageError(
            f"{_shown(values[there.field], there)} is given without {other.short_flag}; a "
            f"comparison needs two models, so give {other.short_flag} too (or {other.variable}, or "
            f"{other.ini} in the ini file)"
        )


def check_given_once(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` where the command line gives a model two values.

    The last would win, and the first go untested. What addopts give may be overruled.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    options = [BY_FIELD[field] for field in MODELS]
    for option in options:
        if flags := flags_of(config._parser, option):
            parser.add_argument(*flags, dest=option.field, action="append", default=[])
    words = [str(one) for one in config.invocation_params.args]
    found, _ = parser.parse_known_args(words)
    for option in options:
        values = getattr(found, option.field, [])
        if other := [one for one in values[1:] if one != values[0]]:
            raise pytest.UsageError(given_twice(option, values[0], other[0]))


def given_twice(option: Option, first: str, second: str) -> str:
    """Why two values of a model are refused, and how two candidates are compared."""
    shown = (_shown_value(one) for one in (first, second))
    return (
        f"{option.short_flag} is given twice, as {' and '.join(shown)}, and a session compares one "
        "pair; leave one of them out. Several candidates have a session each, or a line each of "
        "divergence_pairs in the ini file (conftest_templates/several_pairs)"
    )


def _check_specs(config: pytest.Config, settings: Settings, values: Mapping[str, Given]) -> None:
    """Refuse a spec that cannot name a model, before anything heavy is imported."""
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.models.specs import parse_open_spec, parse_spec

    parse = parse_spec if PluginModels.of(config) is None else parse_open_spec
    for field in (field for field in MODELS if field in values):
        try:
            parse(
                getattr(settings, field),
                role=name_of(field, values[field]),
                root=config.invocation_params.dir,
            )
        except DivergenceError as error:
            raise pytest.UsageError(str(error)) from None


def _check_metric(config: pytest.Config, name: str, values: Mapping[str, Given]) -> None:
    """Refuse a metric that neither we nor a plugin knows."""
    from pytest_divergence.core.errors import one_of
    from pytest_divergence.core.settings import BUILT_IN_METRICS

    if name in BUILT_IN_METRICS:
        return
    known = [*BUILT_IN_METRICS, *added_metrics(config)]
    if name not in known:
        shown = _shown(values["metric"], BY_FIELD["metric"])
        raise pytest.UsageError(f"{shown}: {one_of(name, known)}")


def _located(config: pytest.Config, field: str, one: Given) -> str:
    """The value, with a path that the ini file names made to hold where pytest was started."""
    if one.source != INI or config.inipath is None:
        return one.value
    start, here = config.inipath.parent, config.invocation_params.dir
    name, separator, rest = one.value.partition(",") if field in MODELS else (one.value, "", "")
    is_path = field in PATHS and (field == "report_dir" or (start / name).exists())
    if not is_path or start == here or Path(name).is_absolute():
        return one.value
    return f"{os.path.relpath(start / name, here)}{separator}{rest}"


def _wrong_value(one: Given, option: Option) -> pytest.UsageError:
    return pytest.UsageError(f"{_shown(one, option)}: must be {option.rule}")


def _shown(one: Given, option: Option) -> str:
    where = " (ini file)" if one.source == INI else ""
    return f"{name_of(option.field, one)}={_shown_value(one.value)}{where}"


def _shown_value(value: str) -> str:
    """Short, without control characters, and without what may be a secret."""
    from pytest_divergence.core.safe_text import safe_line

    return safe_line(value, 60)[1:-1] if "://" not in value else "[a URL]"
