"""A PEFT adapter on a base: exactly the named one, on exactly the named base.

PEFT only warns of an adapter without its weights, and loads whatever else a file holds into the
base. Here every key of the file must be the adapter's own, every weight of the adapter is in the
file, and the base keeps its modules and its bytes. The names are compared without any weights too,
before the base is loaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.adapter_checks import MERGE, PREFIX, WEIGHTS
from pytest_divergence.models.devices import check_is_whole
from pytest_divergence.models.folder_files import Shapes, read_json_object, stored_shapes
from pytest_divergence.models.module_patterns import pattern_problem
from pytest_divergence.models.side_plan import SidePlan
from pytest_divergence.models.text_models import TextModel, is_in_part
from pytest_divergence.models.transformers_log import quiet_transformers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

WRAPPED = ".base_layer"
COPY = f"{WRAPPED}."
"""Part of the name of an embedding's own weights, which PEFT stores beside its adapter."""


def adapter_name(side: SidePlan) -> str:
    """The name of a side's adapter in PEFT; it must be valid as a module name."""
    return side.role.lstrip("-").replace(".", "_")


def require_peft(side: SidePlan) -> None:
    """Raise `ModelLoadError` if loading an adapter needs peft, and it is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise ModelLoadError(
            f"{side.role} is an adapter; loading it needs peft: "
            "pip install 'pytest-divergence[peft]'"
        )


def check_fit(side: SidePlan, skeleton: PreTrainedModel) -> str | None:
    """Note about what only loading can tell of an adapter; None if all is checked.

    Wraps `skeleton`, its base without weights, for good. Raises the `ModelLoadError` that
    `add_adapter` would raise.
    """
    require_peft(side)
    try:
        with _fitting(side, skeleton):
            wrapped = _Attached(side, skeleton, is_trial=True)
            wrapped.check()
    except NeedsWeightsError:
        return "the adapter's method needs the base's weights: loading tells whether it fits"
    if wrapped.copies:
        return "the adapter holds a copy of the base's embedding: loading tells whether it is equal"
    return None


def add_adapter(side: SidePlan, base: PreTrainedModel | PeftModel) -> PeftModel:
    """A PEFT model with the adapter added to those that it already has.

    Raises `ModelLoadError` for an adapter that is incomplete, holds more than its own weights, or
    changes anything in its base.
    """
    require_peft(side)
    check_is_whole(base, role=side.role)  # type: ignore[arg-type]
    with _fitting(side, base):
        wrapped = _Attached(side, base)
        wrapped.check()
    return wrapped.model


class NeedsWeightsError(Exception):
    """The adapter's method starts from the base's weights, so it cannot be tried without them."""


class _Attached:
    """An adapter loaded on a base, with the base's state before."""

    model: PeftModel

    def __init__(self, side: SidePlan, base: Any, *, is_trial: bool = False) -> None:
        with quiet_transformers():
            from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict

        assert side.folder is not None  # an adapter is a folder
        self._side, self._is_trial, name = side, is_trial, adapter_name(side)
        is_wrapped = isinstance(base, PeftModel)
        plain: Any = base.get_base_model() if is_wrapped else base
        self._modules = dict(_plain_modules(plain))
        self._digests = {} if is_trial else _digests(self._modules)
        self._tensors = {name for name, _ in _tensors(self._modules)}
        self._stored = stored = set(_shapes(side, plain))
        folder, options = str(side.folder), {"adapter_name": name, "is_trainable": False}
        # Even what PEFT calls empty weights are in memory for a moment, but not on this device.
        place = torch.device("meta") if is_trial else nullcontext()
        problem: Exception | None = None
        with quiet_transformers(), side.load_errors():
            config = PeftConfig.from_pretrained(folder)
            _check_config(side, config)
            config.inference_mode = True
            if (names := names_of_modules(config, stored)) is not None:
                config.target_modules = names
            try:
                if is_wrapped:
                    made: Any = base
                    if names is not None:  # else PEFT reads the config of the folder
                        made.add_adapter(name, config, low_cpu_mem_usage=is_trial)
                else:
                    with place:
                        made = get_peft_model(
                            base, config, adapter_name=name, low_cpu_mem_usage=is_trial
                        )
            except (NotImplementedError, RuntimeError) as error:
                if not is_trial or "meta tensor" not in str(error).lower():
                    raise
                problem = error
            else:
                if is_trial:
                    options["torch_device"] = "cpu"
                self.model, self._result = made, made.load_adapter(folder, **options)
                known: Callable[..., dict[str, Any]] = get_peft_model_state_dict
                kept: dict[str, Any] = {"adapter_name": name}
                self._own = set(known(made, **kept, save_embedding_layers=False))
                self.copies = {key for key in stored - self._own if COPY in key}
                if self.copies:
                    self.copies &= known(made, **kept, save_embedding_layers=True).keys()
        if problem is not None:
            raise NeedsWeightsError from problem

    def check(self) -> None:
        """Raise `ModelLoadError` if adapter or base are not what the user named."""
        foreign, missing = self._foreign(), self._missing()
        what = f"{self._side.role}: the adapter {self._side.spec}"
        own = [key for key in foreign if self._is_of_base(key)]
        if own:
            raise ModelLoadError(
                f"{what} changes the base's own weights: it holds {len(own)} of them, "
                f"{safe_line(own[0])} among them, and they would be loaded into the reference "
                f"too. {MERGE}"
            )
        if foreign:
            raise ModelLoadError(
                f"{what} holds {len(foreign)} weights that its config and its base have no place "
                f"for, {safe_line(foreign[0])} among them, so part of it would be left out; save "
                "it again with save_pretrained()"
            )
        if missing:
            raise ModelLoadError(
                f"{what} lacks {len(missing)} weights that its config asks for, "
                f"{safe_line(missing[0])} among them, so the adapter is incomplete; save it "
                "again with save_pretrained()"
            )
        plain: Any = self.model.get_base_model()
        modules = dict(_plain_modules(plain))
        if modules.keys() != self._modules.keys() or any(
            modules[name] is not was for name, was in self._modules.items()
        ):
            raise ModelLoadError(
                f"{what} rebuilds the base, so the reference would not be the model that you "
                f"named. {MERGE}"
            )
        if not self._is_trial and _digests(modules) != self._digests:
            raise ModelLoadError(
                f"{what} changes the base's own weights (a changed copy of an embedding, or an "
                f"initialisation such as PiSSA), so one copy cannot serve both models. {MERGE}"
            )

    def _foreign(self) -> list[str]:
        """Keys of the file that are not the adapter's own."""
        found = self._stored - self._own - self.copies
        if found and self._own - self._stored:  # renamed by PEFT as transformers renames the base's
            found = {key for key in found if self._is_of_base(key)}
            found |= set(self._result.unexpected_keys)
        return sorted(found)

    def _missing(self) -> list[str]:
        """Weights of the adapter that the file does not hold."""
        found = self._own - self._stored
        if found and self._stored - self._own:
            found = set(self._result.missing_keys)
        return sorted(found)

    def _is_of_base(self, key: str) -> bool:
        name = key.removeprefix(PREFIX).replace(COPY, ".").replace(".original_module.", ".")
        return name in self._tensors


