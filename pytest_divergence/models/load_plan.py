"""From two specs to a `LoadPlan`: what they stand for, answered once, before anything is loaded.

Everything becomes a local folder first and is screened, but for what a plugin is to load. Identity,
memory, preflight and loading read the same plan. Does not load models
(`pytest_divergence.models.loading`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Settings
from pytest_divergence.models.adapter_checks import screen_adapter_folder
from pytest_divergence.models.devices import (
    Placement,
    class_without_sdpa,
    default_dtype,
    named_dtype,
    placement,
    resolve_device,
)
from pytest_divergence.models.fingerprints import (
    FileState,
    ModelIdentity,
    file_state,
    has_tokenizer,
    hub_commit,
    text_digest,
    tokenizer_digest,
    weights_digest,
)
from pytest_divergence.models.folder_checks import screen_model_folder
from pytest_divergence.models.folder_files import model_shapes, read_json_object
from pytest_divergence.models.gguf import gguf_folder, ready_gguf_folder
from pytest_divergence.models.memory import weights_bytes
from pytest_divergence.models.quantised import is_dense
from pytest_divergence.models.sources import source_folder
from pytest_divergence.models.specs import (
    LoadedModel,
    ModelProvider,
    ModelSpec,
    parse_open_spec,
    parse_spec,
    plugin_spec,
)
from pytest_divergence.models.text_models import bare_model, parts_left_out, text_loaders
from pytest_divergence.models.transformers_log import Say, quiet_transformers

EXPERTS = ".experts."
"""In the name of a tensor that is a mixture's expert's, or of all of them."""
EVERYWHERE = "all devices"
Signature = tuple[tuple[str, FileState], ...]
"""Name and state of each file of a folder."""


@dataclass(frozen=True)
class LoadOptions:
    """How both models are loaded, but where a model's own spec says otherwise."""

    device: str = "auto"
    dtype: str = "auto"
    chat_template: str = "reference"
    """`reference`, `candidate`, `none` or a Jinja file."""
    system_prompt: str | None = None

    @classmethod
    def of(cls, settings: Settings) -> LoadOptions:
        """The part of a run's settings that loading depends on."""
        return cls(settings.device, settings.dtype, settings.chat_template, settings.system_prompt)


@dataclass(frozen=True)
class LoadContext:
    """Where specs are written, and who is asked and told about them."""

    root: Path | None = None
    """Relative folders start here; None: in the working folder."""
    roles: tuple[str, str] = field(default_factory=lambda: (setting("model_1"), setting("model_2")))
    """The specs' names in messages."""
    say: Say = lambda _: None
    """Takes messages for people."""
    provider: ModelProvider | None = None
    """Loads what it has a fingerprint for, and what no rule here understands."""
    is_offline: bool = False
    """Nothing is downloaded or made ready: a model that is not here yet has no folder."""


