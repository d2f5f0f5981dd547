"""Command line, environment and ini file become `Settings`, with the source of each value.

One table names every option; what a value may be is decided by `Settings` alone. Imports nothing
heavy: pytest loads this in every session.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.added import PluginModels, added_metrics

if TYPE_CHECKING:
    from pytest_divergence.core.settings import Settings

COMMAND_LINE, INI, DEFAULT = "command line", "ini", "default"
NO_ALIASES_VARIABLE = "PYTEST_DIVERGENCE_NO_ALIASES"
"""Set to anything, it leaves `--model-1` and `--model-2` to another plugin that has them."""
TITLE = (
    "divergence: compare two language models\n"
    "  (the summary is one line with -q; -v shows all failed cases, -vv each token too)"
)
SUITE_SUFFIX = ".divergence.jsonl"
MODELS = ("model_1", "model_2")
PATHS = (*MODELS, "seeds", "chat_template", "report_dir")


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
    Option(
        "shard",
        "I/N",
        "do the I-th of N machines' share of a search; `pytest-divergence merge` unites them",
        "I/N with 1 <= I <= N, such as 1/2",
    ),
    Option(
        "shard_wait",
        "SECONDS",
        "seconds to wait for each piece of work of another shard (default: 0)",
        "a number of seconds, 0 or more",
    ),
    _switch(
        "redact",
        "leave prompts and answers out of reports and failures: ids and numbers stay, and suites "
        "keep their texts",
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


def add_options(parser: pytest.Parser) -> None:
    """Register options and ini keys; an alias that another plugin owns is left to it."""
    taken = _owned_flags(parser)
    group = parser.getgroup("divergence", TITLE)
    for option in OPTIONS:
        flags = {option.flag, option.short_flag, option.synonym or option.flag} - taken
        takes: dict[str, str] = {"metavar": option.metavar}
        if option.is_switch:
            takes = {"action": "store_const", "const": "true"}
        group.addoption(
            *sorted(flags),
            dest=f"divergence_{option.field}",
            **takes,
            default=None,
            help=option.help.replace("%", "%%"),
        )
        parser.addini(option.ini, f"as {option.flag}", type="string", default=None)


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


def _check_specs(config: pytest.Config, settings: Settings, values: Mapping[str, Given]) -> None:
    """Refuse a spec that cannot name a model, before anything heavy is imported."""
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.models.specs import parse_open_spec, parse_spec

    parse = parse_spec if PluginModels.of(config) is None else parse_open_spec
    for field in (field for field in MODELS if field in values):
        try:
            parse(
                getattr(settings, field),
                role=_name(values[field], BY_FIELD[field]),
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
    from pytest_divergence.core.safe_text import safe_line

    value = safe_line(one.value, 60)[1:-1] if "://" not in one.value else "[a URL]"
    where = " (ini file)" if one.source == INI else ""
    return f"{_name(one, option)}={value}{where}"


def _name(one: Given, option: Option) -> str:
    """What the user wrote to give the value."""
    if one.source == COMMAND_LINE:
        return option.short_flag
    return option.ini if one.source == INI else one.source


def _owned_flags(parser: pytest.Parser) -> set[str]:
    """Flags that pytest and plugins loaded earlier have registered."""
    groups: list[Any] = [*parser._groups, parser._anonymous]
    return {name for group in groups for option in group.options for name in option.names()}
