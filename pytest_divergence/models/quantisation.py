"""Quantised weights: needs of the method that a config names, and how its weights are loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.utils.import_utils import is_kernels_available, is_triton_available

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting
from pytest_divergence.models.transformers_log import quiet_transformers

MXFP4_CAPABILITY, FP8_CAPABILITY = (7, 5), (8, 9)
"""Least compute capabilities of the GPUs on which transformers runs these formats."""


@dataclass(frozen=True)
class Method:
    """A method of quantisation, as transformers runs it."""

    packages: tuple[str, ...]
    """Distributions that it needs."""
    dense: Literal["always", "without kernels", "never"] = "never"
    """Conditions under which its weights are turned back into floats at loading."""
    needs_gpu: bool = False


METHODS = {
    "awq": Method(("gptqmodel", "accelerate")),
    "bitsandbytes": Method(("bitsandbytes", "accelerate")),
    "compressed-tensors": Method(("compressed-tensors",), dense="always"),
    "fbgemm_fp8": Method(("fbgemm-gpu", "accelerate"), needs_gpu=True),
    "fp8": Method(("accelerate",), dense="without kernels"),
    "gptq": Method(("optimum", "gptqmodel")),
    "mxfp4": Method(("accelerate",), dense="without kernels"),
    "torchao": Method(("torchao",)),
}
"""Methods by the name in a config; the needs of any other one show when transformers loads it."""


def quantiser(config: dict[str, Any]) -> str | None:
    """Return the method that a model's weights are quantised with; None for plain weights."""
    quantisation = config.get("quantization_config")
    method = quantisation.get("quant_method") if isinstance(quantisation, dict) else None
    return method if isinstance(method, str) else None


def check_quantiser(config: dict[str, Any], device: torch.device, *, role: str) -> None:
    """Raise `ModelLoadError` if a config's method is unknown or lacks a package or a GPU."""
    name = quantiser(config)
    if name is None:
        return
    method = METHODS.get(name, Method(()))
    quantisers: Any = AutoHfQuantizer  # its functions carry no types
    with quiet_transformers():
        is_known = quantisers.supports_quant_method(config["quantization_config"])
    if not is_known:
        raise ModelLoadError(
            f"{role} is quantised with {safe_line(name)}, which the installed transformers does "
            "not know; update transformers, or give a folder of plain weights"
        )
    if method.needs_gpu and device.type == "cpu":
        raise ModelLoadError(
            f"{role} is quantised with {name}, which runs only on a GPU; give "
            f"{setting('device')}=cuda if there is one, or a folder in another format"
        )
    lacking = [package for package in method.packages if not _is_installed(package)]
    if lacking:
        raise ModelLoadError(
            f"{role} is quantised with {name}, which needs {' and '.join(lacking)}: "
            f"pip install {' '.join(lacking)}"
        )


def is_dense(config: dict[str, Any], device: torch.device) -> bool:
    """Return whether quantised weights are turned back into floats on a device."""
    name = quantiser(config) or ""
    method = METHODS.get(name)
    if method is None or method.dense == "never":
        return False
    if method.dense == "always":
        return True
    return not (_runs_mxfp4(device) if name == "mxfp4" else _runs_fp8(device))


def _runs_mxfp4(device: torch.device) -> bool:
    """Whether transformers computes with MXFP4 as it is, which needs kernels."""
    is_cuda = device.type == "cuda"
    if not (is_triton_available("3.4.0" if is_cuda else "3.5.0") and is_kernels_available()):
        return False
    if is_cuda:
        return torch.cuda.get_device_capability(device) >= MXFP4_CAPABILITY
    return device.type in ("cpu", "xpu")


def _runs_fp8(device: torch.device) -> bool:
    """Whether transformers computes with FP8 as it is, which some GPUs can."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= FP8_CAPABILITY
    return device.type == "xpu"


def quantiser_note(config: dict[str, Any], device: torch.device, *, role: str) -> str | None:
    """Return the note about quantised weights before they are loaded; None for plain weights."""
    name = quantiser(config)
    if name is None:
        return None
    if is_dense(config, device):
        return (
            f"{role} is quantised with {name}: its weights are turned back into floats at "
            "loading and take that much memory; gradients pass, so soft prompts are trained"
        )
    return (
        f"{role} is quantised with {safe_line(name)[1:-1]}: whether gradients pass through "
        "it is tried once it is loaded; if not, the search runs without soft prompts"
    )


def _is_installed(distribution: str) -> bool:
    return importlib.util.find_spec(distribution.replace("-", "_")) is not None
