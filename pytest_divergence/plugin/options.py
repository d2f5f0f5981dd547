"""An option for each setting: its names, and the value given for it.

Its help is the setting's description (`pytest_divergence.core.setting_descriptions`); its value is
checked by `Settings` (`pytest_divergence.plugin.settings_sources`). Imports nothing heavy: pytest
loads this in every session.
"""

from __future__ import annotations

import os
import shlex
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from pytest_divergence.core.safe_text import public_value
from pytest_divergence.core.setting_descriptions import DESCRIPTIONS, Description
from pytest_divergence.models.locations import location_and_options
from pytest_divergence.plugin._compat import ini_value, parser_of, taken_flags

NO_ALIASES_VARIABLE = "PYTEST_DIVERGENCE_NO_ALIASES"
"""If set to anything, `--model-1` and `--model-2` are left to another plugin."""
TITLE = (
    "divergence: compare two language models\n"
    "  (-q: a summary of one line; -v: all failed cases; -vv: their tokens too)"
)
MODELS = ("model_1", "model_2")
PATHS = (*MODELS, "seeds", "training_data", "contexts", "chat_template", "report_dir")

RECORDED = "recorded:"
"""Beginning of a spec that names a suite's recorded reference, before the suite's path."""
COMMAND_LINE, INI, DEFAULT = "command line", "ini", "default"

PAIRS_INI = "divergence_pairs"
PAIRS_INI_HELP = (
    "model pairs for suites, one per line: GLOB = MODEL_1 MODEL_2. The glob is matched against the "
    "path of the suite or test file, relative to the root folder (* matches / too); the first "
    "match counts. Models on the command line or in the environment override these lines, which "
    "override divergence_model_1 and divergence_model_2"
)


class Option(Description):
    """A setting as a user gives it."""

    @property
    def alias(self) -> str | None:
        """The short option, which only models have."""
        return f"--{self.field.replace('_', '-')}" if self.field in MODELS else None

    @property
    def synonym(self) -> str | None:
        """Another name of the option."""
        return "--divergence-update-new-only" if self.field == "fill" else None

    @property
    def flag(self) -> str:
        """The canonical command line option."""
        return f"--divergence-{self.field.replace('_', '-')}"

    @property
    def short_flag(self) -> str:
        """The alias, if there is one and aliases are not switched off; else `flag`."""
        return self.flag if os.environ.get(NO_ALIASES_VARIABLE) else self.alias or self.flag

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"PYTEST_DIVERGENCE_{self.field.upper()}"

    @property
    def ini(self) -> str:
        """The ini file's key, and the name under which pytest stores the command line's value."""
        return f"divergence_{self.field}"

    @property
    def argument(self) -> dict[str, str]:
        """Keywords for `addoption` and `add_argument`."""
        takes = {"metavar": self.metavar}
        if self.is_switch:
            takes = {"action": "store_const", "const": "true"}
        if self.is_repeatable:
            takes["action"] = "append"
        return {**takes, "help": self.help.replace("%", "%%")}


OPTIONS = tuple(Option(**vars(description)) for description in DESCRIPTIONS)
BY_FIELD: Mapping[str, Option] = {option.field: option for option in OPTIONS}


def flag_of(field: str) -> str:
    """Return the name of a setting in messages: its alias if it has one, else its option."""
    return BY_FIELD[field].short_flag


def add_options(parser: pytest.Parser) -> None:
    """Register options and ini keys, except aliases that another plugin has."""
    taken = taken_flags(parser)
    group = parser.getgroup("divergence", TITLE)
    for option in OPTIONS:
        flags = {option.flag, option.short_flag, option.synonym or option.flag} - taken
        group.addoption(*sorted(flags), dest=option.ini, default=None, **option.argument)
        if option.is_of_user:
            continue
        kind: Literal["linelist", "string"] = "linelist" if option.is_repeatable else "string"
        parser.addini(option.ini, f"same as {option.flag}", type=kind, default=None)
    parser.addini(PAIRS_INI, PAIRS_INI_HELP, type="linelist", default=[])


def flags_of(parser: pytest.Parser, option: Option) -> list[str]:
    """Return the names that `add_options` gave to an option."""
    registered = parser.getgroup("divergence", TITLE).options
    return [name for added in registered if added.dest == option.ini for name in added.names()]


@dataclass(frozen=True)
class RawOption:
    """A value as text, and its source: command line, a variable's name, or ini."""

    value: str
    source: str


def given(config: pytest.Config) -> dict[str, RawOption]:
    """Return the given values by field: command line before environment before ini file."""
    found = {}
    for option in OPTIONS:
        on_command_line = config.getoption(option.ini)
        in_ini = "" if option.is_of_user else _text(ini_value(config, option.ini))
        if on_command_line is not None:
            lines = [on_command_line] if isinstance(on_command_line, str) else on_command_line
            found[option.field] = RawOption("\n".join(lines), COMMAND_LINE)
        elif os.environ.get(option.variable):
            found[option.field] = RawOption(os.environ[option.variable], option.variable)
        elif in_ini:
            found[option.field] = RawOption(in_ini, INI)
    return found