@dataclass(frozen=True)
class SidePlan:
    """A spec and the local folder that it stands for; None where a plugin loads it, or not here."""

    spec: ModelSpec
    folder: Path | None
    role: str
    fingerprint: str | None = None
    """What the plugin says to tell the model from others by."""
    loaded: LoadedModel | None = None
    """What the plugin loaded; only while a pair is loaded."""
    base: SidePlan | None = None
    """The full model that an adapter was trained on."""

    @cached_property
    def is_adapter(self) -> bool:
        """Whether the folder is a PEFT adapter, wherever it came from."""
        return self.folder is not None and (self.folder / "adapter_config.json").is_file()

    @property
    def full_model(self) -> SidePlan:
        """Whose weights are loaded: the base of an adapter, or this model itself."""
        return self.base or self

    @property
    def is_known(self) -> bool:
        """Whether the model can be told from others before it is loaded."""
        return self.folder is not None or self.fingerprint is not None

    @property
    def named_base(self) -> str | None:
        """The base that an adapter says it was made from: shown, never followed."""
        assert self.folder is not None  # an adapter is a folder
        config = read_json_object(self.folder / "adapter_config.json", role=self.role)
        name = config.get("base_model_name_or_path")
        return name if isinstance(name, str) else None

    @cached_property
    def adapts_parameters(self) -> bool:
        """Whether an adapter changes tensors where they stand, as those of a mixture's experts.

        PEFT does it at each pass anew, so that no gradient passes through what the base has read.
        """
        assert self.folder is not None  # an adapter is a folder
        config = read_json_object(self.folder / "adapter_config.json", role=self.role)
        has_experts = any(EXPERTS in key for key in model_shapes(self.folder))
        return bool(config.get("target_parameters")) or has_experts

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights, or of the plugin's fingerprint."""
        if self.folder is not None:
            return weights_digest(self.folder)
        if self.fingerprint is None:
            raise ModelLoadError(
                f"{self.role}: {self.spec} cannot be told apart before it is loaded"
            )
        return text_digest(f"fingerprint {self.fingerprint}")

    @cached_property
    def identity(self) -> ModelIdentity:
        """Spec and digests; an adapter's digest includes its base's."""
        digest = self.digest if self.base is None else f"{self.base.digest}+{self.digest}"
        digest += self._numerics
        kind = "adapter" if self.is_adapter else self.spec.kind
        commit = hub_commit(self.folder) if self.folder is not None else None
        return ModelIdentity(str(self.spec), kind, digest, commit)

    @cached_property
    def config(self) -> PreTrainedConfig:
        """What transformers reads from the folder's config.json."""
        assert self.folder is not None  # what no plugin loads is a folder
        with quiet_transformers(), self.load_errors():
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                self.folder, trust_remote_code=False, local_files_only=True
            )
        return config

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """The folder's config.json as it stands."""
        assert self.folder is not None  # what no plugin loads is a folder
        return read_json_object(self.folder / "config.json", role=self.role)

    @cached_property
    def parts_left_out(self) -> tuple[str, ...]:
        """Names of the modules besides the text's, such as an encoder of images."""
        if self.folder is None or self.is_adapter:
            return ()
        config = self.config
        with quiet_transformers(), self.load_errors():
            return parts_left_out(config)

    def loaded_bytes(self, itemsize: int, device: torch.device) -> int:
        """Bytes of the folder's weights once loaded with floats of `itemsize` bytes.

        Raises what reading the files raises.
        """
        assert self.folder is not None  # what no plugin loads is a folder
        if self.is_adapter or not is_dense(self.raw_config, device):
            return weights_bytes(self.folder, itemsize, self.parts_left_out)
        config = self.config
        with quiet_transformers(), self.load_errors():
            model = bare_model(text_loaders(config)[0], config)
        return itemsize * sum(weight.numel() for weight in model.parameters())

    def is_same_as(self, other: SidePlan) -> bool:
        """Whether both stand for one model."""
        if self.folder is None:
            return self.spec == other.spec
        if self.folder != other.folder or self._numerics != other._numerics:
            return False
        return (self.base is None) == (other.base is None) and (
            self.base is None or other.base is None or self.base.is_same_as(other.base)
        )

    @property
    def _numerics(self) -> str:
        """What was asked for of this model alone that changes its numbers, but no weight."""
        spec = self.full_model.spec
        asked = {"attn_implementation": spec.attn_implementation, "dtype": spec.dtype}
        return "".join(f",{name}={value}" for name, value in asked.items() if value is not None)

    @contextmanager
    def load_errors(self) -> Iterator[None]:
        """Whatever a stranger's files raise inside becomes one error that names the option."""
        try:
            yield
        except ModelLoadError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelLoadError(
                f"{self.role}: {self.spec} cannot be loaded: "
                f"{type(error).__name__}: {safe_line(reason) if reason else 'no reason given'}"
            ) from error


