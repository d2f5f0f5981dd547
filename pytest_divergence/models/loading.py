"""From two specs to a `ModelPair`.

Everything becomes a local folder first, is screened, and is then loaded without remote code and
from safetensors only. Every failure is a `ModelLoadError` that names the option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.demo import demo_folder
from pytest_divergence.models.fingerprint import hub_commit, weights_digest
from pytest_divergence.models.hub import hub_folder
from pytest_divergence.models.pair import ModelIdentity, ModelPair
from pytest_divergence.models.quiet import quiet_transformers
from pytest_divergence.models.screening import (
    check_adapter_shapes,
    screen_adapter_folder,
    screen_model_folder,
)
from pytest_divergence.models.specs import ModelSpec, adapter_base_name, parse_spec
from pytest_divergence.models.tokenizers import check_same_tokenizer

ROLES = ("--model-1", "--model-2")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SMALL_MODEL_BYTES = 4 * 1024**3
Say = Callable[[str], None]


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec and the local folder that it stands for."""

    spec: ModelSpec
    folder: Path
    role: str

    @property
    def is_adapter(self) -> bool:
        """Whether the folder is a PEFT adapter, wherever it came from."""
        return (self.folder / "adapter_config.json").is_file()

    def identity(self, base: ResolvedSpec | None = None) -> ModelIdentity:
        """Spec and digests; an adapter's digest includes its base's."""
        digest = weights_digest(self.folder)
        if base is not None:
            digest = f"{weights_digest(base.folder)}+{digest}"
        kind = "adapter" if self.is_adapter else self.spec.kind
        return ModelIdentity(str(self.spec), kind, digest, hub_commit(self.folder))


def resolve_pair(
    model_1: str, model_2: str, *, root: Path | None = None, say: Say = lambda _: None
) -> tuple[ResolvedSpec, ResolvedSpec]:
    """Both specs as screened local folders; nothing is loaded yet."""
    resolved = []
    for text, role in zip((model_1, model_2), ROLES, strict=True):
        spec = parse_spec(text, role=role, root=root)
        resolved.append(ResolvedSpec(spec, _folder(spec, role, say), role))
    reference, candidate = resolved
    if reference.is_adapter:
        raise ModelLoadError(
            f"--model-1 is an adapter folder ({reference.spec}); give the model that it was "
            "trained on as --model-1, and the adapter as --model-2"
        )
    for one in resolved:
        screen = screen_adapter_folder if one.is_adapter else screen_model_folder
        screen(one.folder, role=one.role)
    return reference, candidate


def pair_identities(
    reference: ResolvedSpec, candidate: ResolvedSpec
) -> tuple[ModelIdentity, ModelIdentity]:
    """Identities of both, without loading either."""
    base = reference if candidate.is_adapter else None
    return reference.identity(), candidate.identity(base)


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
) -> ModelPair:
    """Load reference and candidate.

    `device` and `dtype` hold for both. `chat_template` is `reference`, `candidate`, `none` or a
    Jinja file. Messages for people go to `say`. Raises `ModelLoadError`, and
    `TokenizerMismatchError` where the tokenizers differ.
    """
    specs = resolve_pair(model_1, model_2, root=root, say=say)
    reference_spec, candidate_spec = specs
    torch_device = resolve_device(device)
    torch_dtype = _resolve_dtype(dtype, specs, torch_device)
    tokenizer = _load_tokenizer(reference_spec)
    other_tokenizer = None if candidate_spec.is_adapter else _load_tokenizer(candidate_spec)
    if other_tokenizer is not None:
        check_same_tokenizer(tokenizer, other_tokenizer)
    reference = _load_model(reference_spec, torch_dtype, torch_device)
    candidate: Any
    if candidate_spec.is_adapter:
        candidate = _load_adapter(candidate_spec, reference, reference_spec)
    elif candidate_spec.folder == reference_spec.folder:
        candidate = reference
    else:
        candidate = _load_model(candidate_spec, torch_dtype, torch_device)
    pair = ModelPair.from_models(
        reference,
        candidate,
        tokenizer,
        system_prompt=system_prompt,
        identities=pair_identities(*specs),
    )
    return pair.with_template(_template(chat_template, tokenizer, other_tokenizer, say))


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU, else the CPU; raises `ModelLoadError` for one that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(
            f"--divergence-device={device} is not usable here: {str(error).splitlines()[0]}"
        ) from error
    return chosen


def _folder(spec: ModelSpec, role: str, say: Say) -> Path:
    if spec.kind == "demo":
        return demo_folder(spec.location, role=role, say=say)
    if spec.kind == "hub":
        return hub_folder(spec.location, revision=spec.revision, role=role)
    return spec.path


def _resolve_dtype(
    dtype: str, specs: tuple[ResolvedSpec, ResolvedSpec], device: torch.device
) -> torch.dtype:
    named = {resolved.spec.dtype for resolved in specs} - {None}
    if len(named) > 1:
        raise ModelLoadError(
            f"--model-1 and --model-2 name different dtypes ({', '.join(sorted(map(str, named)))});"
            " a pair is measured in one"
        )
    name = next(iter(named), None) or dtype
    if name == "auto":
        num_bytes = sum(path.stat().st_size for path in specs[0].folder.glob("*.safetensors"))
        is_small = device.type == "cpu" or num_bytes <= SMALL_MODEL_BYTES
        return torch.float32 if is_small else torch.bfloat16
    if name not in DTYPES:
        raise ModelLoadError(f"dtype={name} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _load_model(
    resolved: ResolvedSpec, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    with quiet_transformers(), _as_load_error(resolved):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            resolved.folder,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    moved: Any = model  # `to` is typed for a wider class
    return cast("PreTrainedModel", moved.to(device))


def _load_tokenizer(resolved: ResolvedSpec) -> PreTrainedTokenizerBase:
    with quiet_transformers(), _as_load_error(resolved):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            resolved.folder, trust_remote_code=False, local_files_only=True
        )
    return tokenizer


def _load_adapter(resolved: ResolvedSpec, base: PreTrainedModel, base_spec: ResolvedSpec) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelLoadError(
            f"{resolved.role} is an adapter; loading it needs peft: "
            "pip install 'pytest-divergence[peft]'"
        ) from error
    named = adapter_base_name(resolved.folder)
    base_name = f"--model-1 {base_spec.spec}" + (
        f" (the adapter names {safe_line(named)})" if named else ""
    )
    check_adapter_shapes(resolved.folder, base, role=resolved.role, base_name=base_name)
    before = [(weight, _checksum(weight)) for weight in base.parameters()]
    with quiet_transformers(), _as_load_error(resolved):
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


def _template(
    choice: str,
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | None,
    say: Say,
) -> str | None:
    own, others = (
        t.chat_template if t is not None and isinstance(t.chat_template, str) else None
        for t in (tokenizer, other)
    )
    if choice == "none":
        return None
    if choice == "candidate":
        return others or own
    if choice == "reference":
        if own is None and others is not None:
            say("the reference has no chat template; the candidate's is used for both")
        return own or others
    try:
        return Path(choice).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(
            f"--divergence-chat-template={choice} must be reference, candidate, none or a "
            f"readable Jinja file: {error}"
        ) from error


@contextmanager
def _as_load_error(resolved: ResolvedSpec) -> Iterator[None]:
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
