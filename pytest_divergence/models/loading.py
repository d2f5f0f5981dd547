"""From a `LoadPlan` to a `ModelPair`.

A screened folder is loaded without remote code and from safetensors only; a plugin's model is
checked and then used unchanged. Every failure is a `ModelLoadError` that names the option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.adapters import adapter_name, add_adapter
from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.devices import Placement, dtype_name, resolve_device
from pytest_divergence.models.endpoints.llamacpp import LlamaCppServer
from pytest_divergence.models.endpoints.openai import OpenAiServer
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.endpoints.trial import try_out
from pytest_divergence.models.endpoints.vllm import VllmServer
from pytest_divergence.models.folder_checks import check_all_is_loaded
from pytest_divergence.models.load_plan import (
    LoadContext,
    LoadOptions,
    LoadPlan,
    resolve_pair,
)
from pytest_divergence.models.pair import Adapters, Metric, ModelPair, sole_side
from pytest_divergence.models.pair_tokenizers import chat_format, load_tokenizers
from pytest_divergence.models.quantisation import check_quantiser, quantiser
from pytest_divergence.models.side import Meter, Role, Side, Told
from pytest_divergence.models.side_plan import SidePlan
from pytest_divergence.models.skeletons import skeleton
from pytest_divergence.models.specs import LoadedModel, ModelProvider, parse_spec
from pytest_divergence.models.text_models import TextModel, left_out_note
from pytest_divergence.models.tokenizers import num_tokens, padding_note
from pytest_divergence.models.transformers_log import Say, quiet_transformers
from pytest_divergence.models.transformers_side import TransformersSide


def load_model_pair(
    model_1: str,
    model_2: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    chat_template: str = "reference",
    system_prompt: str | None = None,
    template_arguments: Mapping[str, JsonValue] | None = None,
    root: Path | None = None,
    say: Say = lambda _: None,
) -> ModelPair:
    """Load reference and candidate.

    `device` and `dtype` apply to both, unless a model's own spec gives `dtype=…`, `device=…` or
    `device_map=auto`. `chat_template` is `reference`, `candidate`, `none` or a Jinja file. `root`
    is where relative folders start; messages for people go to `say`. Raises `ModelLoadError`, and
    `TokenizerMismatchError` where the tokenizers differ in more than tokens added to one.
    """
    options = LoadOptions(device, dtype, chat_template, system_prompt, template_arguments or {})
    return PairRecipe(model_1, model_2, options, root).load(say)


@dataclass(frozen=True)
class PairRecipe:
    """A pair as picklable data: any process that sees the same files can load it."""

    model_1: str
    """The reference's spec, as a user writes it."""
    model_2: str
    options: LoadOptions
    root: Path | None = None
    """Folder that relative folders start from; None: the working directory."""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    """Metrics besides the built-in ones, by name."""

    def load(self, say: Say = lambda _: None) -> ModelPair:
        """Load both models; messages for people go to `say`. Raises what `load_model_pair` does."""
        return self.load_plan(self.plan(say), say)

    def plan(self, say: Say = lambda _: None) -> LoadPlan:
        """Look up both models; nothing is loaded yet. Raises `ModelLoadError`."""
        resolve_device(self.options.device)  # checked before models are downloaded
        context = LoadContext(root=self.root, say=say)
        return resolve_pair(self.model_1, self.model_2, self.options, context)

    def load_plan(self, plan: LoadPlan, say: Say = lambda _: None) -> ModelPair:
        """Load the pair of the plan that `plan` returned. Raises what `load` does."""
        context = LoadContext(root=self.root, say=say)
        return load_pair(plan, context).with_metrics(self.metrics)


def load_pair(plan: LoadPlan, context: LoadContext) -> ModelPair:
    """Load the pair of a plan; the context's provider loads models that have no folder.

    Raises what `load_model_pair` raises.
    """
    say = context.say
    _ = plan.device  # report a missing device before anything else
    if context.provider is not None:
        plan = _provided(plan, context.provider)
    for side, dtype in zip(plan.sides, plan.dtypes, strict=True):
        if side.loaded is not None:
            _check_dtype(side.loaded, dtype, option=side.role)
    _ = plan.placements  # and a wrong place of one model before any file is read
    tokenizer, other_tokenizer = load_tokenizers(plan, say)
    if plan.attention_note is not None:
        say(plan.attention_note)
    for side in plan.sides:
        if note := left_out_note(side.role, side.parts_left_out):
            say(note)
    chat = chat_format(plan, tokenizer, other_tokenizer, say)
    if plan.is_served:
        return _served_pair(plan, chat, say)
    reference, candidate, adapters = _load_models(plan)
    _check_is_current(plan)
    pair = ModelPair.from_models(
        reference,
        candidate,
        chat.tokenizer,
        adapters=adapters,
        known_tokens=(num_tokens(tokenizer), num_tokens(other_tokenizer or tokenizer)),
        has_two_tokenizers=other_tokenizer is not None,
        chat=chat,
        identities=plan.identities if plan.is_known else None,
        say=say,
    )
    if other_tokenizer is None:
        loaded, role = pair.candidate, plan.candidate.full_model.role
        assert isinstance(loaded, TransformersSide)  # `from_models` makes no other
        if note := padding_note(role, loaded.num_rows, loaded.vocabulary):
            say(note)
    if not plan.is_known:  # the digests are of the weights in memory, of both sides
        pair = pair.with_names(*((str(side.spec), side.spec.kind) for side in plan.sides))
    return pair


