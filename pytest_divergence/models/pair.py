"""The reference and the candidate, ready to be run side by side.

Owns what the two share: one tokenizer, one chat format, the metrics, and where one is an adapter of
the other, one copy of the weights. Does not know where models come from
(`pytest_divergence.models.loading`) or what is measured on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pytest_divergence.core.errors import MeasurementError, ModelLoadError, NoGradientError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.chat_format import ChatFormat, Prompt, check_marks_are_shared
from pytest_divergence.models.devices import dtype_name, present_weights
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.fingerprints import ModelIdentity
from pytest_divergence.models.self_check import checked
from pytest_divergence.models.side import Meter, Role, Side, SideWithGradients, SideWithWeights
from pytest_divergence.models.tokenizers import num_tokens, template_of, vocabularies
from pytest_divergence.models.transformers_log import Say
from pytest_divergence.models.transformers_side import TransformersSide

if TYPE_CHECKING:
    from peft import PeftModel

Adapters = tuple[str, ...]
"""Names of the adapters that one side of a pair uses; empty: the base alone."""


class Metric(Protocol):
    """A measure of how far two models' next-token distributions are apart.

    An attribute `unit` (a short text, such as `"changes/token"`) names what the numbers count;
    without it they are nats per token.
    """

    def measure(self, reference_logits: Tensor, candidate_logits: Tensor) -> Tensor:
        """The divergence at each position of a shared context: (..., vocab) -> (...).

        Its mean over positions is compared with `max_kl`. Logits are float32 or better, and -inf
        where a model rules a token out. The result must be finite.
        """


@dataclass(frozen=True)
class ModelPair:
    """Two causal language models over one vocabulary.

    Build one with `load_model_pair` from specs, or `ModelPair.from_models` from memory.
    """

    reference: Side
    candidate: Side
    chat: ChatFormat
    reference_identity: ModelIdentity
    candidate_identity: ModelIdentity
    dtype: torch.dtype
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """Metrics besides the built-in ones, by name."""

    @classmethod
    def from_models(
        cls,
        reference: PreTrainedModel | PeftModel,
        candidate: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        adapters: tuple[Adapters, Adapters] | None = None,
        known_tokens: tuple[int, int] | None = None,
        has_two_tokenizers: bool = False,
        system_prompt: str | None = None,
        chat: ChatFormat | None = None,
        identities: tuple[ModelIdentity, ModelIdentity] | None = None,
        say: Say = lambda _: None,
    ) -> ModelPair:
        """A pair of models already in memory; both are frozen and set to evaluation.

        Either may be a `PeftModel` around the other: then one copy of the weights serves both
        sides. Where both are one `PeftModel`, `adapters` names those of the reference and those of
        the candidate, as in `(("first",), ("second",))`; without it each side runs with what is
        active. `tokenizer` is the one of the smaller vocabulary; `known_tokens` says how many the
        reference and the candidate know, where one was extended, and `has_two_tokenizers` that the
        candidate's number is its own tokenizer's. `chat` is the format of prompts;
        without it, the tokenizer's own template with `system_prompt`. Each side reads by the
        fastest way that gives the model's own numbers; a slower one is told to `say`. Raises
        `ModelLoadError` where a model has no row for a token of both, is not causal or gives its
        own numbers in no way, and for an adapter that the model does not have.
        """
        models = _plain(reference), _plain(candidate)
        meter = Meter()
        reference_side = TransformersSide("reference", models[0], meter=meter)
        candidate_side = TransformersSide("candidate", models[1], meter=meter)
        wrapped = _shared_wrapper(reference, candidate)
        if wrapped is not None:
            names = adapters or (_active(reference), _active(candidate))
            switch = AdapterSwitch(wrapped, *names)
            reference_side = replace(reference_side, activate=switch.reference)
            candidate_side = replace(candidate_side, activate=switch.candidate)
        for model in models:
            model.requires_grad_(False)
            model.train(False)
        known = known_tokens or (num_tokens(tokenizer),) * 2
        rows = reference_side.num_rows, candidate_side.num_rows
        reference_side.vocabulary, candidate_side.vocabulary = vocabularies(
            rows, known, has_two=has_two_tokenizers
        )
        reference_side, candidate_side = _checked(reference_side, candidate_side, say)
        if chat is None:
            chat = ChatFormat(tokenizer, template_of(tokenizer), system_prompt)
        check_marks_are_shared(chat, reference_side.vocabulary)
        identities = identities or _identities_in_memory(reference, candidate, adapters)
        return cls.of_sides(reference_side, candidate_side, chat, identities, models[0].dtype)

    @classmethod
    def of_sides(
        cls,
        reference: Side,
        candidate: Side,
        chat: ChatFormat,
        identities: tuple[ModelIdentity, ModelIdentity],
        dtype: torch.dtype,
    ) -> ModelPair:
        """A pair of sides that are ready; a server may run one of them or both.

        Answers end where `chat`, its tokenizer, its template or a model that is here says.
        """
        both = reference, candidate
        here = [side for side in both if isinstance(side, TransformersSide)]
        chat = replace(chat, stop_ids=_stop_ids(chat, here))
        return cls(reference, candidate, chat, *identities, dtype)

    def with_template(self, template: str | None) -> ModelPair:
        """The pair under another chat template (None: plain text continuation)."""
        return replace(self, chat=replace(self.chat, template=template))

    def with_names(self, *names: tuple[str, str]) -> ModelPair:
        """The pair under other names: spec and kind of the reference and candidate."""
        reference, candidate = (
            replace(identity, spec=spec, kind=kind)
            for identity, (spec, kind) in zip(
                (self.reference_identity, self.candidate_identity), names, strict=True
            )
        )
        return replace(self, reference_identity=reference, candidate_identity=candidate)

    def with_metrics(self, metrics: Mapping[str, Metric]) -> ModelPair:
        """The pair with these metrics added, by name."""
        return replace(self, metrics={**self.metrics, **metrics})

    @contextmanager
    def reuse_prompts(self) -> Iterator[None]:
        """Let each model read a prompt only once within it, whatever is measured on it.

        No number changes by more than rounding. Keys and values of the prompts take memory, up to
        `pytest_divergence.models.kv_cache.KEPT_BYTES` a model, until the end; prompts beyond that
        are read each time.
        """
        with self.reference.reuse_prompts(), self.candidate.reuse_prompts():
            yield

    @property
    def sides(self) -> tuple[Side, Side]:
        """Reference and candidate, in this order."""
        return self.reference, self.candidate

    @property
    def is_served(self) -> bool:
        """Whether a server runs one of the models, or a record stands for it."""
        return any(isinstance(side, ServedSide) for side in self.sides)

    @property
    def writes(self) -> bool:
        """Whether both models write answers; a recorded reference does not."""
        return all(side.dialect.writes for side in self.sides if isinstance(side, ServedSide))

    @property
    def device(self) -> torch.device:
        """The device of the reference's inputs, or of the candidate's if only that is here."""
        here = [side for side in self.sides if not isinstance(side, ServedSide)]
        return (here or self.sides)[0].device

    @property
    def dtype_name(self) -> str:
        """The pair's dtype as settings and files name it, such as `float32`."""
        return dtype_name(self.dtype)

    @property
    def arithmetic(self) -> str:
        """Dtype and attention implementation of each model that is here."""
        return ", ".join(f"{dtype_name(side.model.dtype)} {side.attention}" for side in self._here)

    @property
    def known_tokens(self) -> list[int]:
        """Number of tokens that each model that is here knows; its rows, if each is an outcome."""
        return [
            side.num_rows if side.vocabulary is None else side.vocabulary.num_known
            for side in self._here
        ]

    @property
    def _here(self) -> list[TransformersSide]:
        return [side for side in self.sides if isinstance(side, TransformersSide)]

    @property
    def is_same_model(self) -> bool:
        """Whether both sides are the same weights without an adapter between them.

        A server's never are: what it says of its weights may be true of others too.
        """
        served = [side for side in self.sides if isinstance(side, ServedSide)]
        digests = {self.reference_identity.weights_sha256, self.candidate_identity.weights_sha256}
        return len(digests) == 1 and all(side.dialect.names_weights for side in served)

    @property
    def tokens_forwarded(self) -> int:
        """Tokens that both models have forwarded so far."""
        return self.reference.meter.tokens_forwarded

    def prompt_rows(self, prompts: Sequence[Prompt]) -> list[tuple[tuple[int, ...], Tensor]]:
        """Each prompt as the shared prefix (empty if it has another) and the ids after it."""
        rows = []
        for prompt in prompts:
            prefix, body = self.chat.split(self.chat.prompt_ids(prompt))
            rows.append((prefix, torch.tensor(body, dtype=torch.long)))
        return rows


