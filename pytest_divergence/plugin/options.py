"""One table of all options: what each is called, how pytest's help words it, and what was given.

What a value may be is decided by `Settings` alone (`pytest_divergence.plugin.settings_sources`).
Imports nothing heavy: pytest loads this in every session.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_divergence.core.safe_text import public_value
from pytest_divergence.plugin._compat import parser_of, taken_flags

NO_ALIASES_VARIABLE = "PYTEST_DIVERGENCE_NO_ALIASES"
"""Set to anything, it leaves `--model-1` and `--model-2` to another plugin that has them."""
TITLE = (
    "divergence: compare two language models\n"
    "  (the summary is one line with -q; -v shows all failed cases, -vv each token too)"
)
MODELS = ("model_1", "model_2")
PATHS = (*MODELS, "seeds", "chat_template", "report_dir")

COMMAND_LINE, INI, DEFAULT = "command line", "ini", "default"

PAIRS_INI = "divergence_pairs"
PAIRS_INI_HELP = (
    "pairs of models by suite, one a line: GLOB = MODEL_1 MODEL_2. The glob is matched against the "
    "path of the suite, or of a test's file, from the root folder (* crosses folders), and the "
    "first that matches counts. Models on the command line or in the environment come before these "
    "lines, and these before divergence_model_1 and divergence_model_2"
)


@dataclass(frozen=True)
class Option:
    """One field of `Settings`, as a user gives it."""

    field: str
    metavar: str
    help: str
    rule: str
    """What a value must be: ends the sentence that refuses a wrong one."""
    alias: str | None = None
    is_switch: bool = False
    """Given without a value on the command line."""
    synonym: str | None = None
    """Another name, our own too."""

    @property
    def flag(self) -> str:
        """The canonical command line option."""
        return f"--divergence-{self.field.replace('_', '-')}"

    @property
    def short_flag(self) -> str:
        """The alias where there is one and it is not switched off, else `flag`."""
        return self.flag if os.environ.get(NO_ALIASES_VARIABLE) else self.alias or self.flag

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"PYTEST_DIVERGENCE_{self.field.upper()}"

    @property
    def ini(self) -> str:
        """The key of the ini file."""
        return f"divergence_{self.field}"


def _switch(field: str, help_text: str, synonym: str | None = None) -> Option:
    return Option(field, "", help_text, "true or false", is_switch=True, synonym=synonym)


def _choice(field: str, help_text: str, *choices: str) -> Option:
    return Option(field, "{" + ",".join(choices) + "}", help_text, f"one of {', '.join(choices)}")


SPEC_RULE = "a Hub id, a local folder or demo:NAME"
OPTIONS = (
    Option(
        "model_1",
        "SPEC",
        f"the reference, the trusted model: {SPEC_RULE}, or a GGUF file; behind it, each after a "
        "comma, dtype=…, attn_implementation=…, revision=…, device=… or device_map=auto of this "
        "model alone",
        SPEC_RULE,
        "--model-1",
    ),
    Option(
        "model_2",
        "SPEC",
        "the candidate, the model under test: like the reference, or a PEFT adapter's folder of "
        "model 1 (of another model with ,base=MODEL, as an adapter needs that is model 1)",
        SPEC_RULE,
        "--model-2",
    ),
    _choice(
        "mode",
        "auto (default) replays given suites, replays in CI, and searches otherwise",
        *("auto", "search", "replay", "off"),
    ),
    _choice(
        "profile",
        "how long a search takes; auto (default) is smoke on a CPU, default on a GPU",
        *("auto", "smoke", "default", "thorough"),
    ),
    Option(
        "budget",
        "BUDGET",
        "forwarded tokens (200000) after which a search ends, or seconds (300s)",
        "a number of forwarded tokens, such as 200000, or of seconds, such as 300s",
    ),
    Option(
        "max_kl",
        "NATS",
        "asserted limit in nats per token; auto (default) derives it from both models",
        "auto or a positive number of nats per token",
    ),
    Option(
        "max_shift",
        "NATS",
        "limit of the mean divergence on ordinary prompts, in nats per token (default: none)",
        "a positive number of nats per token",
    ),
    _choice(
        "inconclusive",
        "what too little evidence does to a suite's aggregate: pass (default), with a warning; or "
        "fail",
        *("pass", "fail"),
    ),
    Option(
        "metric",
        "METRIC",
        "divergence that is asserted: symmetric (default), forward, reverse, js or a plugin's own",
        "symmetric, forward, reverse, js or the name of a plugin's metric",
    ),
    _choice(
        "gate",
        "natural (default) leaves out prompts that no one would write",
        *("natural", "all"),
    ),
    _choice(
        "fail_on",
        "conditional (default): behaviours that only some prompts cause fail; any: new styles too",
        *("conditional", "any", "none"),
    ),
    Option(
        "seeds",
        "FILE",
        "prompts to start from: text, JSON Lines, CSV or hf:DATASET:COLUMN (default: shipped ones)",
        "the path of a file, or hf:DATASET:COLUMN",
    ),
    Option("seed", "N", "random seed of the run (default: 0)", "a whole number"),
    Option(
        "num_cases", "N", "cases to export (default: the profile's)", "a whole number of at least 1"
    ),
    _choice(
        "builtin_suite",
        "whether the search's own cases join the session; auto (default): if no path is given",
        *("auto", "on", "off"),
    ),
    Option(
        "chat_template",
        "CHOICE|FILE",
        "reference (default), candidate, none or the path of a Jinja file; used for both models",
        "reference, candidate, none or the path of a Jinja file",
    ),
    Option("system_prompt", "TEXT", "system turn before every prompt", "a text"),
    Option("device", "DEVICE", "auto (default), cpu, cuda, cuda:1, mps", "the name of a device"),
    _choice(
        "dtype",
        "number format of both models (default: auto)",
        *("auto", "float32", "bfloat16", "float16"),
    ),
    Option(
        "memory",
        "SIZE",
        "memory that a search may take, such as 30GB (default: what is free)",
        "a size, such as 30GB or 500MB",
    ),
    Option(
        "report_dir",
        "FOLDER",
        "where reports go (default: .divergence/reports); a replay writes one only if it is given",
        "a folder",
    ),
    _choice(
        "github",
        "annotations and a step summary on GitHub; auto (default): where GITHUB_ACTIONS is true",
        *("auto", "on", "off"),
    ),
    _switch(
        "redact",
        "leave prompts and answers out of reports and failures: ids and numbers stay, and suites "
        "keep their texts",
    ),
    _switch(
        "allow_same_model",
        "one model on both sides is meant: without this, such a session fails in CI",
    ),
    _switch(
        "update",
        "after an intended change: measure the suites of this session afresh, and rewrite them",
    ),
    _switch(
        "fill",
        "complete rows written by hand: measure those without kl, and leave all others as they are",
        "--divergence-update-new-only",
    ),
)
BY_FIELD: Mapping[str, Option] = {option.field: option for option in OPTIONS}


def flag_of(field: str) -> str:
    """What messages call a setting: its alias where there is one, else its option."""
    return BY_FIELD[field].short_flag


def add_options(parser: pytest.Parser) -> None:
    """Register options and ini keys; an alias that another plugin owns is left to it."""
    taken = taken_flags(parser)
    group = parser.getgroup("divergence", TITLE)
    for option in OPTIONS:
        flags = {option.flag, option.short_flag, option.synonym or option.flag} - taken
        takes: dict[str, str] = {"metavar": option.metavar}
        if option.is_switch:
            takes = {"action": "store_const", "const": "true"}
        group.addoption(
            *sorted(flags),
            dest=_dest(option),
            **takes,
            default=None,
            help=option.help.replace("%", "%%"),
        )
        parser.addini(option.ini, f"as {option.flag}", type="string", default=None)
    parser.addini(PAIRS_INI, PAIRS_INI_HELP, type="linelist", default=[])


def flags_of(parser: pytest.Parser, option: Option) -> list[str]:
    """The names that `add_options` gave to an option."""
    registered = parser.getgroup("divergence", TITLE).options
    return [name for one in registered if one.dest == _dest(option) for name in one.names()]


def _dest(option: Option) -> str:
    return f"divergence_{option.field}"


@dataclass(frozen=True)
class Given:
    """A value as text, and where it was given: command line, a variable's name, or ini."""

    value: str
    source: str


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


