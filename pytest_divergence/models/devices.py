"""Where a model's weights are: on one device, or spread over all there are by accelerate.

Does not load anything (`pytest_divergence.models.loading`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_divergence.core.errors import ModelLoadError

if TYPE_CHECKING:
    from pytest_divergence.models.resolved import ResolvedSpec


@dataclass(frozen=True)
class Placement:
    """One model's place: `device`, or by `is_spread` GPUs first, then the CPU, then the disk."""

    device: torch.device
    is_spread: bool = False

    @property
    def loading_options(self) -> dict[str, object]:
        """What transformers is told when it loads the model."""
        return {"device_map": "auto"} if self.is_spread else {}

    def moved(self, model: PreTrainedModel) -> PreTrainedModel:
        """The loaded model in its place."""
        if self.is_spread:
            return model
        moved: Any = model  # `to` is typed for a wider class
        return cast("PreTrainedModel", moved.to(self.device))


def placements(
    specs: tuple[ResolvedSpec, ResolvedSpec], device: torch.device
) -> tuple[Placement, Placement]:
    """Where both models go: as each spec says, else on the session's `device`.

    Raises `ModelLoadError` for a device that is not there, without accelerate where it is needed,
    and where an adapter is to be elsewhere than its base.
    """
    reference, candidate = specs
    first = _placement(reference.full_model, device)
    if not candidate.is_adapter or candidate.spec.base is not None:
        return first, _placement(candidate.full_model, device)
    for option in ("device", "device_map"):
        if getattr(candidate.spec, option) is not None:
            raise ModelLoadError(
                f"{candidate.role} is an adapter, which runs where its base does; give {option} "
                f"with {reference.role}"
            )
    return first, first


def _placement(resolved: ResolvedSpec, device: torch.device) -> Placement:
    spec = resolved.spec
    if spec.device_map is not None:
        if spec.device_map != "auto" or spec.device is not None:
            raise ModelLoadError(
                f"{resolved.role}: device_map={spec.device_map} must be auto, and stand without "
                "device"
            )
        if importlib.util.find_spec("accelerate") is None:
            raise ModelLoadError(
                f"{resolved.role}: device_map=auto needs accelerate: "
                "pip install 'pytest-divergence[accelerate]'"
            )
        return Placement(device, is_spread=True)
    if spec.device is None:
        return Placement(device)
    return Placement(usable_device(spec.device, option=f"{resolved.role}: device"))


def usable_device(name: str, *, option: str) -> torch.device:
    """The device of that name; raises `ModelLoadError` naming the option where it is not there."""
    try:
        chosen = torch.device(name)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(
            f"{option}={name} is not usable here: {str(error).splitlines()[0]}"
        ) from error
    return chosen


def check_is_whole(base: PreTrainedModel, *, role: str) -> None:
    """Raise `ModelLoadError` where an adapter's base is not in the memory of its devices."""
    if any(weight.is_meta for weight in base.parameters()):
        raise ModelLoadError(
            f"{role} is an adapter, and its base did not fit: accelerate left part of it on the "
            "CPU or on disk, where an adapter cannot be checked. Load it in fewer bytes "
            "(dtype=bfloat16), or work the adapter into a full model with merge_and_unload()"
        )


def present_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All weights by name, read one at a time where accelerate keeps them elsewhere."""
    for name, weight in model.state_dict().items():
        if not weight.is_meta:
            yield name, weight
            continue
        from accelerate.utils import align_module_device

        place, _, own = name.rpartition(".")
        module = model.get_submodule(place)
        with align_module_device(module):
            yield name, getattr(module, own)
