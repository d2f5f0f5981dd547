"""From two specs to a `LoadPlan`: all that loading needs to know, settled before it starts.

Everything but a plugin's model becomes a local folder first and is screened. Identity, memory,
preflight and loading use the same plan. Does not load models
(`pytest_divergence.models.loading`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from pydantic import JsonValue

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import THOUGHT_LENGTHS, Settings
from pytest_divergence.models.adapter_checks import screen_adapter_folder
from pytest_divergence.models.devices import (
    Placement,
    class_without_sdpa,
    default_dtype,
    has_attention,
    named_dtype,
    placement,
    resolve_device,
)
from pytest_divergence.models.endpoints.http_client import Server
from pytest_divergence.models.endpoints.llamacpp import LlamaCppServer
from pytest_divergence.models.endpoints.openai import OpenAiServer
from pytest_divergence.models.endpoints.recordings import Recording
from pytest_divergence.models.endpoints.vllm import VllmServer
from pytest_divergence.models.fingerprints import (
    FileState,
    ModelIdentity,
    file_state,
    has_tokenizer,
    text_digest,
    tokenizer_digest,
)
from pytest_divergence.models.folder_checks import screen_model_folder
from pytest_divergence.models.gguf import gguf_folder, ready_gguf_folder
from pytest_divergence.models.side_plan import SidePlan
from pytest_divergence.models.sources import source_folder, tokenizer_source
from pytest_divergence.models.specs import (
    RECORDED,
    ModelProvider,
    ModelSpec,
    is_partial,
    is_recorded,
    is_served,
    parse_open_spec,
    parse_spec,
    plugin_spec,
)
from pytest_divergence.models.transformers_log import Say

SERVERS: Mapping[str, type[LlamaCppServer | OpenAiServer | VllmServer]] = {
    "llamacpp": LlamaCppServer,
    "openai": OpenAiServer,
    "vllm": VllmServer,
}
"""Classes that ask a server, by the kind of its spec."""
EVERYWHERE = "all devices"
Signature = tuple[tuple[str, FileState], ...]
"""Name and state of each file of a folder."""


@dataclass(frozen=True)
class LoadOptions:
    """Options that both models are loaded with, unless a model's own spec says otherwise."""

    device: str = "auto"
    dtype: str = "auto"
    chat_template: str = "reference"
    """`reference`, `candidate`, `none` or a Jinja file."""
    system_prompt: str | None = None
    template_arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    """Arguments of the chat template besides the frozen date."""
    thought_lengths: tuple[int, int] = (THOUGHT_LENGTHS["smoke"], THOUGHT_LENGTHS["default"])
    """Tokens of thoughts before an answer, at most, on a CPU and on another device."""

    @classmethod
    def of(cls, settings: Settings) -> LoadOptions:
        """The part of a run's settings that loading depends on."""
        return cls(
            settings.device,
            settings.dtype,
            settings.chat_template,
            settings.system_prompt,
            settings.template_arg,
            (
                settings.resolved_profile("cpu").thought_length,
                settings.resolved_profile("cuda").thought_length,
            ),
        )


@dataclass(frozen=True)
class LoadContext:
    """Context of a pair of specs: where they are written, who loads them and gets messages."""

    root: Path | None = None
    """Folder that relative folders start from; None: the working directory."""
    roles: tuple[str, str] = field(default_factory=lambda: (setting("model_1"), setting("model_2")))
    """The specs' names in messages."""
    say: Say = lambda _: None
    """Takes messages for people."""
    provider: ModelProvider | None = None
    """Loader of models that it has a fingerprint for, or whose spec no rule here understands."""
    is_offline: bool = False
    """Whether downloads and conversions are off: a model that is not here yet has no folder."""