@dataclass(frozen=True)
class LoadPlan:
    """What the two specs of a pair stand for, and how they are loaded.

    What costs time is computed on first use and kept. What raises `ModelLoadError` names the
    option.
    """

    reference: SidePlan
    candidate: SidePlan
    options: LoadOptions
    seen: Mapping[Path, Signature] = field(default_factory=dict)
    """The folders, as they were when they were screened."""

    @property
    def is_current(self) -> bool:
        """Whether no folder has changed since it was screened."""
        return all(_signature(folder) == then for folder, then in self.seen.items())

    @property
    def sides(self) -> tuple[SidePlan, SidePlan]:
        """Reference and candidate, in this order."""
        return self.reference, self.candidate

    @property
    def is_known(self) -> bool:
        """Whether both models can be told from others before they are loaded."""
        return all(side.is_known for side in self.sides)

    @property
    def is_here(self) -> bool:
        """Whether all that is loaded lies in local folders."""
        return all(one.folder for side in self.sides for one in (side, side.full_model))

    @property
    def identities(self) -> tuple[ModelIdentity, ModelIdentity]:
        """What both models are."""
        return self.reference.identity, self.candidate.identity

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 of the reference's tokenizer; a plugin's fingerprint stands for that too."""
        reference = self.reference.full_model
        return tokenizer_digest(reference.folder) if reference.folder else reference.digest

    @cached_property
    def candidate_tokenizer_digest(self) -> str | None:
        """sha256 of the candidate's own tokenizer; None where it has none."""
        candidate = self.candidate.full_model
        if self.has_one_model or candidate.folder is None or self.lacks_tokenizer:
            return None
        return tokenizer_digest(candidate.folder)

    @property
    def arithmetic(self) -> str | None:
        """Each model's dtype and attention implementation; None where a plugin loads one."""
        if any(side.full_model.folder is None for side in self.sides):
            return None
        both = zip(self.dtypes, self.attentions, strict=True)
        return ", ".join(f"{str(dtype).split('.')[-1]} {attention}" for dtype, attention in both)

    @property
    def has_one_model(self) -> bool:
        """Whether the candidate's full model is the reference's: an adapter's base, or itself."""
        return self.candidate.full_model.is_same_as(self.reference.full_model)

    @cached_property
    def shares_weights(self) -> bool:
        """Whether one copy of the weights serves both sides."""
        first, second = self.placements
        adapters = [side for side in self.sides if side.is_adapter]
        is_one = self.has_one_model and first == second
        return is_one and not any(adapter.adapts_parameters for adapter in adapters)

    @property
    def lacks_tokenizer(self) -> bool:
        """Whether the candidate is a folder without a tokenizer of its own."""
        folder = self.candidate.full_model.folder
        return folder is not None and not has_tokenizer(folder)

    @cached_property
    def device(self) -> torch.device:
        """Where both models are, but where their specs say otherwise."""
        return resolve_device(self.options.device)

    @cached_property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """The dtype that each model's spec names, else the one of both models."""
        asked = named_dtype(None if self.options.dtype == "auto" else self.options.dtype)
        # What a plugin loaded cannot change.
        loaded = next((one.loaded.model.dtype for one in self.sides if one.loaded), None)
        of_both = asked or loaded or default_dtype(self.reference.full_model.folder, self.device)
        reference, candidate = (named_dtype(side.full_model.spec.dtype) for side in self.sides)
        return reference or of_both, candidate or of_both

    @cached_property
    def attentions(self) -> tuple[str, str]:
        """The attention implementation that each model's spec names, else one that both support."""
        of_both = "eager" if self._classes_without_sdpa else "sdpa"
        reference, candidate = (side.full_model.spec.attn_implementation for side in self.sides)
        return reference or of_both, candidate or of_both

    @property
    def attention_note(self) -> str | None:
        """What people are told where a model cannot run with torch's own attention."""
        asked = [side.full_model.spec.attn_implementation for side in self.sides]
        without = self._classes_without_sdpa
        if not without or None not in asked:
            return None
        return f"{' and '.join(without)} has no sdpa attention, so eager attention is used"

    @cached_property
    def _classes_without_sdpa(self) -> list[str]:
        full = (side.full_model for side in self.sides)
        found = (class_without_sdpa(one.config) for one in full if one.loaded is None)
        return sorted({name for name in found if name})

    @cached_property
    def placements(self) -> tuple[Placement, Placement]:
        """Where both models go: as each spec says, else on the pair's device."""
        first, spec = self._placement(self.reference.full_model), self.candidate.spec
        if not self.candidate.is_adapter or spec.base is not None:
            return first, self._placement(self.candidate.full_model)
        for option in ("device", "device_map"):
            if getattr(spec, option) is not None:
                raise ModelLoadError(
                    f"{self.candidate.role} is an adapter, which runs where its base does; give "
                    f"{option} with {self.reference.role}"
                )
        return first, first

    def _placement(self, side: SidePlan) -> Placement:
        return placement(side.spec.device, side.spec.device_map, self.device, role=side.role)

    @cached_property
    def weights(self) -> Mapping[str, int]:
        """Bytes of weights by device, or on `EVERYWHERE` where accelerate spreads a model.

        A folder counts once on each device: the same model twice is loaded once. Raises what
        reading the files raises.
        """
        is_spread = any(place.is_spread for place in self.placements)
        held: dict[str, dict[tuple[Path, int, int], int]] = {}
        each = zip(self.sides, self.placements, self.dtypes, strict=True)
        for copy, (side, place, dtype) in enumerate(each):
            where = held.setdefault(EVERYWHERE if is_spread else str(place.device), {})
            for part in (side.full_model, side):
                if part.folder is None:
                    continue
                key = part.folder, dtype.itemsize, 0 if self.shares_weights else copy
                if key not in where:
                    where[key] = part.loaded_bytes(dtype.itemsize, place.device)
        return {where: sum(sizes.values()) for where, sizes in held.items()}


def resolve_pair(
    model_1: str,
    model_2: str,
    options: LoadOptions | None = None,
    context: LoadContext | None = None,
) -> LoadPlan:
    """Both specs as screened local folders; nothing is loaded yet. Raises `ModelLoadError`."""
    resolution = _Resolution(context or LoadContext())
    sides = resolution.sides(model_1, model_2)
    return LoadPlan(*sides, options or LoadOptions(), resolution.seen)


