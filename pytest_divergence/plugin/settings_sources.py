"""Settings made from the options, with the source of each value.

Knows how a wrong value is refused, before torch is imported. Does not know which source comes
before which (`pytest_divergence.plugin.options`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from pydantic import ValidationError

from pytest_divergence.core.errors import DivergenceError, one_of
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.settings import Settings
from pytest_divergence.models.specs import check_served_locally, parse_open_spec, parse_spec
from pytest_divergence.plugin.extensions import PluginModels, added_metrics
from pytest_divergence.plugin.options import (
    BY_FIELD,
    DEFAULT,
    MODELS,
    RawOption,
    assignment,
    check_both_models,
    check_given_by_user,
    given,
    is_said_by_user,
    located_value,
    name_of,
)


@dataclass(frozen=True)
class SettingsWithSources:
    """A session's settings, and where each value came from."""

    settings: Settings
    sources: Mapping[str, str]
    """By field: command line, the environment variable's name, ini, or default."""


def resolve(config: pytest.Config) -> SettingsWithSources:
    """Return the session's settings. Raises `pytest.UsageError` naming the first wrong value."""
    values = given(config)
    check_both_models(values)
    check_given_by_user(config)
    settings = settings_of(
        {f: replace(entry, value=located_value(config, f, entry)) for f, entry in values.items()}
    )
    sources = {field: values[field].source if field in values else DEFAULT for field in BY_FIELD}
    _check_specs(config, settings, values)
    _check_metric(config, settings.metric, values)
    return SettingsWithSources(settings, sources)


def settings_of(values: Mapping[str, RawOption]) -> Settings:
    """Return checked settings. Raises `pytest.UsageError` naming the first wrong value."""
    try:
        return Settings(**{field: entry.value for field, entry in values.items()})
    except ValidationError as error:
        field = str(error.errors(include_url=False)[0]["loc"][0])
        option = BY_FIELD[field]
        shown = assignment(values[field], option)
        raise pytest.UsageError(f"{shown}: must be {option.rule}") from None


def _check_specs(
    config: pytest.Config, settings: Settings, values: Mapping[str, RawOption]
) -> None:
    """Refuse a spec that cannot name a model, before anything heavy is imported."""
    parse = parse_spec if PluginModels.of(config) is None else parse_open_spec
    for field in (field for field in MODELS if field in values):
        try:
            parse(
                getattr(settings, field),
                role=name_of(field, values[field]),
                root=config.invocation_params.dir,
            )
            if not is_said_by_user(config, values[field]):
                check_served_locally(values[field].value, name=name_of(field, values[field]))
        except DivergenceError as error:
            raise pytest.UsageError(str(error)) from None


def _check_metric(config: pytest.Config, name: str, values: Mapping[str, RawOption]) -> None:
    """Refuse a metric that is neither built in nor a plugin's."""
    if name in BUILT_IN_METRICS:
        return
    known = [*BUILT_IN_METRICS, *added_metrics(config)]
    if name not in known:
        shown = assignment(values["metric"], BY_FIELD["metric"])
        raise pytest.UsageError(f"{shown}: {one_of(name, known)}")