def _text(value: object) -> str:
    """Return the text of an ini file's value: of a list, an element a line."""
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def is_said_by_user(config: pytest.Config, entry: RawOption) -> bool:
    """Whether a value is of the user at hand: not the ini file's, nor in its addopts.

    A worker of pytest-xdist has what its controller has checked.
    """
    if entry.source == COMMAND_LINE and not hasattr(config, "workerinput"):
        words = [str(word) for word in config.invocation_params.args]
        typed = " ".join([*words, os.environ.get("PYTEST_ADDOPTS", "")])
        return all(line in typed for line in entry.value.split("\n"))
    return entry.source != INI


def check_given_by_user(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` for an option in the ini file's addopts that no file may give."""
    if hasattr(config, "workerinput"):
        return
    words = [str(word) for word in config.invocation_params.args]
    words += shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    for option in OPTIONS:
        is_typed = any(word.partition("=")[0] == option.flag for word in words)
        if option.is_of_user and config.getoption(option.ini) is not None and not is_typed:
            raise pytest.UsageError(
                f"{option.flag} is in addopts, but no file of a project may set it; give it on the "
                f"command line, or set {option.variable}"
            )


def located_value(config: pytest.Config, field: str, entry: RawOption) -> str:
    """Return a value; a path in the ini file becomes relative to where pytest was started."""
    if entry.source != INI or config.inipath is None or field not in PATHS:
        return entry.value
    start, here = config.inipath.parent, config.invocation_params.dir
    if field in MODELS:
        return located(config, start, entry.value)
    is_path = field == "report_dir" or (start / entry.value).exists()
    if not is_path or start == here or Path(entry.value).is_absolute():
        return entry.value
    return os.path.relpath(start / entry.value, here)


def located(config: pytest.Config, start: Path, spec: str) -> str:
    """Return a spec; a folder below `start` becomes relative to where pytest was started."""
    if spec.startswith(RECORDED):
        return RECORDED + located(config, start, spec.removeprefix(RECORDED))
    name, options = location_and_options(spec, root=start)
    here = config.invocation_params.dir
    if start == here or Path(name).is_absolute() or not (start / name).exists():
        return spec
    return ",".join([os.path.relpath(start / name, here), *options])


def name_of(field: str, entry: RawOption) -> str:
    """Return the name under which the user gave the value."""
    option = BY_FIELD[field]
    if entry.source == COMMAND_LINE:
        return option.short_flag
    return option.ini if entry.source == INI else entry.source


def check_both_models(values: Mapping[str, RawOption]) -> None:
    """Raise `pytest.UsageError` if one model is given without the other."""
    named = [field for field in MODELS if field in values]
    if len(named) == 1:
        there = BY_FIELD[named[0]]
        other = BY_FIELD[next(field for field in MODELS if field not in named)]
        raise pytest.UsageError(
            f"{assignment(values[there.field], there)} is given without {other.short_flag}; a "
            f"comparison needs two models, so give {other.short_flag} too (or {other.variable}, or "
            f"{other.ini} in the ini file)"
        )


def check_given_once(config: pytest.Config) -> None:
    """Raise `pytest.UsageError` if the command line gives a model two values.

    The last would win, and the first would go untested. Values in addopts may be overridden.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    options = [BY_FIELD[field] for field in MODELS]
    for option in options:
        if flags := flags_of(parser_of(config), option):
            parser.add_argument(*flags, dest=option.field, action="append", default=[])
    words = [str(word) for word in config.invocation_params.args]
    found, _ = parser.parse_known_args(words)
    for option in options:
        values = getattr(found, option.field, [])
        if other := [value for value in values[1:] if value != values[0]]:
            raise pytest.UsageError(given_twice(option, values[0], other[0]))


def given_twice(option: Option, first: str, second: str) -> str:
    """Return why two values of a model are refused, and how to compare two candidates."""
    shown = (public_value(value, 60) for value in (first, second))
    return (
        f"{option.short_flag} is given twice, as {' and '.join(shown)}, but a session compares one "
        "pair; leave one of them out. To compare several candidates, run one session each, or give "
        "each a line of divergence_pairs in the ini file (conftest_templates/several_pairs)"
    )


def assignment(entry: RawOption, option: Option) -> str:
    """Return name and value as the user wrote them."""
    where = " (ini file)" if entry.source == INI else ""
    value = " ".join(entry.value.split("\n"))
    return f"{name_of(option.field, entry)}={public_value(value, 60)}{where}"
