"""The reference and the candidate, ready to be run side by side.

Owns what the two share: one tokenizer, one chat format, one device and dtype. Does not know where
models come from (`pytest_divergence.models.loading`) or what is measured on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.adapters import AdapterSwitch
from pytest_divergence.models.chat import ChatFormat, Prompt
from pytest_divergence.models.metric import Metric
from pytest_divergence.models.placing import present_weights
from pytest_divergence.models.side import Meter, ModelSide

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class ModelIdentity:
    """What one model of a pair is: shown to people, and digested for caches."""

    spec: str
    kind: str
    weights_sha256: str
    commit: str | None = None


@dataclass(frozen=True)
class ModelPair:
    """Two causal language models over one vocabulary.

    Build one with `load_model_pair` from specs, or `ModelPair.from_models` from memory.
    """

    reference: ModelSide
    candidate: ModelSide
    chat: ChatFormat
    reference_identity: ModelIdentity
    candidate_identity: ModelIdentity
    dtype: torch.dtype
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """What it can be measured in besides the built-in metrics, by name."""

    @classmethod
    def from_models(
        cls,
        reference: PreTrainedModel,
        candidate: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        system_prompt: str | None = None,
        identities: tuple[ModelIdentity, ModelIdentity] | None = None,
    ) -> ModelPair:
        """A pair of models already in memory; both are frozen and set to evaluation.

        `candidate` may be a `PeftModel` around `reference` itself: then one copy of the weights
        serves both sides. Raises `ModelLoadError` where their vocabularies differ.
        """
        meter = Meter()
        candidate_side = ModelSide("candidate", _plain(candidate), meter=meter)
        reference_side = ModelSide("reference", reference, meter=meter)
        if candidate is not reference and _plain(candidate) is reference:
            switch = AdapterSwitch(cast("PeftModel", candidate))
            candidate_side = replace(candidate_side, activate=switch.on)
            reference_side = replace(reference_side, activate=switch.off)
        for model in (reference, _plain(candidate)):
            model.requires_grad_(False)
            model.train(False)
        check_same_vocabulary(reference_side.vocab_size, candidate_side.vocab_size)
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None
        stop_ids = _stop_ids(tokenizer, reference, _plain(candidate))
        return cls(
            reference=reference_side,
            candidate=candidate_side,
            chat=ChatFormat(tokenizer, template, system_prompt, stop_ids),
            reference_identity=(identities or _identities_in_memory(reference, candidate))[0],
            candidate_identity=(identities or _identities_in_memory(reference, candidate))[1],
            dtype=reference.dtype,
        )

    def with_template(self, template: str | None) -> ModelPair:
        """The same models under another chat template (None: plain text continuation)."""
        return replace(self, chat=replace(self.chat, template=template))

    def with_names(self, *names: tuple[str, str]) -> ModelPair:
        """The same models, known by other specs: spec and kind of the reference and candidate."""
        reference, candidate = (
            replace(identity, spec=spec, kind=kind)
            for identity, (spec, kind) in zip(
                (self.reference_identity, self.candidate_identity), names, strict=True
            )
        )
        return replace(self, reference_identity=reference, candidate_identity=candidate)

    def with_metrics(self, metrics: Mapping[str, Metric]) -> ModelPair:
        """The same models, to be measured in these metrics too, by name."""
        return replace(self, metrics={**self.metrics, **metrics})

    @property
    def sides(self) -> tuple[ModelSide, ModelSide]:
        """Reference and candidate, in this order."""
        return self.reference, self.candidate

    @property
    def device(self) -> torch.device:
        """Where the reference's inputs go."""
        return self.reference.device

    @property
    def is_same_model(self) -> bool:
        """Whether both sides are the same weights without an adapter between them."""
        return self.reference_identity.weights_sha256 == self.candidate_identity.weights_sha256

    @property
    def tokens_forwarded(self) -> int:
        """Tokens that both models have forwarded so far."""
        return self.reference.meter.tokens_forwarded

    def prompt_rows(self, prompts: Sequence[Prompt]) -> list[tuple[tuple[int, ...], Tensor]]:
        """Each prompt as the shared prefix (empty where it does not apply) and the ids after it."""
        rows = []
        for prompt in prompts:
            prefix, body = self.chat.split(self.chat.prompt_ids(prompt))
            rows.append((prefix, torch.tensor(body, dtype=torch.long)))
        return rows


def check_same_vocabulary(reference: int, candidate: int) -> None:
    """Raise `ModelLoadError` where two models' embeddings have different numbers of rows."""
    if reference != candidate:
        raise ModelLoadError(
            f"the reference has {reference} tokens in its vocabulary, the candidate {candidate}; a "
            "divergence needs one vocabulary"
        )


def _plain(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, with the adapter's layers in place."""
    unwrap: Any = getattr(model, "get_base_model", lambda: model)
    return cast("PreTrainedModel", unwrap())


def _stop_ids(tokenizer: PreTrainedTokenizerBase, *models: PreTrainedModel) -> frozenset[int]:
    found: set[int] = set()
    for owner in (tokenizer, *(m.generation_config for m in models), *(m.config for m in models)):
        value = getattr(owner, "eos_token_id", None)
        values = value if isinstance(value, (list, tuple)) else [value]
        found.update(token_id for token_id in values if token_id is not None)
    return frozenset(found)


def _identities_in_memory(
    reference: PreTrainedModel, candidate: PreTrainedModel | PeftModel
) -> tuple[ModelIdentity, ModelIdentity]:
    def identity(model: PreTrainedModel | PeftModel, digest: str) -> ModelIdentity:
        return ModelIdentity(f"in memory: {type(_plain(model)).__name__}", "memory", digest)

    whole = _weights_digest(_plain(candidate))
    if candidate is not reference and _plain(candidate) is reference:
        own = _weights_digest(reference, without=".lora_")
        return identity(reference, own), identity(candidate, whole)
    return identity(reference, _weights_digest(reference)), identity(candidate, whole)


def _weights_digest(model: PreTrainedModel, *, without: str | None = None) -> str:
    digest = hashlib.sha256()
    for name, tensor in present_weights(model):
        if without is None or without not in name:
            digest.update(name.encode("utf-8"))
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