def located_value(config: pytest.Config, field: str, one: Given) -> str:
    """A value, with a path that the ini file names made to hold where pytest was started."""
    if one.source != INI or config.inipath is None or field not in PATHS:
        return one.value
    start, here = config.inipath.parent, config.invocation_params.dir
    if field in MODELS:
        return located(config, start, one.value)
    is_path = field == "report_dir" or (start / one.value).exists()
    if not is_path or start == here or Path(one.value).is_absolute():
        return one.value
    return os.path.relpath(start / one.value, here)


def located(config: pytest.Config, start: Path, spec: str) -> str:
    """A spec with a folder beside `start` made to hold where pytest was started."""
    name, comma, rest = spec.partition(",")
    here = config.invocation_params.dir
    if start == here or Path(name).is_absolute() or not (start / name).exists():
        return spec
    return f"{os.path.relpath(start / name, here)}{comma}{rest}"


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
            f"{assignment(values[there.field], there)} is given without {other.short_flag}; a "
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
        if flags := flags_of(parser_of(config), option):
            parser.add_argument(*flags, dest=option.field, action="append", default=[])
    words = [str(one) for one in config.invocation_params.args]
    found, _ = parser.parse_known_args(words)
    for option in options:
        values = getattr(found, option.field, [])
        if other := [one for one in values[1:] if one != values[0]]:
            raise pytest.UsageError(given_twice(option, values[0], other[0]))


def given_twice(option: Option, first: str, second: str) -> str:
    """Why two values of a model are refused, and how two candidates are compared."""
    shown = (public_value(one, 60) for one in (first, second))
    return (
        f"{option.short_flag} is given twice, as {' and '.join(shown)}, and a session compares one "
        "pair; leave one of them out. Several candidates have a session each, or a line each of "
        "divergence_pairs in the ini file (conftest_templates/several_pairs)"
    )


def assignment(one: Given, option: Option) -> str:
    """What the user wrote, name and value."""
    where = " (ini file)" if one.source == INI else ""
    return f"{name_of(option.field, one)}={public_value(one.value, 60)}{where}"