def sole_side(
    role: Role, model: PreTrainedModel | PeftModel, meter: Meter, say: Say
) -> TransformersSide:
    """The side of the one model that is here, with all of its adapters; the model is frozen.

    Raises `ModelLoadError` as `ModelPair.from_models` does.
    """
    plain = _plain(model)
    plain.requires_grad_(False)
    plain.train(False)
    return checked(TransformersSide(role, plain, meter=meter), say)


def with_gradients(pair: ModelPair, side: Side) -> SideWithGradients:
    """Return a side of a pair that soft prompts can be trained on.

    Raises `NoGradientError` for a side that gives no gradients.
    """
    if isinstance(side, SideWithGradients):
        if side.takes_embeddings:
            return side
        raise NoGradientError(
            f"{_name_of(side, pair)} reads only ids, and soft prompts are trained as "
            "embeddings; search without training: the other strategies need no gradients"
        )
    raise NoGradientError(
        f"{_name_of(side, pair)} gives no gradients for its inputs, which soft prompts are "
        f"trained with; {_LOAD_IT} for {setting(_SETTINGS[side.role])}, or search without "
        "training: the other strategies need no gradients"
    )


def with_weights(pair: ModelPair, side: Side) -> SideWithWeights:
    """Return a side of a pair whose weights can be switched.

    Raises `MeasurementError` for a side without weights in this process.
    """
    if isinstance(side, SideWithWeights):
        return side
    raise MeasurementError(
        f"{_name_of(side, pair)} has no weights here, so its attention, dtype and device cannot be "
        f"switched and no noise can be added to them; {_LOAD_IT} for "
        f"{setting(_SETTINGS[side.role])}, or search: a search measures the noise floor and the "
        "typical shift without weights"
    )