@dataclass(frozen=True)
class LoadPlan:
    """Both models of a pair by their specs, and how they are loaded.

    Expensive answers are computed on first use and kept. Each `ModelLoadError` names the option.
    """

    reference: SidePlan
    candidate: SidePlan
    options: LoadOptions
    seen: Mapping[Path, Signature] = field(default_factory=dict)
    """The state of the folders when they were screened."""

    @property
    def is_current(self) -> bool:
        """Whether no folder has changed since it was screened."""
        return all(_signature(folder) == then for folder, then in self.seen.items())

    @property
    def sides(self) -> tuple[SidePlan, SidePlan]:
        """Reference and candidate, in this order."""
        return self.reference, self.candidate

    @property
    def is_served(self) -> bool:
        """Whether a server runs one of the models, or a record stands for it."""
        return any(side.served is not None for side in self.sides)

    @property
    def is_known(self) -> bool:
        """Whether both models can be identified before they are loaded."""
        return all(side.is_known for side in self.sides)

    @property
    def is_here(self) -> bool:
        """Whether both models and their bases are local folders."""
        return all(side.folder and side.full_model.folder for side in self.sides)

    @property
    def identities(self) -> tuple[ModelIdentity, ModelIdentity]:
        """Identities of both models."""
        return self.reference.identity, self.candidate.identity

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 of the reference's tokenizer; a plugin's fingerprint covers it too."""
        return _with_adapters(self._base_tokenizer_digest, self.reference.adapter_tokenizer)

    @cached_property
    def candidate_tokenizer_digest(self) -> str | None:
        """sha256 of the candidate's own tokenizer; None if it has none."""
        candidate, own = self.candidate.full_model, self.candidate.adapter_tokenizer
        if self.has_one_model or candidate.folder is None or self.lacks_tokenizer:
            return _with_adapters(self._base_tokenizer_digest, own) if own else None
        return _with_adapters(tokenizer_digest(candidate.folder), own)

    @property
    def _base_tokenizer_digest(self) -> str:
        reference = self.reference.full_model
        folder = reference.tokenizer_folder
        if reference.served is not None:
            folder = folder or self.candidate.full_model.tokenizer_folder
        return tokenizer_digest(folder) if folder else reference.digest

    @property
    def arithmetic(self) -> str | None:
        """Each model's dtype and attention implementation; None if a plugin loads one."""
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
        """Whether the candidate is a folder, or served, without a tokenizer of its own."""
        candidate = self.candidate.full_model
        if candidate.served is not None:
            return candidate.own_tokenizer is None
        return candidate.folder is not None and not has_tokenizer(candidate.folder)

    @cached_property
    def device(self) -> torch.device:
        """The device of both models, unless their specs say otherwise."""
        return resolve_device(self.options.device)

    @cached_property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype]:
        """The dtype that each model's spec names, else the pair's."""
        asked = named_dtype(None if self.options.dtype == "auto" else self.options.dtype)
        # A plugin's model keeps its dtype.
        loaded = next((side.loaded.model.dtype for side in self.sides if side.loaded), None)
        folders = (side.full_model.folder for side in self.sides)
        each = (default_dtype(folder, self.device) for folder in folders)
        of_both = asked or loaded or min(each, key=lambda dtype: dtype.itemsize)
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
        """Note about a model that cannot run with torch's own attention; None if there is none."""
        full = [side.full_model for side in self.sides]
        asked = [side.spec.attn_implementation for side in full]
        has_some = any(has_attention(side.config) for side in full if side.is_ours)
        without = self._classes_without_sdpa if has_some else []
        if not without or None not in asked:
            return None
        return f"{' and '.join(without)} has no sdpa attention, so eager attention is used"

    @cached_property
    def _classes_without_sdpa(self) -> list[str]:
        full = (side.full_model for side in self.sides)
        found = (class_without_sdpa(side.config) for side in full if side.is_ours)
        return sorted({name for name in found if name})

    @cached_property
    def placements(self) -> tuple[Placement, Placement]:
        """The place of each model: as its spec says, else on the pair's device."""
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
        """Bytes of weights by device, or on `EVERYWHERE` if accelerate spreads a model.

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
    """Turns the specs of a pair into folders: looks each up and screens it once."""

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
                "adapters, add the base to each: ADAPTER,base=MODEL"
            )
        reference = self._with_base(reference, default=None)
        candidate = self._with_base(candidate, default=reference.full_model)
        for side in (reference, candidate, reference.base, candidate.base):
            if side is not None:
                self._screen(side)
        if candidate.spec.kind == RECORDED:
            raise ModelLoadError(
                f"{roles[1]}={candidate.spec} is a recorded reference; give it as {roles[0]}"
            )
        if all(side.served and side.own_tokenizer is None for side in (reference, candidate)):
            which = "the first" if reference.spec.is_served else "the second"
            raise ModelLoadError(
                f"{roles[0]} and {roles[1]} are both served, so their tokenizer is not known; add "
                f"tokenizer=MODEL to {which}, a folder or a Hub id that has it"
            )
        return reference, candidate

    def _side(self, text: str, role: str) -> SidePlan:
        provider, root = self._context.provider, self._context.root
        if is_served(text):
            return self._served(parse_spec(text, role=role), role)
        if is_recorded(text):
            spec = parse_spec(text, role=role, root=root)
            return SidePlan(spec, None, role, served=Recording.beside(spec, role))
        if provider is None:
            spec = parse_spec(text, role=role, root=root)
            return SidePlan(spec, self._folder(spec, role), role)
        fingerprint = provider.fingerprint(text)
        if fingerprint is not None:
            return SidePlan(plugin_spec(text), None, role, fingerprint)
        spec = parse_open_spec(text, role=role, root=root)
        return SidePlan(spec, self._folder(spec, role), role)

    def _served(self, spec: ModelSpec, role: str) -> SidePlan:
        """A side with the server that runs it, which has said what it runs."""
        folder = None
        if spec.tokenizer is not None:
            named = f"{role}, tokenizer"
            place = parse_spec(spec.tokenizer, role=named, root=self._context.root)
            folder = tokenizer_source(place, role=named, say=self._context.say)
            if not has_tokenizer(folder):
                raise ModelLoadError(f"{named}={spec.tokenizer}: there is no tokenizer in it")
        served = SERVERS[spec.kind].asked(Server(spec, role))
        return SidePlan(spec, None, role, served=served, own_tokenizer=folder)

    def _folder(self, spec: ModelSpec, role: str) -> Path | None:
        place = ModelSpec(spec.kind, spec.location, spec.revision)
        if place not in self._found:
            say, is_offline = self._context.say, self._context.is_offline
            self._found[place] = source_folder(place, role=role, say=say, is_offline=is_offline)
        return self._found[place]

    def _unpacked(self, side: SidePlan, other: SidePlan) -> SidePlan:
        """A GGUF file's side with its converted folder, which has the other model's config."""
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
        """An adapter's side with its base: the model that its spec names, else `default`."""
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
        if default.served is not None:
            raise ModelLoadError(
                f"{side.role} is an adapter folder ({spec}), and {default.role} is served, so its "
                "weights are not here; add the base to the adapter: ADAPTER,base=MODEL"
            )
        own, base = ((s.dtype, s.attn_implementation) for s in (spec, default.spec))
        if any(own) and own != base:
            raise ModelLoadError(
                f"{side.role}: {spec} runs on the weights of {default.role}, so it runs as they "
                f"do; add dtype and attn_implementation to {default.role}"
            )
        return replace(side, base=default)

    def _named_base(self, adapter: ModelSpec, text: str, role: str) -> SidePlan:
        if is_partial(text):
            raise ModelLoadError(
                f"{role} is served, and an adapter runs on weights that are here; name its base as "
                "a folder or Hub id"
            )
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
            seen = _signature(side.folder)  # first, so that a later change is noticed
            screen = screen_adapter_folder if side.is_adapter else screen_model_folder
            screen(side.folder, role=side.role)
            self.seen[side.folder] = seen


def _with_adapters(digest: str, adapter: Path | None) -> str:
    """sha256 of a model's tokenizer and an adapter's, which may have another chat template."""
    return text_digest(f"{digest}+{tokenizer_digest(adapter)}") if adapter else digest


def _signature(folder: Path) -> Signature:
    """Names and states of a folder's files, by which a change shows without reading one."""
    files = (path for path in folder.glob("*") if path.is_file())
    return tuple(sorted((path.name, file_state(path)) for path in files))
