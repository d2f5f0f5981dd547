"""From two specs to a `ModelPair`.

A screened folder is loaded without remote code and from safetensors only; a plugin's model is taken
as it is. Every failure is a `ModelLoadError` that names the option.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.adapters import Adapters
from pytest_divergence.models.chat import choose_template
from pytest_divergence.models.devices import (
    Placement,
    check_is_whole,
    placements,
    usable_device,
)
from pytest_divergence.models.fingerprints import has_tokenizer
from pytest_divergence.models.folder_checks import (
    check_adapter_shapes,
    check_no_weight_is_missing,
    read_json_object,
)
from pytest_divergence.models.load_plan import ROLES, resolve_pair
from pytest_divergence.models.numerics import chosen_attentions, chosen_dtypes
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.providers import ModelProvider, check_dtype, provide
from pytest_divergence.models.quantised import places_itself, require_quantiser
from pytest_divergence.models.quiet import Say, quiet_transformers
from pytest_divergence.models.resolved import ResolvedSpec, as_load_error, pair_identities
from pytest_divergence.models.specs import adapter_base_name
from pytest_divergence.models.tokenizers import added_note, check_same_tokenizer, smaller
from pytest_divergence.models.vocabulary import num_tokens, padding_note


def load_model_pair(
    model_1: str,
    model_2: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    chat_template: str = "reference",
    system_prompt: str | None = None,
    root: Path | None = None,
    say: Say = lambda _: None,
    roles: tuple[str, str] = ROLES,
    provider: ModelProvider | None = None,
) -> ModelPair:
    """Load reference and candidate.

    `device` and `dtype` hold for both, but where a model's own spec says `dtype=…`, `device=…` or
    `device_map=auto`. `chat_template` is `reference`, `candidate`, `none` or a Jinja file. Messages
    for people go to `say`, `roles` and `provider` are as in `resolve_pair`. Raises
    `ModelLoadError`, and `TokenizerMismatchError` where the tokenizers differ in more than tokens
    added to one.
    """
    torch_device = resolve_device(device)
    specs = resolve_pair(model_1, model_2, root=root, say=say, roles=roles, provider=provider)
    if provider is not None:
        specs = provide(specs, provider, torch_device)
    dtypes = _resolve_dtypes(dtype, specs, torch_device)
    places = placements(specs, torch_device)
    tokenizer, other_tokenizer = load_tokenizers(specs, say)
    attentions = chosen_attentions(specs, say)
    reference, candidate, adapters = _load_models(specs, dtypes, attentions, places)
    known = num_tokens(tokenizer), num_tokens(other_tokenizer or tokenizer)
    is_known = all(one.is_known for one in specs)
    pair = ModelPair.from_models(
        reference,
        candidate,
        smaller(tokenizer, other_tokenizer),
        adapters=adapters,
        known_tokens=known,
        system_prompt=system_prompt,
        identities=pair_identities(*specs) if is_known else None,
    )
    if other_tokenizer is None:
        side, role = pair.candidate, specs[1].full_model.role
        if note := padding_note(role, side.num_rows, side.vocabulary):
            say(note)
    if not is_known:  # the digests are of the weights in memory, of both sides
        pair = pair.with_names(*((str(one.spec), one.spec.kind) for one in specs))
    return pair.with_template(choose_template(chat_template, tokenizer, other_tokenizer, say))


def load_tokenizers(
    specs: tuple[ResolvedSpec, ResolvedSpec], say: Say = lambda _: None
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    """The reference's tokenizer, and the candidate's where it has its own.

    Raises `TokenizerMismatchError` where they differ in more than tokens added to one.
    """
    reference, candidate = (one.full_model for one in specs)
    tokenizer = _load_tokenizer(reference)
    if candidate.is_same_as(reference):
        return tokenizer, None
    if candidate.folder is not None and not has_tokenizer(candidate.folder):
        say(f"{candidate.role} has no tokenizer of its own, so the reference's is used")
        return tokenizer, None
    other = _load_tokenizer(candidate)
    added = check_same_tokenizer(tokenizer, other)
    if added:
        sizes = num_tokens(tokenizer), num_tokens(other)
        say(added_note(added, min(sizes), is_candidates=sizes[1] > sizes[0]))
    return tokenizer, other


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU, else the CPU; raises `ModelLoadError` for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return usable_device(device, option="--divergence-device")


def _resolve_dtypes(
    dtype: str, specs: tuple[ResolvedSpec, ResolvedSpec], device: torch.device
) -> tuple[torch.dtype, torch.dtype]:
    dtypes = chosen_dtypes(dtype, specs, device)
    for one, chosen in zip(specs, dtypes, strict=True):
        if one.loaded is not None:
            check_dtype(one.loaded, chosen, option=one.role)
    return dtypes


def _load_models(
    specs: tuple[ResolvedSpec, ResolvedSpec],
    dtypes: tuple[torch.dtype, torch.dtype],
    attentions: tuple[str, str],
    places: tuple[Placement, Placement],
) -> tuple[Any, Any, tuple[Adapters, Adapters] | None]:
    """Both models, and the adapters of each where they share one copy of the weights."""
    reference, candidate = specs
    bases = [one.full_model for one in specs]
    model: Any = _load_model(bases[0], dtypes[0], attentions[0], places[0])
    if bases[1].is_same_as(bases[0]) and places[0] == places[1]:
        for one in specs:
            if one.is_adapter:
                model = _add_adapter(one, model)
        names = _names(reference), _names(candidate)
        return model, model, names if any(names) else None
    other: Any = _load_model(bases[1], dtypes[1], attentions[1], places[1])
    loaded = (model, other)
    model, other = (
        _add_adapter(one, base) if one.is_adapter else base
        for one, base in zip(specs, loaded, strict=True)
    )
    return model, other, None


def _names(resolved: ResolvedSpec) -> Adapters:
    """The name by which an adapter is known to PEFT; it must be a name of a module."""
    return (resolved.role.lstrip("-").replace(".", "_"),) if resolved.is_adapter else ()


def _load_model(
    resolved: ResolvedSpec, dtype: torch.dtype, attention: str, place: Placement
) -> PreTrainedModel:
    if resolved.loaded is not None:
        return resolved.loaded.model
    assert resolved.folder is not None  # what no plugin loads is a folder
    config = read_json_object(resolved.folder / "config.json", role=resolved.role)
    require_quantiser(config, role=resolved.role)
    is_placed = places_itself(config)
    options = place.loading_options
    if is_placed and not place.is_spread:
        options = {"device_map": {"": place.device}}
    with quiet_transformers(), as_load_error(resolved):
        found: Any = AutoModelForCausalLM.from_pretrained(
            resolved.folder,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    model: PreTrainedModel = found[0]
    check_no_weight_is_missing(found[1], what=f"{resolved.role}: {resolved.spec}")
    return model if is_placed else place.moved(model)


def _load_tokenizer(resolved: ResolvedSpec) -> PreTrainedTokenizerBase:
    if resolved.loaded is not None:
        return resolved.loaded.tokenizer
    with quiet_transformers(), as_load_error(resolved):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            resolved.folder, trust_remote_code=False, local_files_only=True
        )
    return tokenizer


def require_peft(resolved: ResolvedSpec) -> None:
    """Raise `ModelLoadError` where an adapter cannot be loaded for want of peft."""
    if importlib.util.find_spec("peft") is None:
        raise ModelLoadError(
            f"{resolved.role} is an adapter; loading it needs peft: "
            "pip install 'pytest-divergence[peft]'"
        )


def _add_adapter(resolved: ResolvedSpec, base: Any) -> Any:
    """A PEFT model with the adapter beside those that it has already."""
    require_peft(resolved)
    from peft import PeftModel

    assert resolved.folder is not None  # an adapter is a folder
    check_is_whole(base, role=resolved.role)
    assert resolved.base is not None  # `resolve_pair` gives each adapter its base
    named = adapter_base_name(resolved.folder)
    base_name = f"{resolved.base.role} {resolved.base.spec}" + (
        f" (the adapter names {safe_line(named)})" if named else ""
    )
    (name,) = _names(resolved)
    is_wrapped = isinstance(base, PeftModel)
    plain = base.get_base_model() if is_wrapped else base
    check_adapter_shapes(resolved.folder, plain, role=resolved.role, base_name=base_name)
    before = [(weight, _checksum(weight)) for weight in base.parameters()]
    options: dict[str, Any] = {"adapter_name": name, "is_trainable": False}
    with quiet_transformers(), as_load_error(resolved):
        if is_wrapped:
            base.load_adapter(str(resolved.folder), **options)
            wrapped = base
        else:
            wrapped = PeftModel.from_pretrained(base, str(resolved.folder), **options)
    if any(_checksum(weight) != was for weight, was in before):
        raise ModelLoadError(
            f"{resolved.role}: the adapter {resolved.spec} changes the base's own weights (trained "
            "biases, or an initialisation such as PiSSA), so one copy cannot serve both models. "
            "Work it into a full model with merge_and_unload() and give that folder."
        )
    return wrapped


@torch.no_grad()
def _checksum(weight: torch.Tensor) -> str:
    """Tells a changed weight matrix without a copy of it; text, because NaN equals nothing."""
    parts = torch.split(weight.flatten(), 1 << 20)  # a sum in float64 copies what it sums
    return str(sum(float(part.sum(dtype=torch.float64)) for part in parts))
