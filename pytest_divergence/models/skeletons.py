"""A model without its weights: names and shapes of its modules, built from a config alone.

It takes no memory for tensors, so it is built first: the sizes that a config describes are compared
with those of the files before transformers allocates anything.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.folder_files import model_shapes, num_stored
from pytest_divergence.models.load_plan import SidePlan
from pytest_divergence.models.transformers_log import quiet_transformers

SLACK = 2
"""Most numbers of a model per stored number: a table may be used in two places."""
QUANTISED_SLACK = 32
"""Most numbers of a quantised model per stored number, which may pack many weights."""
SLACK_BUFFERS = 2**28
"""Allowance for the numbers of masks and positions that a model computes for itself."""


def skeleton(side: SidePlan) -> PreTrainedModel:
    """The model of a folder, on torch's meta device.

    Raises `ModelLoadError` if the config describes far more numbers than the files hold.
    """
    with quiet_transformers(), side.load_errors(), torch.device("meta"):
        config = copy.deepcopy(side.config)  # a model writes to its config
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=False, attn_implementation="eager"
        )
    assert side.folder is not None  # what no plugin loads is a folder
    stored = num_stored(model_shapes(side.folder))
    is_quantised = getattr(config, "quantization_config", None) is not None
    most = stored * (QUANTISED_SLACK if is_quantised else SLACK)
    described, computed = _count(model.parameters()), _count(model.buffers())
    if stored and (described > most or computed > most + SLACK_BUFFERS):
        raise ModelLoadError(
            f"{side.role}: {side.spec} has a config.json that describes a model of "
            f"{described + computed:.3g} numbers, and its files hold {stored:.3g}; give the "
            "config that belongs to the weights"
        )
    return model


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
