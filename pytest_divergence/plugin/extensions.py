"""Additions by other plugins and conftests: models, metrics, strategies, categories, a pair.

Checks the answers of hooks, and names the plugins whose answer is wrong. Calls hooks when they are
needed, so that plugins registered late count too. Does not import torch: a wrong option is refused
without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from pytest_divergence.core.cases import CATEGORY, NATS_PER_TOKEN, Case
from pytest_divergence.core.errors import DivergenceError, ModelLoadError
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.safe_text import safe_line, visible
from pytest_divergence.models.specs import LoadedModel

if TYPE_CHECKING:
    from pytest_divergence.models.pair import Metric, ModelPair

NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The form of a metric's name, which appears in options, files and reports."""
MAX_CATEGORY = 80
MAX_UNIT = 40


def author(config: pytest.Config, hook: str) -> str:
    """Return a hook's name and all plugins that implement it: pluggy hides which one answered."""
    caller = getattr(config.hook, hook)
    names = [
        config.pluginmanager.get_name(hookimpl.plugin) or "" for hookimpl in caller.get_hookimpls()
    ]
    root = str(config.rootpath)
    shown = sorted(name.removeprefix(root).lstrip("/\\") for name in names)
    return f"{hook} ({', '.join(shown)})"


class PluginModels:
    """The models that plugins load: a `ModelProvider`."""

    LOAD, FINGERPRINT = "pytest_divergence_load_model", "pytest_divergence_fingerprint"

    def __init__(self, config: pytest.Config) -> None:
        """Call no hook yet."""
        self._config = config

    @classmethod
    def of(cls, config: pytest.Config) -> PluginModels | None:
        """Return the provider; None if no plugin loads models."""
        has_any = any(
            getattr(config.hook, hook).get_hookimpls() for hook in (cls.LOAD, cls.FINGERPRINT)
        )
        return cls(config) if has_any else None

    @property
    def names(self) -> str:
        """The hook, and the plugins that implement it."""
        return author(self._config, self.LOAD)

    def fingerprint(self, spec: str) -> str | None:
        """Return a cache identity of the model; None: not known."""
        found = self._call(self.FINGERPRINT, spec=spec)
        if found is not None and not (isinstance(found, str) and found.strip()):
            raise self._wrong(self.FINGERPRINT, found, "a non-empty text, or None")
        return found

    def load_model(self, spec: str, role: str, device: str) -> LoadedModel | None:
        """Return the model of a spec; None: no plugin has it."""
        found = self._call(self.LOAD, spec=spec, role=role, device=device)
        if found is not None and not isinstance(found, LoadedModel):
            raise self._wrong(self.LOAD, found, "LoadedModel(model, tokenizer), or None")
        return found

    def _call(self, hook: str, **arguments: str) -> Any:
        try:
            return getattr(self._config.hook, hook)(config=self._config, **arguments)
        except (DivergenceError, pytest.UsageError):
            raise
        except Exception as error:
            who = author(self._config, hook)
            reason = f"{type(error).__name__}: {safe_line(str(error))}"
            raise ModelLoadError(f"{who} failed for {arguments['spec']}: {reason}") from error

    def _wrong(self, hook: str, found: object, rule: str) -> Exception:
        return ModelLoadError(_refusal(self._config, hook, found, rule))


def added_metrics(config: pytest.Config) -> dict[str, Metric]:
    """Return the metrics of other plugins by name. Raises UsageError for a wrong one."""
    hook = "pytest_divergence_metrics"
    found = merged(config, hook, dict.fromkeys(BUILT_IN_METRICS), "metric")
    added = {name: metric for name, metric in found.items() if name not in BUILT_IN_METRICS}
    for name, metric in added.items():
        if not NAME.fullmatch(name):
            rule = "names of at most 64 letters, digits, '.', '_' and '-'"
            raise pytest.UsageError(_refusal(config, hook, name, rule))
        if not callable(getattr(metric, "measure", None)) or isinstance(metric, type):
            rule = f"an object with the method measure for {name!r}"
            raise pytest.UsageError(_refusal(config, hook, metric, rule))
        unit = getattr(metric, "unit", NATS_PER_TOKEN)
        if not (isinstance(unit, str) and unit.isprintable() and 0 < len(unit) <= MAX_UNIT):
            rule = f"a unit for {name!r} of 1 to {MAX_UNIT} printable characters"
            raise pytest.UsageError(_refusal(config, hook, unit, rule))
    return added


def own_pair(request: pytest.FixtureRequest) -> ModelPair:
    """Return the pair that overrides the session's, with the session's metrics."""
    pair: ModelPair = request.getfixturevalue("model_pair")
    return pair.with_metrics(added_metrics(request.config))


def change_cases(config: pytest.Config, cases: list[Case]) -> None:
    """Add each case's category, then let plugins change the cases in place."""
    cases[:] = [_categorised(config, case) for case in cases]
    config.hook.pytest_divergence_modify_cases(config=config, cases=cases)


def _categorised(config: pytest.Config, case: Case) -> Case:
    hook = "pytest_divergence_categorise"
    found = config.hook.pytest_divergence_categorise(config=config, case=case)
    if found is None:
        return case
    is_line = isinstance(found, str) and found.strip() and len(found.splitlines()) == 1
    if not is_line or len(found) > MAX_CATEGORY:
        rule = f"one line of at most {MAX_CATEGORY} characters, or None"
        raise pytest.UsageError(_refusal(config, hook, found, rule))
    return case.with_changes(metadata={**case.metadata, CATEGORY: found.strip()})


def merged(config: pytest.Config, hook: str, built_in: Mapping[str, Any], kind: str) -> Any:
    """Return the built-in entries together with those that all plugins return from a hook.

    Raises UsageError for an answer that is not a mapping, and for a name given twice.
    """
    found = dict(built_in)
    for added in getattr(config.hook, hook)(config=config):
        if not isinstance(added, Mapping) or not all(isinstance(name, str) for name in added):
            raise pytest.UsageError(
                _refusal(config, hook, added, f"a mapping of names to a {kind}")
            )
        if twice := found.keys() & added.keys():
            raise pytest.UsageError(
                f"{hook} gives the name {min(twice)!r}, which another {kind} already has; choose "
                "another name"
            )
        found.update(added)
    return found


def _refusal(config: pytest.Config, hook: str, found: object, rule: str) -> str:
    shown = visible(repr(found), 60)
    return f"{author(config, hook)} returned {shown}; it must return {rule}"