def names_of_modules(config: Any, keys: Iterable[str]) -> set[str] | None:
    """Return the modules that a LoRA's own matrices adapt, if its config's pattern may not be used.

    Unsloth's patterns for models of images and text can be matched in too many ways. None: PEFT
    finds the modules by the config.
    """
    pattern = config.target_modules if config.peft_type == "LORA" else None
    if not isinstance(pattern, str) or pattern_problem(pattern) is None:
        return None
    return {name for key in keys if (name := _adapted(key)) is not None}


def _check_config(side: SidePlan, config: Any) -> None:
    """Raise `ModelLoadError` for virtual tokens, and for keys that the installed peft ignores."""
    assert side.folder is not None  # an adapter is a folder
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise ModelLoadError(
            f"{side.role}: the adapter {side.spec} changes no layer of the model: its virtual "
            "tokens come before the prompt and would be left out of the comparison; give an "
            "adapter of layers, such as a LoRA"
        )
    known = config.to_dict()
    for key, value in read_json_object(side.folder / "adapter_config.json", role=side.role).items():
        if key not in known and (value is True or (isinstance(value, (dict, list)) and value)):
            raise ModelLoadError(
                f"{side.role}: {side.folder}/adapter_config.json sets {safe_line(key)}, which the "
                "installed peft does not know and would leave out; install a newer peft"
            )


@contextmanager
def _fitting(side: SidePlan, base: nn.Module) -> Iterator[None]:
    """Check an adapter's shapes, and name the module that its base lacks if loading inside fails.

    Raises `ModelLoadError` if its matrices do not fit the base or its own config. A name that the
    base does not have is no error by itself, because the experts of a mixture had modules of their
    own before transformers 5 and PEFT translates them.
    """
    unwrap: Any = getattr(base, "get_base_model", lambda: base)
    plain: Any = unwrap()
    modules, shapes = dict(_plain_modules(plain)), _shapes(side, plain)
    _check_ranks(side, shapes)
    problems = [_shape_problem(key, shape, modules) for key, shape in shapes.items()]
    if problem := next(filter(None, problems), None):
        raise _misfit(side, problem)
    unknown = [name for key in shapes if (name := _adapted(key)) and name not in modules]
    try:
        yield
    except ModelLoadError as error:
        if not unknown:
            raise
        raise _misfit(side, f"it has no module {safe_line(unknown[0])}") from error


