"""Models that someone else loads: what is asked for, and what is checked before it is used.

Does not know who they are: pytest's plugins stand behind `pytest_divergence.added`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.specs import parse_spec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pytest_divergence.models.resolved import ResolvedSpec


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model and its tokenizer, in memory."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class ModelProvider(Protocol):
    """Whoever loads models by specs that no built-in rule understands."""

    @property
    def names(self) -> str:
        """Who that is, for messages; empty where there is no one."""

    def fingerprint(self, spec: str) -> str | None:
        """What tells the model from every other, without loading it; None: not known."""

    def load_model(self, spec: str, role: str, device: str) -> LoadedModel | None:
        """The model of a spec; None: there is none by that spec."""


def provide(
    specs: tuple[ResolvedSpec, ResolvedSpec], provider: ModelProvider, device: torch.device
) -> tuple[ResolvedSpec, ResolvedSpec]:
    """The same with what the provider loads; raises `ModelLoadError` for a spec of no one's."""
    reference, candidate = specs
    provided = _provided(reference, provider, "reference", device)
    if candidate.is_same_as(reference):
        return provided, replace(candidate, loaded=provided.loaded)
    if candidate.base is reference:
        candidate = replace(candidate, base=provided)
    return provided, _provided(candidate, provider, "candidate", device)


def check_dtype(loaded: LoadedModel, dtype: torch.dtype, *, option: str) -> None:
    """Raise `ModelLoadError` where a provider's model is not of the pair's dtype."""
    if loaded.model.dtype != dtype:
        own, wanted = (str(one).removeprefix("torch.") for one in (loaded.model.dtype, dtype))
        raise ModelLoadError(
            f"{option} is loaded in {own}, but the pair is measured in {wanted}; a pair has one "
            f"dtype, so give {setting('dtype')}={own} or load it in {wanted}"
        )


def _provided(
    one: ResolvedSpec, provider: ModelProvider, role: str, device: torch.device
) -> ResolvedSpec:
    if one.folder is not None:
        return one
    spec = one.spec.location
    found = _provided_model(provider, spec, option=one.role, role=role, device=device)
    if found is None:
        raise _unknown_spec(one, provider)
    return replace(one, loaded=found)


def _provided_model(
    provider: ModelProvider, spec: str, *, option: str, role: str, device: torch.device
) -> LoadedModel | None:
    """A provider's model. Raises `ModelLoadError` for one that cannot be measured here."""
    found = provider.load_model(spec, role, str(device))
    if found is None:
        return None
    model, tokenizer = (getattr(found, name, None) for name in ("model", "tokenizer"))
    _check_type(model, "PreTrainedModel", f"{option}: the model of {provider.names}")
    _check_type(
        tokenizer, "PreTrainedTokenizerBase", f"{option}: the tokenizer of {provider.names}"
    )
    loaded_on = found.model.device
    if loaded_on.type != device.type or (device.index or 0) != (loaded_on.index or 0):
        raise ModelLoadError(
            f"{option}: {provider.names} loaded the model on {loaded_on}, but this session "
            f"measures on {device}; load it on the device that the hook is given"
        )
    return found


def _unknown_spec(one: ResolvedSpec, provider: ModelProvider) -> ModelLoadError:
    if one.fingerprint is not None:
        return ModelLoadError(
            f"{one.role}: pytest_divergence_fingerprint knows {safe_line(str(one.spec))}, but "
            "pytest_divergence_load_model does not load it"
        )
    try:
        parse_spec(one.spec.location, role=one.role)
    except ModelLoadError as error:
        return ModelLoadError(f"{error}; nor does {provider.names} know it")
    return ModelLoadError(f"{one.role}: {provider.names} does not know {safe_line(str(one.spec))}")


def _check_type(value: object, name: str, what: str) -> None:
    import transformers

    wanted: type = getattr(transformers, name)
    if not isinstance(value, wanted):
        raise ModelLoadError(
            f"{what} is a {type(value).__name__}; it must be a {name} of transformers, as in "
            "LoadedModel(model, tokenizer)"
        )
