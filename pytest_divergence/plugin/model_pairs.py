"""The pair of models that a suite or a test names.

Knows `divergence_pairs`, the marker's `models`, and a conftest's own fixture `model_pair`. Loads
nothing (`pytest_divergence.plugin.loaded_pairs`), and imports nothing heavy.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.safe_text import visible
from pytest_divergence.models.specs import (
    check_served_locally,
    is_partial,
    is_text_only,
    parse_spec,
    tells_heads,
)
from pytest_divergence.plugin._compat import fixture_definitions
from pytest_divergence.plugin.markers import marker_arguments
from pytest_divergence.plugin.once import Once
from pytest_divergence.plugin.options import PAIRS_INI, located

PLUGIN = "pytest_divergence.plugin"


@dataclass(frozen=True)
class Models:
    """The specs of one pair."""

    reference: str
    candidate: str
    roles: tuple[str, str] = field(default=("--model-1", "--model-2"), compare=False)
    """Their names in messages: where they were given."""

    @property
    def is_partial(self) -> bool:
        """Whether a server or a record tells parts of one of them: no suite is made of it."""
        return is_partial(self.reference) or is_partial(self.candidate)

    @property
    def is_text_only(self) -> bool:
        """Whether one of them is known by its texts alone."""
        return is_text_only(self.reference) or is_text_only(self.candidate)


class PairRules:
    """The lines of `divergence_pairs`, parsed when they are first needed."""

    def __init__(self, config: pytest.Config) -> None:
        """Read nothing yet."""
        self._root = config.rootpath
        self._lines = Once(partial(_rules, config))

    def models_for(self, path: Path) -> Models | None:
        """Return the models of the first line that matches a file. Raises UsageError."""
        shown = Path(os.path.relpath(path, self._root)).as_posix()
        return next((models for glob, models in self._lines() if fnmatchcase(shown, glob)), None)


def _rules(config: pytest.Config) -> list[tuple[str, Models]]:
    """Return the globs and models of `divergence_pairs`. Raises UsageError for a wrong line."""
    rules = []
    roles = (f"model 1 of {PAIRS_INI}", f"model 2 of {PAIRS_INI}")
    start = config.inipath.parent if config.inipath is not None else config.rootpath
    for line in config.getini(PAIRS_INI):
        glob, _, specs = line.partition("=")
        try:
            (pattern,), (reference, candidate) = shlex.split(glob), shlex.split(specs)
        except ValueError:
            raise pytest.UsageError(
                f"{PAIRS_INI}: the line {line!r} cannot be read; write GLOB = MODEL_1 MODEL_2, "
                "with quotes around names that contain spaces"
            ) from None
        _check_served((reference, candidate), roles)
        models = Models(located(config, start, reference), located(config, start, candidate), roles)
        rules.append((pattern, models))
    return rules


def marked_models(request: pytest.FixtureRequest) -> Models | None:
    """Return the models of the test's nearest `divergence(models=...)`. Raises UsageError."""
    of_markers = (given.get("models") for given in marker_arguments(request.node))
    given = next((models for models in of_markers if models is not None), None)
    if given is None:
        return None
    start, roles = request.config.rootpath, ("model 1 of the marker", "model 2 of the marker")
    _check_served((given[0], given[1]), roles)
    reference, candidate = (located(request.config, start, spec) for spec in given)
    return Models(reference, candidate, roles)


def refuse_served(
    models: Models, config: pytest.Config, reader: str, *, takes_heads: bool = False
) -> None:
    """Raise UsageError for a pair that is served: the `reader` needs more than a server tells.

    A reader that `takes_heads` can do with the likeliest tokens at any position.
    """
    for spec, role in zip((models.reference, models.candidate), models.roles, strict=True):
        if is_partial(spec) and not (takes_heads and tells_heads(spec)):
            given = parse_spec(spec, role=role, root=config.invocation_params.dir)
            raise pytest.UsageError(
                f"{role}={visible(str(given), 200)} tells less of its distributions than {reader} "
                "needs; search the weights themselves, promote the cases into a suite, "
                "and replay it: pytest SUITE --model-1 … --model-2 …"
            )


def _check_served(specs: tuple[str, str], roles: tuple[str, str]) -> None:
    """Raise `pytest.UsageError` for a server elsewhere, which no file of the project may name."""
    for spec, role in zip(specs, roles, strict=True):
        try:
            check_served_locally(spec, name=role)
        except DivergenceError as error:
            raise pytest.UsageError(str(error)) from None


def has_own_pair(node: pytest.Item | pytest.Collector) -> bool:
    """Whether a conftest or a module overrides `model_pair` for this part of the session."""
    found = fixture_definitions(node, "model_pair")
    return bool(found) and not is_plugins_own(found[-1])


def is_plugins_own(definition: Any) -> bool:
    """Whether a fixture `model_pair` is the plugin's own."""
    return bool(definition.func.__module__ == PLUGIN)
