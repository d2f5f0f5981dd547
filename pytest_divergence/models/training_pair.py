"""The pair of a model in training and what it is compared with.

Knows where the reference comes from, checks once that the two can be compared, and makes a
`ModelPair` for each measurement, which leaves the model in training as it was. Does not know what
is measured, nor when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pytest_divergence.core.errors import ModelLoadError, SettingsError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.chat_format import FROZEN_ARGUMENTS, ChatFormat, template_owner
from pytest_divergence.models.devices import DTYPES, dtype_name
from pytest_divergence.models.endpoints.recordings import Recording
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.fingerprints import ModelIdentity
from pytest_divergence.models.load_plan import LoadContext, LoadOptions, resolve_pair
from pytest_divergence.models.loading import load_full_model
from pytest_divergence.models.pair import ModelPair, sole_side
from pytest_divergence.models.pair_tokenizers import load_tokenizers
from pytest_divergence.models.side import Meter
from pytest_divergence.models.snapshot import as_before
from pytest_divergence.models.specs import is_recorded, is_served, parse_spec
from pytest_divergence.models.tokenizers import (
    check_same_tokenizer,
    eos_ids,
    num_tokens,
    rendering_tokenizer,
    smaller,
    template_of,
)

if TYPE_CHECKING:
    from peft import PeftModel

    AnyModel = PreTrainedModel | PeftModel

ROLE = "reference"
"""Argument that gives the reference, for messages."""
CHAT_TEMPLATES = ("reference", "candidate", "none")
"""Choices of a chat template that name no file."""


@dataclass(frozen=True)
class PromptOptions:
    """Options of a suite's prompts, as its provenance holds them."""

    chat_template: str = "reference"
    system_prompt: str | None = None
    template_arguments: Mapping[str, JsonValue] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> PromptOptions:
        """Return those of the settings that a suite was made with.

        A template file is not read: a suite may come from someone else.
        """
        choice = settings.get("chat_template")
        return cls(
            choice if choice in CHAT_TEMPLATES else "reference",
            settings.get("system_prompt"),
            settings.get("template_arg") or {},
        )


