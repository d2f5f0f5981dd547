"""The pairs that a session has asked for, one at a time in memory.

Knows how a pair makes room for another. Does not know which pair a suite or a test names
(`pytest_divergence.plugin.model_pairs`), nor what is measured on it.
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from pytest_divergence.core.provenance import NoiseFloor
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.cost import Memory, search_memory
from pytest_divergence.discovery.plan import RunIdentity, identify_pair, identify_plan
from pytest_divergence.models.devices import resolve_device
from pytest_divergence.models.fingerprints import ModelIdentity
from pytest_divergence.models.load_plan import LoadContext, LoadOptions, LoadPlan, resolve_pair
from pytest_divergence.models.loading import load_pair, try_out_served
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.plugin._compat import fixture_definitions
from pytest_divergence.plugin.extensions import PluginModels, added_metrics
from pytest_divergence.plugin.frames import forget_frames
from pytest_divergence.plugin.model_pairs import Models, is_plugins_own
from pytest_divergence.plugin.once import Once
from pytest_divergence.scoring.estimates import served_floor

FOREIGN = r"(transformers|torch|peft|huggingface_hub|tokenizers|safetensors|ray)\b"
"""Libraries whose warnings must not become a failed search under a project's `-W error`."""


class Pairs:
    """The pairs that a session asks for, one at a time in memory."""

    def __init__(
        self,
        config: pytest.Config,
        settings: Callable[[], Settings],
        say: Callable[[str], None],
    ) -> None:
        """Read nothing and load nothing yet."""
        self._config, self._settings, self._say = config, settings, say
        self._loaded: tuple[Models, ModelPair] | None = None
        self._failed: dict[Models, Exception] = {}
        self._plans: dict[Models, Once[LoadPlan]] = {}
        self._identities: dict[Models, tuple[ModelIdentity, ModelIdentity]] = {}
        self._twins: dict[Models, bool] = {}
        self._floors: dict[Models, NoiseFloor] = {}

    def is_loaded(self, models: Models) -> bool:
        """Whether asking for this pair costs nothing."""
        return self._loaded is not None and self._loaded[0] == models

    def load(self, models: Models) -> ModelPair:
        """Return the pair, loaded unless it is in memory. A failure is kept and raised again."""
        if models in self._failed:
            raise self._failed[models]
        if self._loaded is None or self._loaded[0] != models:
            self.release()
            try:
                self._loaded = models, self._load(models)
                self._look_at(models)
            except Exception as error:
                forget_frames(error)
                self._failed[models] = error
                raise
        return self._loaded[1]

    def release(self) -> None:
        """Free the pair in memory."""
        if self._loaded is None:
            return
        self._loaded = None
        # pytest keeps the last failure for debuggers, with all that its frames hold.
        for name in ("last_exc", "last_type", "last_value", "last_traceback"):
            vars(sys).pop(name, None)
        gc.collect()
        torch: Any = sys.modules["torch"]  # a pair was loaded
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def plan(self, models: Models) -> LoadPlan:
        """Return the plan of loading a pair, resolved once per session. A failure is kept."""
        if models not in self._plans:
            self._plans[models] = Once(partial(self.resolve, models))
        try:
            return self._plans[models]()
        except Exception as error:
            forget_frames(error)
            raise

    def resolve(self, models: Models, *, is_offline: bool = False) -> LoadPlan:
        """Look up both models; `is_offline` downloads nothing, and a model may be missing."""
        options, context = (
            LoadOptions.of(self._settings()),
            self._context(models, is_offline=is_offline),
        )
        with patient_warnings():
            return resolve_pair(models.reference, models.candidate, options, context)

    def identities(self, models: Models) -> tuple[ModelIdentity, ModelIdentity]:
        """Return both identities; loads the models only if a plugin gives no fingerprint."""
        if self.plan(models).is_known:
            self._look_at(models)
            return self.plan(models).identities
        if models not in self._identities:
            pair = self.load(models)
            self._identities[models] = pair.reference_identity, pair.candidate_identity
        return self._identities[models]

    def check(self, models: Models) -> None:
        """Refuse a pair that cannot be loaded, or whose server fails its trial; load nothing."""
        if self.plan(models).is_known:
            self.identities(models)
        self.served_floor(models)

    def served_floor(self, models: Models) -> NoiseFloor | None:
        """Return the noise of a pair's servers, which are tried once; None if nothing is served.

        Raises `DivergenceError`, with the server's own answer.
        """
        plan = self.plan(models)
        servers = [side.served for side in plan.sides if side.spec.is_served]
        if servers and models not in self._floors:
            tried = "its tokenizer, its template, and the same tokens again"
            if models.is_text_only:
                tried = "whether it samples"
            self._say(f"trying the server: {tried}")
            with patient_warnings():
                self._floors[models] = served_floor(try_out_served(plan))
        return self._floors.get(models)

    def run_identity(self, models: Models) -> RunIdentity:
        """Return the inputs that a search of this pair depends on."""
        plan = self.plan(models)
        if plan.is_known:
            self._look_at(models)
        found = identify_plan(plan) if plan.is_known else identify_pair(self.load(models))
        return found.with_metric(added_metrics(self._config).get(self._settings().metric))

    def take_over(self, models: Models, identity: RunIdentity) -> RunIdentity:
        """Return what workers say of a pair, whose models need not be here."""
        own = identity.candidate_tokenizer_sha256
        self._twins[models] = identity.is_same_model and own in (None, identity.tokenizer_sha256)
        return identity.with_metric(added_metrics(self._config).get(self._settings().metric))

    def identity_of(self, pair: ModelPair) -> RunIdentity:
        """Return the inputs that measurements on this pair depend on; also of a user's own pair."""
        if self._loaded is not None and self._loaded[1] is pair:
            return self.run_identity(self._loaded[0])
        return identify_pair(pair)

    def memory(self, models: Models) -> Memory | None:
        """Return the memory that a search of this pair needs; None if unknown before loading."""
        settings, plan = self._settings(), self.plan(models)
        profile = settings.resolved_profile(plan.device.type)
        return search_memory(plan, profile, allowed=settings.memory_bytes)

    @property
    def twins(self) -> set[tuple[str, str]]:
        """The specs of each pair now known to be one model twice."""
        return {
            (models.reference, models.candidate)
            for models, is_twin in self._twins.items()
            if is_twin
        }

    def _look_at(self, models: Models) -> None:
        plan, loaded = self.plan(models), self._loaded
        if plan.is_known:
            self._twins[models] = _is_one_model(plan)
        elif loaded is not None and loaded[0] == models:
            self._twins[models] = loaded[1].is_same_model

    def _context(self, models: Models, *, is_offline: bool = False) -> LoadContext:
        start, provider = self._config.invocation_params.dir, PluginModels.of(self._config)
        return LoadContext(start, models.roles, self._say, provider, is_offline)

    def _load(self, models: Models) -> ModelPair:
        if self._plans.get(models) and not self.plan(models).is_current:
            del self._plans[models]  # a fixture has trained it, say, so it is checked again
        with patient_warnings():
            resolve_device(self._settings().device)  # an error here comes before any download
            self.served_floor(models)
            pair = load_pair(self.plan(models), self._context(models))
        return pair.with_metrics(added_metrics(self._config))

    def for_test(self, request: pytest.FixtureRequest, models: Models) -> ModelPair:
        """Return the pair for a running test, after ending the fixture that holds another pair."""
        if not self.is_loaded(models) and "model_pair" not in request.fixturenames:
            for fixture in filter(is_plugins_own, fixture_definitions(request.node, "model_pair")):
                fixture.finish(request)  # or pytest keeps its value to the end of the session
        return self.load(models)


def _is_one_model(plan: LoadPlan) -> bool:
    """Whether both sides have the same weights, tokenizer and template, and run alike."""
    reference, candidate = (identity.weights_sha256 for identity in plan.identities)
    if reference != candidate:
        return False
    is_unsure = any(side.served and not side.served.names_weights for side in plan.sides)
    if is_unsure and plan.reference.spec != plan.candidate.spec:
        return False  # what a server says of its weights may be true of others too
    asked = {
        (spec.dtype, spec.attn_implementation, spec.device, spec.device_map)
        for spec in (side.full_model.spec for side in plan.sides)
    }
    tokenizers = {plan.candidate_tokenizer_digest, plan.tokenizer_digest} - {None}
    return len(asked) == 1 and len(tokenizers) == 1


@contextmanager
def patient_warnings() -> Iterator[None]:
    """Ignore other libraries' warnings, which a project may turn into errors."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=FOREIGN)
        yield
