"""The workers of a search that computes elsewhere: those of a Ray cluster, if one is asked for.

Knows what of a session can go to another process, and refuses the rest in one sentence. Does not
know how workers are run (`pytest_divergence.discovery.engines.ray`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_divergence.core.errors import DivergenceError, SettingsError
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.setting_names import setting
from pytest_divergence.discovery.engines.ray import RayPool
from pytest_divergence.discovery.engines.ray_cluster import RayOptions, by_value
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.load_plan import LoadOptions
from pytest_divergence.models.loading import PairRecipe
from pytest_divergence.models.specs import ModelSpec, parse_spec
from pytest_divergence.plugin.extensions import PluginModels, added_metrics
from pytest_divergence.plugin.session import DivergenceSession


@contextmanager
def workers_of(session: DivergenceSession, listener: Listener) -> Iterator[RayPool | None]:
    """Run the workers that the session asks for; None: this process computes."""
    settings, models = session.resolved.settings, session.models
    if settings.engine == "local":
        _refuse_workers(session)
        yield None
        return
    start = session.config.invocation_params.dir
    specs = [
        _spec(session, text, role)
        for text, role in zip((models.reference, models.candidate), models.roles, strict=True)
    ]
    places = any(spec.device is not None or spec.device_map is not None for spec in specs)
    options = RayOptions.of(settings, must_give_gpus=places)
    recipe = PairRecipe(
        models.reference,
        models.candidate,
        LoadOptions.of(settings),
        root=start,
        metrics=added_metrics(session.config),
    )
    with by_value(session.root), RayPool(options, recipe, settings, listener) as pool:
        yield pool


def _refuse_workers(session: DivergenceSession) -> None:
    for field in ("workers", "worker_gpus", "worker_timeout"):
        if field in session.given:
            raise pytest.UsageError(
                f"{setting(field)} is for the workers of a Ray cluster; give {setting('engine')}"
                "=ray too, or leave it out"
            )


def _spec(session: DivergenceSession, text: str, role: str) -> ModelSpec:
    """Return a spec that any process can load. Raises SettingsError for a plugin's model."""
    provider = PluginModels.of(session.config)
    if provider is None or provider.fingerprint(text) is None:
        try:
            return parse_spec(text, role=role, root=session.config.invocation_params.dir)
        except DivergenceError:
            if provider is None:
                raise
    raise SettingsError(
        f"{role}={visible(text, 80)}: models that a plugin loads live in this process alone, so "
        f"{setting('engine')} must be local for them; save the model in a folder to search it on "
        "several workers"
    )