@dataclass(frozen=True)
class TrainingPair:
    """A model in training, the candidate, and its reference."""

    candidate: AnyModel
    reference: AnyModel | Recording
    """The candidate itself: its base, with the adapter off."""
    tokenizer: PreTrainedTokenizerBase
    reference_tokenizer: PreTrainedTokenizerBase
    options: PromptOptions

    @classmethod
    def of(
        cls,
        candidate: AnyModel,
        reference: AnyModel | str | None,
        tokenizer: PreTrainedTokenizerBase,
        options: PromptOptions,
    ) -> TrainingPair:
        """Return the pair of a model in training; a reference named by a spec is loaded.

        It is loaded on the candidate's device and in its dtype, unless its spec says otherwise.
        Without a reference it is the candidate's base, with the adapter off. Raises `SettingsError`
        where there is none, and what loading raises.
        """
        if reference is None:
            check_has_base(candidate)
            return cls(candidate, candidate, tokenizer, tokenizer, options)
        if not isinstance(reference, str):
            if reference is candidate:
                raise SettingsError(
                    f"{ROLE} is the model in training itself, which would always equal it; give "
                    "a copy, or the Hub id or folder of its base"
                )
            return cls(candidate, reference, tokenizer, tokenizer, options)
        if is_recorded(reference):
            record = Recording.beside(parse_spec(reference, role=ROLE), ROLE)
            record.check_tokenizer(tokenizer)
            return cls(candidate, record, tokenizer, tokenizer, options)
        dtype = dtype_name(candidate.dtype) if candidate.dtype in DTYPES.values() else "auto"
        place = LoadOptions(device=str(candidate.device), dtype=dtype)
        loaded = load_full_model(reference, role=ROLE, options=place)
        check_same_tokenizer(loaded.tokenizer, tokenizer)
        return cls(candidate, loaded.model, tokenizer, loaded.tokenizer, options)

    def with_candidate(self, candidate: AnyModel) -> TrainingPair:
        """Return the pair of another model in training, which may be its own reference."""
        is_base = self.reference is self.candidate
        reference = candidate if is_base else self.reference
        return replace(self, candidate=candidate, reference=reference)

    @contextmanager
    def measurable(self) -> Iterator[ModelPair]:
        """Give the pair to measure; at the end both models are as they were.

        Raises `ModelLoadError` as `ModelPair.from_models` does.
        """
        here = (self.candidate, self.reference)
        with ExitStack() as stack:
            for model in here[:1] if self.reference is self.candidate else here:
                if not isinstance(model, Recording):
                    stack.enter_context(as_before(model))
            yield self._pair()

    def _pair(self) -> ModelPair:
        both = self.reference_tokenizer, self.tokenizer
        owner, shared = template_owner(self.options.chat_template, *both), smaller(*both)
        chat = ChatFormat(
            rendering_tokenizer(shared, owner or shared),
            template_of(owner) if owner is not None else None,
            self.options.system_prompt,
            eos_ids(shared, *both),
            arguments={**FROZEN_ARGUMENTS, **self.options.template_arguments},
        )
        # The weights change at every step, so their digest would name nothing.
        identities = ModelIdentity(ROLE, "memory", ""), ModelIdentity("in training", "memory", "")
        if isinstance(self.reference, Recording):
            meter = Meter()
            candidate = sole_side("candidate", self.candidate, meter, lambda _: None)
            reference = ServedSide("reference", self.reference, meter)
            return ModelPair.of_sides(reference, candidate, chat, identities, self.candidate.dtype)
        is_base = self.reference is self.candidate
        return ModelPair.from_models(
            self.reference,
            self.candidate,
            chat.tokenizer,
            adapters=((), active_adapters(self.candidate)) if is_base else None,
            known_tokens=(num_tokens(both[0]), num_tokens(both[1])),
            has_two_tokenizers=True,
            chat=chat,
            identities=identities,
        )


def active_adapters(model: AnyModel) -> tuple[str, ...]:
    """Return the names of the adapters that a model runs with; none without a PEFT wrapper."""
    if not hasattr(model, "get_base_model"):
        return ()
    return tuple(cast("PeftModel", model).active_adapters)


def check_has_base(candidate: AnyModel) -> None:
    """Raise `SettingsError` for a model without an adapter: nothing of it is as before."""
    if not active_adapters(candidate):
        raise SettingsError(
            f"{ROLE} is missing: all weights of the {type(candidate).__name__} are in training, so "
            "no adapter can be switched off to get its base; give the base's Hub id or folder, a "
            "model in memory, or recorded:SUITE (pytest-divergence record writes it)"
        )


def base_spec(candidate: AnyModel) -> str:
    """Return the Hub id or folder that a model's adapter says is its base.

    Raises `SettingsError` where there is no adapter, or where it does not say.
    """
    check_has_base(candidate)
    model = cast("PeftModel", candidate)
    name = model.peft_config[active_adapters(model)[0]].base_model_name_or_path
    if not name:
        raise SettingsError(
            f"{ROLE} is missing: the adapter does not say which model is its base; give its Hub id "
            "or folder"
        )
    return str(name)


def check_reference(spec: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a reference can be found and has the same tokenizer; load no weights.

    Raises `ModelLoadError`, and `TokenizerMismatchError` where the tokenizers differ in more than
    tokens added to one.
    """
    if is_recorded(spec):
        Recording.beside(parse_spec(spec, role=ROLE), ROLE).check_tokenizer(tokenizer)
        return
    if is_served(spec):
        raise ModelLoadError(
            f"{ROLE}={safe_line(spec)} is a served model; give the Hub id or folder of its weights"
        )
    plan = resolve_pair(spec, spec, context=LoadContext(roles=(ROLE, ROLE)))
    check_same_tokenizer(load_tokenizers(plan)[0], tokenizer)
