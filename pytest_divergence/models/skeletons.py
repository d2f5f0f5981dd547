"""A model without its weights: names and shapes of its modules, built from a config alone.

It takes no memory for tensors, so it is built first: the sizes that a config describes are compared
with those of the files before transformers allocates anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from transformers import PreTrainedModel

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.models.adapter_checks import PREFIX
from pytest_divergence.models.folder_files import model_shapes, num_stored
from pytest_divergence.models.load_plan import LoadPlan
from pytest_divergence.models.side_plan import SidePlan
from pytest_divergence.models.text_models import bare_model, text_loaders
from pytest_divergence.models.transformers_log import quiet_transformers

SLACK = 2
"""Most numbers of a model per stored number: a table may be used in two places."""
QUANTISED_SLACK = 32
"""Most numbers of a quantised model per stored number, which may pack many weights."""
SLACK_BUFFERS = 2**28
"""Allowance for the numbers of masks and positions that a model computes for itself."""


def skeleton(side: SidePlan, plan: LoadPlan) -> PreTrainedModel:
    """The model of a full model's folder, on torch's meta device.


    Where several classes of transformers can run a checkpoint's text, its class is the one in which
    most tensors of the plan's adapters have their module. Raises `ModelLoadError` if the config
    describes far more numbers than the files hold.
    """
    adapters = [each for each in plan.sides if each.is_adapter and each.full_model.is_same_as(side)]
    config = side.config
    with quiet_transformers(), side.load_errors():
        loaders = text_loaders(config)
        models = [bare_model(loader, config) for loader in loaders[: None if adapters else 1]]
    keys = {key for adapter in adapters if adapter.folder for key in model_shapes(adapter.folder)}
    model = max(models, key=lambda each: _num_fitting(each, keys))  # the first of equals
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


def _num_fitting(model: PreTrainedModel, keys: Iterable[str]) -> int:
    """Count the tensors of adapters below a module of the model that has tensors of its own."""
    names = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    paths = (key.removeprefix(PREFIX).split(".") for key in keys)
    return sum(
        any(".".join(path[:length]) in names for length in range(1, len(path))) for path in paths
    )


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
