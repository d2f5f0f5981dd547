"""From two specs to the folders that they stand for, before anything is loaded.

Everything becomes a local folder first and is screened, but for what a plugin is to load. Does not
load models (`pytest_divergence.models.loading`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.demo import demo_folder, ready_demo_folder
from pytest_divergence.models.folder_checks import screen_adapter_folder, screen_model_folder
from pytest_divergence.models.gguf_files import gguf_folder, ready_gguf_folder
from pytest_divergence.models.providers import ModelProvider
from pytest_divergence.models.quiet import Say
from pytest_divergence.models.resolved import ResolvedSpec, as_load_error
from pytest_divergence.models.sources import cached_hub_folder, hub_folder
from pytest_divergence.models.specs import ModelSpec, parse_open_spec, parse_spec, plugin_spec

ROLES = ("--model-1", "--model-2")


def resolve_pair(
    model_1: str,
    model_2: str,
    *,
    root: Path | None = None,
    say: Say = lambda _: None,
    roles: tuple[str, str] = ROLES,
    provider: ModelProvider | None = None,
    is_offline: bool = False,
) -> tuple[ResolvedSpec, ResolvedSpec]:
    """Both specs as screened local folders; nothing is loaded yet.

    `roles` are the specs' names in messages. What `provider` has a fingerprint for, and what no
    rule here understands, is left to it. With `is_offline` nothing is downloaded or made ready: a
    model that is not here yet has no folder.
    """
    find = _folder_here if is_offline else _folder
    reference, candidate = (
        _resolve(text, role, root, partial(find, role=role, say=say), provider)
        for text, role in zip((model_1, model_2), roles, strict=True)
    )
    unpack = partial(_unpacked, say=say, is_offline=is_offline)
    reference = unpack(reference, candidate)
    candidate = unpack(candidate, reference)
    if reference.is_adapter and reference.spec.base is None:
        raise ModelLoadError(
            f"{roles[0]} is an adapter folder ({reference.spec}); give the model that it was "
            f"trained on as {roles[0]}, and the adapter as {roles[1]}. To compare two adapters, "
            "name the base behind each: ADAPTER,base=MODEL"
        )
    find_base = partial(_resolve_base, root=root, find=partial(find, say=say))
    reference = find_base(reference, default=None)
    candidate = find_base(candidate, default=reference.full_model)
    for one in (reference, candidate, reference.base, candidate.base):
        if one is not None and one.folder is not None:
            screen = screen_adapter_folder if one.is_adapter else screen_model_folder
            screen(one.folder, role=one.role)
    return reference, candidate


def _unpacked(
    one: ResolvedSpec, other: ResolvedSpec, *, say: Say, is_offline: bool
) -> ResolvedSpec:
    """A GGUF file with the folder that it is converted to, with the other model's config."""
    if one.spec.kind != "gguf":
        return one
    like = None if other.is_adapter else other.folder
    if like is not None:
        screen_model_folder(like, role=other.role)
    if is_offline:
        folder = ready_gguf_folder(one.spec.path, like=like, role=one.role)
    else:
        with as_load_error(one):
            folder = gguf_folder(one.spec.path, like=like, role=one.role, say=say)
    return replace(one, folder=folder)


def _resolve_base(
    one: ResolvedSpec,
    *,
    default: ResolvedSpec | None,
    root: Path | None,
    find: Callable[..., Path | None],
) -> ResolvedSpec:
    """An adapter with its base: the one that its spec names, else `default`."""
    spec = one.spec
    if one.folder is not None and spec.base is not None and not one.is_adapter:
        raise ModelLoadError(
            f"{one.role}: base={spec.base} is for a PEFT adapter, and {spec.location} is a full "
            "model; leave it out"
        )
    if not one.is_adapter:
        return one
    if spec.base is None:
        assert default is not None  # `resolve_pair` refuses a reference without its base
        own, base = ((s.dtype, s.attn_implementation) for s in (spec, default.spec))
        if any(own) and own != base:
            raise ModelLoadError(
                f"{one.role}: {spec} runs on the weights of {default.role}, so it runs as they "
                f"do; write dtype and attn_implementation behind {default.role}"
            )
        return replace(one, base=default)
    role = f"{one.role}, base"
    named = parse_spec(spec.base, role=role, root=root)
    named = replace(
        named,
        dtype=spec.dtype,
        attn_implementation=spec.attn_implementation,
        device=spec.device,
        device_map=spec.device_map,
    )
    base_model = ResolvedSpec(named, find(named, role=role), role)
    if named.kind == "gguf":
        raise ModelLoadError(f"{role}={spec.base} is a GGUF file; give --model-1 the file itself")
    if base_model.is_adapter:
        raise ModelLoadError(f"{role}={spec.base} is an adapter itself; name a full model")
    return replace(one, base=base_model)


def _resolve(
    text: str,
    role: str,
    root: Path | None,
    find: Callable[[ModelSpec], Path | None],
    provider: ModelProvider | None,
) -> ResolvedSpec:
    if provider is None:
        spec = parse_spec(text, role=role, root=root)
        return ResolvedSpec(spec, find(spec), role)
    fingerprint = provider.fingerprint(text)
    if fingerprint is not None:
        return ResolvedSpec(plugin_spec(text), None, role, fingerprint)
    spec = parse_open_spec(text, role=role, root=root)
    return ResolvedSpec(spec, None if spec.kind == "plugin" else find(spec), role)


def _folder(spec: ModelSpec, role: str, say: Say) -> Path | None:
    if spec.kind == "gguf":
        return None  # it is made once the other model is known: `_unpacked`
    if spec.kind == "demo":
        return demo_folder(spec.location, role=role, say=say)
    if spec.kind == "hub":
        return hub_folder(spec.location, revision=spec.revision, role=role)
    return spec.path


def _folder_here(spec: ModelSpec, role: str, say: Say) -> Path | None:
    if spec.kind == "gguf":
        return None
    if spec.kind == "demo":
        return ready_demo_folder(spec.location, role=role)
    if spec.kind == "hub":
        return cached_hub_folder(spec.location, revision=spec.revision)
    return spec.path