def _misfit(side: SidePlan, problem: str) -> ModelLoadError:
    assert side.base is not None  # `resolve_pair` gives each adapter its base
    named = side.named_base
    made = f" (the adapter names {safe_line(named)})" if named else ""
    return ModelLoadError(
        f"{side.role}: the adapter {side.folder} does not fit {side.base.role} {side.base.spec}"
        f"{made}: {problem}. Give the model that it was trained on as {setting('model_1')}."
    )


def _check_ranks(side: SidePlan, shapes: Shapes) -> None:
    """Raise `ModelLoadError` for ranks that would give matrices larger than any in the file."""
    assert side.folder is not None  # an adapter is a folder
    config = read_json_object(side.folder / "adapter_config.json", role=side.role)
    patterns = config.get("rank_pattern")
    ranks = [config.get("init_r", config.get("r"))]  # AdaLoRA has both, and uses the first
    ranks += patterns.values() if isinstance(patterns, dict) else ()
    firsts = [shape[0] for key, shape in shapes.items() if ".lora_A" in key and shape]
    most = max(firsts or (max(shape, default=0) for shape in shapes.values()), default=0)
    for rank in ranks:
        if most and isinstance(rank, int) and rank > most:
            raise ModelLoadError(
                f"{side.role}: {side.folder}/adapter_config.json sets a rank of {rank:.4g}, and "
                f"its weights have at most {most}; give the config that belongs to them"
            )


def _shapes(side: SidePlan, plain: nn.Module) -> Shapes:
    """Shapes of an adapter's tensors, without those for parts that its base was loaded without."""
    folder: Path | None = side.folder
    assert folder is not None  # an adapter is a folder
    try:
        shapes = stored_shapes(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"{side.role}: {folder}/{WEIGHTS}: {error}") from error
    parts = plain.left_out if isinstance(plain, TextModel) else ()
    return {
        key: shape
        for key, shape in shapes.items()
        if not is_in_part(key.removeprefix(PREFIX), parts)
    }


def _shape_problem(key: str, shape: tuple[int, ...], modules: dict[str, nn.Module]) -> str | None:
    for part, axis, sizes in (
        (".lora_A.", 1, ("in_features", "num_embeddings")),
        (".lora_B.", 0, ("out_features", "embedding_dim")),
    ):
        if part not in key or len(shape) <= axis:
            continue
        name = _adapted(key) or ""
        if name not in modules:
            continue
        size = next((getattr(modules[name], s) for s in sizes if hasattr(modules[name], s)), None)
        if isinstance(size, int) and size != shape[axis]:
            lora = part.strip(".")
            return f"{safe_line(name)} has {size} features, the adapter's {lora} has {shape[axis]}"
    return None


def _adapted(key: str) -> str | None:
    """The name of the module that a LoRA matrix adapts; None for other tensors."""
    name, found, _ = key.removeprefix(PREFIX).partition(".lora_")
    # Adapters of several parameters of one module are nested.
    while name.endswith(WRAPPED):
        name = name.removesuffix(WRAPPED)
    return name if found else None


def _plain_modules(module: Any, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of a base by the names that they have without an adapter."""
    while type(module).__module__.split(".")[0] == "peft":
        inner = getattr(module, "base_layer", None)
        module = inner if inner is not None else getattr(module, "original_module", None)
    if module is None:
        return
    yield name, module
    for part, child in module.named_children():
        yield from _plain_modules(child, f"{name}.{part}" if name else part)


def _tensors(modules: dict[str, nn.Module]) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers of modules, by their names in the base."""
    for place, module in modules.items():
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        yield from ((f"{place}.{name}" if place else name, tensor) for name, tensor in own)


@torch.no_grad()
def _digests(modules: dict[str, nn.Module]) -> dict[str, bytes]:
    """sha256 of each tensor's bytes; tensors that share their memory are read once."""
    tensors = dict(_tensors(modules))
    once = {id(tensor): tensor for tensor in tensors.values()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(zip(once, pool.map(_digest, once.values()), strict=True))
    return {name: found[id(tensor)] for name, tensor in tensors.items()}


def _digest(tensor: Tensor) -> bytes:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for part in _parts(tensor):
        digest.update(part.detach().contiguous().flatten().view(torch.uint8).cpu().numpy().data)
    return digest.digest()


def _parts(tensor: Any) -> Iterator[Tensor]:
    """The plain tensors that a tensor is made of: quantised ones hold several."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from _parts(getattr(tensor, name))