class _Resolution:
    """The specs of one pair on their way to folders: each is looked up and screened once."""

    def __init__(self, context: LoadContext) -> None:
        self._context = context
        self._found: dict[ModelSpec, Path | None] = {}
        self.seen: dict[Path, Signature] = {}

    def sides(self, model_1: str, model_2: str) -> tuple[SidePlan, SidePlan]:
        roles = self._context.roles
        reference, candidate = self._side(model_1, roles[0]), self._side(model_2, roles[1])
        reference = self._unpacked(reference, candidate)
        candidate = self._unpacked(candidate, reference)
        if reference.is_adapter and reference.spec.base is None:
            raise ModelLoadError(
                f"{roles[0]} is an adapter folder ({reference.spec}); give the model that it was "
                f"trained on as {roles[0]}, and the adapter as {roles[1]}. To compare two "
                "adapters, name the base behind each: ADAPTER,base=MODEL"
            )
        reference = self._with_base(reference, default=None)
        candidate = self._with_base(candidate, default=reference.full_model)
        for side in (reference, candidate, reference.base, candidate.base):
            if side is not None:
                self._screen(side)
        return reference, candidate

    def _side(self, text: str, role: str) -> SidePlan:
        provider, root = self._context.provider, self._context.root
        if provider is None:
            spec = parse_spec(text, role=role, root=root)
            return SidePlan(spec, self._folder(spec, role), role)
        fingerprint = provider.fingerprint(text)
        if fingerprint is not None:
            return SidePlan(plugin_spec(text), None, role, fingerprint)
        spec = parse_open_spec(text, role=role, root=root)
        return SidePlan(spec, self._folder(spec, role), role)

    def _folder(self, spec: ModelSpec, role: str) -> Path | None:
        place = ModelSpec(spec.kind, spec.location, spec.revision)
        if place not in self._found:
            say, is_offline = self._context.say, self._context.is_offline
            self._found[place] = source_folder(place, role=role, say=say, is_offline=is_offline)
        return self._found[place]

    def _unpacked(self, side: SidePlan, other: SidePlan) -> SidePlan:
        """A GGUF file with the folder that it is converted to, with the other model's config."""
        if side.spec.kind != "gguf":
            return side
        like = None if other.is_adapter else other.folder
        if like is not None:
            self._screen(other)
        path, say = side.spec.path, self._context.say
        if self._context.is_offline:
            return replace(side, folder=ready_gguf_folder(path, like=like, role=side.role))
        with side.load_errors():
            return replace(side, folder=gguf_folder(path, like=like, role=side.role, say=say))

    def _with_base(self, side: SidePlan, *, default: SidePlan | None) -> SidePlan:
        """An adapter with its base: the one that its spec names, else `default`."""
        spec = side.spec
        if side.folder is not None and spec.base is not None and not side.is_adapter:
            raise ModelLoadError(
                f"{side.role}: base={spec.base} is for a PEFT adapter, and {spec.location} is a "
                "full model; leave it out"
            )
        if not side.is_adapter:
            return side
        if spec.base is not None:
            return replace(side, base=self._named_base(spec, spec.base, f"{side.role}, base"))
        assert default is not None  # `sides` refuses a reference without its base
        own, base = ((s.dtype, s.attn_implementation) for s in (spec, default.spec))
        if any(own) and own != base:
            raise ModelLoadError(
                f"{side.role}: {spec} runs on the weights of {default.role}, so it runs as they "
                f"do; write dtype and attn_implementation behind {default.role}"
            )
        return replace(side, base=default)

    def _named_base(self, adapter: ModelSpec, text: str, role: str) -> SidePlan:
        spec = replace(
            parse_spec(text, role=role, root=self._context.root),
            dtype=adapter.dtype,
            attn_implementation=adapter.attn_implementation,
            device=adapter.device,
            device_map=adapter.device_map,
        )
        base = SidePlan(spec, self._folder(spec, role), role)
        if spec.kind == "gguf":
            raise ModelLoadError(
                f"{role}={text} is a GGUF file; give {setting('model_1')} the file itself"
            )
        if base.is_adapter:
            raise ModelLoadError(f"{role}={text} is an adapter itself; name a full model")
        return base

    def _screen(self, side: SidePlan) -> None:
        if side.folder is not None and side.folder not in self.seen:
            seen = _signature(side.folder)  # before: what changes meanwhile is noticed
            screen = screen_adapter_folder if side.is_adapter else screen_model_folder
            screen(side.folder, role=side.role)
            self.seen[side.folder] = seen


def _signature(folder: Path) -> Signature:
    """What tells a changed folder from itself, without reading a file."""
    files = (path for path in folder.glob("*") if path.is_file())
    return tuple(sorted((path.name, file_state(path)) for path in files))
