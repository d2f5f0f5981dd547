"""The text model inside a checkpoint with encoders of images, video or sound.

transformers builds all parts of such a checkpoint. Here the encoders are removed before weights are
read, so their weights are never read, and every other module keeps its name, so adapters of the
whole model still fit. If transformers also has a class of the text alone, an adapter may have been
trained on either; the names of its tensors tell which (`pytest_divergence.models.skeletons`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

ROOT = "model."
"""Prefix of module names; checkpoints from before transformers 4.52 lack it."""

if TYPE_CHECKING:
    Mixed = PreTrainedModel
else:
    Mixed = object


class TextModel(Mixed):
    """Mixin for a class of transformers: removes every encoder but the text's from its model."""

    left_out: tuple[str, ...]
    """Names of the removed modules."""

    def __init__(self, config: PreTrainedConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        # Only whole models: the modules that join them to the text may run on text.
        self.left_out = tuple(_outside_text(self, PreTrainedModel))
        for name in self.left_out:
            parent, _, own = name.rpartition(".")
            setattr(self.get_submodule(parent), own, None)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return the whole model's output for text, from its text model if that has a head."""
        decoder: Any = self.get_decoder()  # type: ignore[no-untyped-call]
        has_head = decoder is not self and decoder.get_output_embeddings() is not None
        return decoder(*args, **options) if has_head else super().forward(*args, **options)

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
        """Return a model without weights; transformers' own Auto classes have this method too."""
        options.pop("trust_remote_code", None)
        model: PreTrainedModel = cls._from_config(config, **options)  # type: ignore[no-untyped-call]
        return model


def text_loaders(config: PreTrainedConfig) -> list[Any]:
    """Return the classes that can load a config's text model; at least one.

    Each has `from_config` and `from_pretrained`. The first is transformers' own choice; an adapter
    may need another one.
    """
    text = config.get_text_config()
    if text is config:
        return [AutoModelForCausalLM]
    found: dict[Any, None] = {}
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING):
        kind: Any = mapping.get(type(config), None)
        if kind is not None:
            found[AutoModelForCausalLM if _is_of_text(kind, config) else _text_model(kind)] = None
    return list(found) or [AutoModelForCausalLM]


def bare_model(loader: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """Return the model that a loader builds from a config, on torch's meta device."""
    config = copy.deepcopy(config)  # a model writes to its config
    text, mapping = config.get_text_config(), MODEL_FOR_CAUSAL_LM_MAPPING
    # Newer versions of transformers do this themselves.
    is_text = type(text) in mapping and _is_of_text(mapping.get(type(config), None), config)
    if loader is AutoModelForCausalLM and is_text:
        config = text
    with torch.device("meta"):
        model: PreTrainedModel = loader.from_config(
            config,
            trust_remote_code=False,
            attn_implementation="eager",
        )
    return model


def parts_left_out(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the names of a checkpoint's modules outside its text model."""
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if kind is None or config.get_text_config() is config:
        return ()
    model: Any = bare_model(_text_model(kind), config)
    return (*model.left_out, *_outside_text(model, nn.Module))


def left_out_note(role: str, parts: tuple[str, ...]) -> str | None:
    """Return the note that a checkpoint is compared without such parts; None if it has none."""
    if not parts:
        return None
    return f"{role} is compared as a model of text, without its {' and '.join(parts)}"


def is_in_part(key: str, parts: tuple[str, ...]) -> bool:
    """Return whether the name of a tensor of a checkpoint or a model is inside one of the parts."""
    name = f"{key.removeprefix(ROOT)}."
    return any(name.startswith(f"{part.removeprefix(ROOT)}.") for part in parts)


def _is_of_text(kind: Any, config: PreTrainedConfig) -> bool:
    """Whether a class is the text model of a config that also describes other parts."""
    text = config.get_text_config()
    return text is not config and getattr(kind, "config_class", None) is type(text)


@cache
def _text_model(kind: type[PreTrainedModel]) -> type[TextModel]:
    # transformers decides by a class's name and module what it supports.
    return type(kind.__name__, (TextModel, kind), {"__module__": kind.__module__})


def _outside_text(model: Any, kind: type[nn.Module]) -> Iterator[str]:
    """Names of the outermost modules of a kind that share no module with the text model."""
    text = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    text = [module for module in text if module is not None]
    inside = {module for part in text for module in part.modules()}
    found = ""
    for name, module in model.named_modules():
        is_found = bool(found) and name.startswith(f"{found}.")
        if is_found or module in inside or not isinstance(module, kind):
            continue
        if next(module.parameters(), None) is None or not inside.isdisjoint(module.modules()):
            continue
        found = name
        yield name