_SETTINGS: dict[Role, str] = {"reference": "model_1", "candidate": "model_2"}
_LOAD_IT = "give a model folder or a Hub id"


def _name_of(side: Side, pair: ModelPair) -> str:
    """The role of a side and the spec of its model, for the beginning of a message."""
    identities = {"reference": pair.reference_identity, "candidate": pair.candidate_identity}
    return f"the {side.role} ({safe_line(identities[side.role].spec)})"


class AdapterSwitch:
    """The adapters of one PEFT model: one side's while that side runs, then the other's.

    PEFT's public ways (`enable_adapters`, `set_adapter`) also set which weights want gradients, so
    an adapter in training would stop learning. This sets the two fields behind them, each time:
    another pair of the same model, or its owner, may have set them since.
    """

    def __init__(self, model: PeftModel, *sides: Adapters) -> None:
        """`sides` are the names of the reference's adapters and of the candidate's."""
        layers = _adapter_layers(model)
        if not layers:
            # Virtual tokens before the prompt, say: nothing would differ, so every test would pass.
            raise ModelLoadError(
                "the adapter changes no layer of the model, so the two sides would be equal "
                f"here; merge it into a full model and give that as {setting('model_2')}"
            )
        for name in {name for side in sides for name in side}:
            if not any(name in names for names in layers.values()):
                known = ", ".join(sorted({name for names in layers.values() for name in names}))
                raise ModelLoadError(
                    f"the model has no adapter {name!r} on a layer; it has {known}"
                )
        self._states = [
            [(layer, [name for name in side if name in names]) for layer, names in layers.items()]
            for side in sides
        ]

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Run the model as the reference within it."""
        self._set(0)
        yield

    @contextmanager
    def candidate(self) -> Iterator[None]:
        """Run the model as the candidate within it."""
        self._set(1)
        yield

    def _set(self, index: int) -> None:
        for layer, names in self._states[index]:
            layer._disable_adapters = not names
            if names:
                layer._active_adapter = names


def _checked(
    reference: TransformersSide, candidate: TransformersSide, say: Say
) -> tuple[TransformersSide, TransformersSide]:
    """Both sides, each with a way of reading that is right; a shared model is tried once."""
    first = checked(reference, say)
    if candidate.model is reference.model and candidate.activate == reference.activate:
        return first, replace(first, role="candidate")
    return first, checked(candidate, say)


def _plain(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, with the adapter's layers in place."""
    unwrap: Any = getattr(model, "get_base_model", lambda: model)
    return cast("PreTrainedModel", unwrap())