def load_full_model(spec: str, *, role: str, options: LoadOptions) -> LoadedModel:
    """Load one model and its tokenizer; `role` names it in messages. Raises `ModelLoadError`."""
    parsed = parse_spec(spec, role=role)
    if parsed.is_served or parsed.kind == "adapter":
        what = "a served model" if parsed.is_served else "an adapter"
        raise ModelLoadError(f"{role}={parsed} is {what}; give a full model's Hub id or folder")
    plan = resolve_pair(spec, spec, options, LoadContext(roles=(role, role)))
    tokenizer, _ = load_tokenizers(plan)
    model, _, _ = _load_models(plan)
    return LoadedModel(model, tokenizer)


def _served_pair(plan: LoadPlan, chat: ChatFormat, say: Say) -> ModelPair:
    """The pair of a plan of which a server runs one model or both; the other one is loaded."""
    roles: tuple[Role, Role] = ("reference", "candidate")
    meter, sides = Meter(), list[Side]()
    for index, (role, side) in enumerate(zip(roles, plan.sides, strict=True)):
        if side.served is not None:
            sides.append(ServedSide(role, side.served, meter))
            continue
        base, place = side.full_model, plan.placements[index]
        if base.loaded is None:
            check_quantiser(base.raw_config, place.device, role=base.role)
        model: Any = _load_model(
            base, _loader(base, plan), plan.dtypes[index], plan.attentions[index], place
        )
        if side.is_adapter:
            model = add_adapter(side, model)
        sides.append(sole_side(role, model, meter, say))
    _check_is_current(plan)
    both = zip(plan.sides, plan.dtypes, strict=True)
    dtype = next((dtype for side, dtype in both if side.served is None), plan.dtypes[0])
    return ModelPair.of_sides(sides[0], sides[1], chat, plan.identities, dtype)


def try_out_served(plan: LoadPlan) -> list[tuple[Told, Told]]:
    """Try each server of a plan, without loading weights; readings of one answer, two by two.

    Raises `ModelLoadError` or `MeasurementError` for a server that nothing can be judged on.
    """
    tokenizer, other = load_tokenizers(plan)
    chat = chat_format(plan, tokenizer, other, lambda _: None)
    is_own = plan.options.chat_template in ("reference", "candidate")
    roles: tuple[Role, Role] = ("reference", "candidate")
    for side in plan.sides:
        if isinstance(side.served, OpenAiServer):
            side.served.try_out()
    return [
        both
        for role, side in zip(roles, plan.sides, strict=True)
        if isinstance(side.served, (LlamaCppServer, VllmServer))
        for both in try_out(side.served, role, chat, compares_template=is_own)
    ]


def _check_is_current(plan: LoadPlan) -> None:
    if not plan.is_current:
        raise ModelLoadError(
            f"{' and '.join(side.role for side in plan.sides)}: a folder has changed since it was "
            "checked; start again when nothing writes to it"
        )


def _load_models(plan: LoadPlan) -> tuple[Any, Any, tuple[Adapters, Adapters] | None]:
    """Both models, and the adapters of each if they share one copy of the weights."""
    sides, places = plan.sides, plan.placements
    bases = [side.full_model for side in sides]
    for base, place in zip(bases, places, strict=True):
        if base.loaded is None:
            check_quantiser(base.raw_config, place.device, role=base.role)
    # Check every config before the model that it describes takes memory.
    loaders = [_loader(base, plan) for base in bases[: 1 if plan.has_one_model else 2]]
    model: Any = _load_model(bases[0], loaders[0], plan.dtypes[0], plan.attentions[0], places[0])
    if plan.shares_weights:
        for side in sides:
            if side.is_adapter:
                model = add_adapter(side, model)
        names = _names(sides[0]), _names(sides[1])
        return model, model, names if any(names) else None
    other: Any = _load_model(bases[1], loaders[-1], plan.dtypes[1], plan.attentions[1], places[1])
    loaded = (model, other)
    model, other = (
        add_adapter(side, base) if side.is_adapter else base
        for side, base in zip(sides, loaded, strict=True)
    )
    return model, other, None


