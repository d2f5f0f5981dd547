"""From two specs to a `ModelPair`.

A screened folder is loaded without remote code and from safetensors only; a plugin's model is taken
as it is. Every failure is a `ModelLoadError` that names the option.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
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
from pytest_divergence.models.chat import choose_template
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.placing import (
    Placement,
    check_is_whole,
    placements,
    usable_device,
)
from pytest_divergence.models.providers import ModelProvider, check_dtype
from pytest_divergence.models.quiet import quiet_transformers
from pytest_divergence.models.resolving import (
    ROLES,
    ResolvedSpec,
    Say,
    pair_identities,
    provide,
    resolve_pair,
)
from pytest_divergence.models.screening import check_adapter_shapes
from pytest_divergence.models.specs import adapter_base_name
from pytest_divergence.models.tokenizers import check_same_tokenizer

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SMALL_MODEL_BYTES = 4 * 1024**3


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

    `device` and `dtype` hold for both, but where a spec says `device=…` or `device_map=auto`.
    `chat_template` is `reference`, `candidate`, `none` or a Jinja file. Messages for people go to
    `say`, `roles` and `provider` are as in `resolve_pair`. Raises `ModelLoadError`, and
    `TokenizerMismatchError` where the tokenizers differ.
    """
    torch_device = resolve_device(device)
    specs = resolve_pair(model_1, model_2, root=root, say=say, roles=roles, provider=provider)
    if provider is not None:
        specs = provide(specs, provider, torch_device)
    reference_spec, candidate_spec = specs
    torch_dtype = _resolve_dtype(dtype, specs, torch_device)
    places = placements(specs, torch_device)
    tokenizer, other_tokenizer = load_tokenizers(specs)
    reference = _load_model(reference_spec, torch_dtype, places[0])
    candidate: Any
    if candidate_spec.is_adapter:
        candidate = _load_adapter(candidate_spec, reference, reference_spec)
    elif candidate_spec.is_same_as(reference_spec) and places[0] == places[1]:
        candidate = reference
    else:
        candidate = _load_model(candidate_spec, torch_dtype, places[1])
    is_known = all(one.is_known for one in specs)
    pair = ModelPair.from_models(
        reference,
        candidate,
        tokenizer,
        system_prompt=system_prompt,
        identities=pair_identities(*specs) if is_known else None,
    )
    if not is_known:  # the digests are of the weights in memory, of both sides
        pair = pair.with_names(*((str(one.spec), one.spec.kind) for one in specs))
    return pair.with_template(choose_template(chat_template, tokenizer, other_tokenizer, say))


def load_tokenizers(
    specs: tuple[ResolvedSpec, ResolvedSpec],
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    """The reference's tokenizer, and the candidate's where it has its own, an equal one.

    Raises `TokenizerMismatchError` where they differ.
    """
    reference, candidate = specs
    tokenizer = _load_tokenizer(reference)
    if candidate.is_adapter:
        return tokenizer, None
    other = _load_tokenizer(candidate)
    check_same_tokenizer(tokenizer, other)
    return tokenizer, other


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU, else the CPU; raises `ModelLoadError` for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return usable_device(device, option="--divergence-device")


def _resolve_dtype(
    dtype: str, specs: tuple[ResolvedSpec, ResolvedSpec], device: torch.device
) -> torch.dtype:
    chosen = chosen_dtype(dtype, specs, device)
    for one in specs:
        if one.loaded is not None:
            check_dtype(one.loaded, chosen, option=one.role)
    return chosen


def chosen_dtype(
    dtype: str, specs: tuple[ResolvedSpec, ResolvedSpec], device: torch.device
) -> torch.dtype:
    """The one dtype of both models. Raises `ModelLoadError` where their specs disagree."""
    named = {resolved.spec.dtype for resolved in specs} - {None}
    if len(named) > 1:
        raise ModelLoadError(
            f"--model-1 and --model-2 name different dtypes ({', '.join(sorted(map(str, named)))});"
            " a pair is measured in one"
        )
    name = next(iter(named), None) or dtype
    for one in specs:
        if name == "auto" and one.loaded is not None:  # what a plugin loaded cannot change
            return one.loaded.model.dtype
    if name == "auto" and specs[0].folder is not None:
        num_bytes = sum(path.stat().st_size for path in specs[0].folder.glob("*.safetensors"))
        is_small = device.type == "cpu" or num_bytes <= SMALL_MODEL_BYTES
        return torch.float32 if is_small else torch.bfloat16
    if name not in DTYPES:
        raise ModelLoadError(f"dtype={name} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _load_model(resolved: ResolvedSpec, dtype: torch.dtype, place: Placement) -> PreTrainedModel:
    if resolved.loaded is not None:
        return resolved.loaded.model
    assert resolved.folder is not None  # what no plugin loads is a folder
    with quiet_transformers(), as_load_error(resolved):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            resolved.folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **place.loading_options,
        )
    return place.moved(model)


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


def _load_adapter(resolved: ResolvedSpec, base: PreTrainedModel, base_spec: ResolvedSpec) -> Any:
    require_peft(resolved)
    from peft import PeftModel

    assert resolved.folder is not None  # an adapter is a folder
    check_is_whole(base, role=resolved.role)
    named = adapter_base_name(resolved.folder)
    base_name = f"--model-1 {base_spec.spec}" + (
        f" (the adapter names {safe_line(named)})" if named else ""
    )
    check_adapter_shapes(resolved.folder, base, role=resolved.role, base_name=base_name)
    before = [(weight, _checksum(weight)) for weight in base.parameters()]
    with quiet_transformers(), as_load_error(resolved):
        candidate = PeftModel.from_pretrained(base, str(resolved.folder), is_trainable=False)
    if any(_checksum(weight) != was for weight, was in before):
        raise ModelLoadError(
            f"{resolved.role}: the adapter {resolved.spec} changes the base's own weights (trained "
            "biases, or an initialisation such as PiSSA), so one copy cannot serve both models. "
            "Work it into a full model with merge_and_unload() and give that folder."
        )
    return candidate


@torch.no_grad()
def _checksum(weight: torch.Tensor) -> str:
    """Tells a changed weight matrix without a copy of it; text, because NaN equals nothing."""
    parts = torch.split(weight.flatten(), 1 << 20)  # a sum in float64 copies what it sums
    return str(sum(float(part.sum(dtype=torch.float64)) for part in parts))


@contextmanager
def as_load_error(resolved: ResolvedSpec) -> Iterator[None]:
    """Whatever a stranger's files raise becomes one error that names the option."""
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ModelLoadError(
            f"{resolved.role}: {resolved.spec} cannot be loaded: "
            f"{type(error).__name__}: {safe_line(reason[0]) if reason else 'no reason given'}"
        ) from error