def _active(model: PreTrainedModel | PeftModel) -> Adapters:
    """The adapters that a model runs with; none if it is not wrapped."""
    return () if _plain(model) is model else tuple(cast("PeftModel", model).active_adapters)


def _shared_wrapper(
    reference: PreTrainedModel | PeftModel, candidate: PreTrainedModel | PeftModel
) -> PeftModel | None:
    """The PEFT model around the weights that both sides share; None if they share none."""
    if _plain(reference) is not _plain(candidate):
        return None
    wrapped = [model for model in (candidate, reference) if _plain(model) is not model]
    return cast("PeftModel", wrapped[0]) if wrapped else None


def _adapter_layers(model: PeftModel) -> dict[Any, Sequence[str]]:
    """Each layer that an adapter changes, with the names of the adapters that do."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    # The second wraps whole modules and tokens that are retrained.
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: dict[Any, Sequence[str]] = {}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            found[module] = module._all_available_adapter_names()
        elif isinstance(module, AuxiliaryTrainingWrapper):
            found[module] = sorted(module._adapters)
    return found


def _stop_ids(chat: ChatFormat, here: Sequence[TransformersSide]) -> frozenset[int]:
    found = {*chat.stop_ids, *([] if chat.end_of_turn is None else [chat.end_of_turn])}
    models = [side.model for side in here]
    configs = (*(m.generation_config for m in models), *(m.config for m in models))
    for owner in (chat.tokenizer, *configs):
        value = getattr(owner, "eos_token_id", None)
        values = value if isinstance(value, (list, tuple)) else [value]
        # An untrusted file may hold anything here; what is not an id ends nothing.
        found.update(token_id for token_id in values if isinstance(token_id, int))
    vocabulary = here[0].vocabulary if here else None
    if vocabulary is not None:
        # No added token can be fed to both models, so a continuation ends with the first.
        found = {token_id for token_id in found if token_id < vocabulary.num_shared}
        found |= {vocabulary.num_shared} if vocabulary.has_added else set()
    return frozenset(found)


def _identities_in_memory(
    reference: PreTrainedModel | PeftModel,
    candidate: PreTrainedModel | PeftModel,
    adapters: tuple[Adapters, Adapters] | None,
) -> tuple[ModelIdentity, ModelIdentity]:
    names = adapters or (_active(reference), _active(candidate))
    is_shared = _shared_wrapper(reference, candidate) is not None

    def identity(model: PreTrainedModel | PeftModel, active: Adapters) -> ModelIdentity:
        plain = _plain(model)
        digest = _weights_digest(plain, without=".lora_" if is_shared and not active else None)
        if is_shared:  # all adapters are in the weights: which of them are used?
            digest += "".join(f"+{name}" for name in active)
        return ModelIdentity(f"in memory: {type(plain).__name__}", "memory", digest)

    return identity(reference, names[0]), identity(candidate, names[1])


def _weights_digest(model: PreTrainedModel, *, without: str | None = None) -> str:
    digest = hashlib.sha256()
    for name, tensor in present_weights(model):
        if without is None or without not in name:
            digest.update(name.encode("utf-8"))
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