def _names(side: SidePlan) -> Adapters:
    return (adapter_name(side),) if side.is_adapter else ()


def _loader(base: SidePlan, plan: LoadPlan) -> Any:
    """The class whose `from_pretrained` loads a base; None if a plugin has loaded it."""
    if base.loaded is not None:
        return None
    kind = type(skeleton(base, plan))
    return kind if issubclass(kind, TextModel) else AutoModelForCausalLM


def _load_model(
    side: SidePlan, loader: Any, dtype: torch.dtype, attention: str, place: Placement
) -> PreTrainedModel:
    if side.loaded is not None:
        return side.loaded.model
    assert side.folder is not None  # what no plugin loads is a folder
    options: dict[str, Any] = {}
    if place.is_spread:
        options = {"device_map": "auto"}
    elif quantiser(side.raw_config) == "bitsandbytes":  # cannot be moved afterwards
        options = {"device_map": {"": place.device}}
    with quiet_transformers(), side.load_errors():
        found: Any = loader.from_pretrained(
            side.folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
        model: PreTrainedModel = found[0] if options else found[0].to(place.device)
    left_out = side.parts_left_out + side.layers_left_out
    check_all_is_loaded(found[1], what=f"{side.role}: {side.spec}", parts_left_out=left_out)
    return model


def _provided(plan: LoadPlan, provider: ModelProvider) -> LoadPlan:
    """The plan with the provider's models; raises `ModelLoadError` for a spec that none knows."""
    reference, candidate = plan.sides
    provided = _provided_side(reference, provider, "reference", plan.device)
    if candidate.is_same_as(reference):
        return replace(
            plan, reference=provided, candidate=replace(candidate, loaded=provided.loaded)
        )
    if candidate.base is reference:
        candidate = replace(candidate, base=provided)
    other = _provided_side(candidate, provider, "candidate", plan.device)
    return replace(plan, reference=provided, candidate=other)


def _provided_side(
    side: SidePlan, provider: ModelProvider, role: str, device: torch.device
) -> SidePlan:
    """The side with a provider's model, checked; unchanged if it is a folder or served."""
    if side.folder is not None or side.served is not None:
        return side
    found = provider.load_model(side.spec.location, role, str(device))
    if found is None:
        raise _unknown_spec(side, provider)
    for part, wanted in (("model", PreTrainedModel), ("tokenizer", PreTrainedTokenizerBase)):
        value: object = getattr(found, part, None)
        if not isinstance(value, wanted):
            raise ModelLoadError(
                f"{side.role}: the {part} of {provider.names} is a {type(value).__name__}; it must "
                f"be a {wanted.__name__} of transformers, as in LoadedModel(model, tokenizer)"
            )
    loaded_on = found.model.device
    if loaded_on.type != device.type or (device.index or 0) != (loaded_on.index or 0):
        raise ModelLoadError(
            f"{side.role}: {provider.names} loaded the model on {loaded_on}, but this session "
            f"measures on {device}; load it on the device that the hook is given"
        )
    return replace(side, loaded=found)


def _unknown_spec(side: SidePlan, provider: ModelProvider) -> ModelLoadError:
    if side.fingerprint is not None:
        return ModelLoadError(
            f"{side.role}: pytest_divergence_fingerprint knows {safe_line(str(side.spec))}, but "
            "pytest_divergence_load_model does not load it"
        )
    try:
        parse_spec(side.spec.location, role=side.role)
    except ModelLoadError as error:
        return ModelLoadError(f"{error}; nor does {provider.names} know it")
    return ModelLoadError(
        f"{side.role}: {provider.names} does not know {safe_line(str(side.spec))}"
    )


def _check_dtype(loaded: LoadedModel, dtype: torch.dtype, *, option: str) -> None:
    """Raise `ModelLoadError` if a provider's model does not have the pair's dtype."""
    if loaded.model.dtype != dtype:
        own, wanted = map(dtype_name, (loaded.model.dtype, dtype))
        raise ModelLoadError(
            f"{option} is loaded in {own}, but the pair is measured in {wanted}; a pair has one "
            f"dtype, so give {setting('dtype')}={own} or load it in {wanted}"
        )
