"""The text model inside a checkpoint that holds more: encoders of images, of video, of sound.

transformers' class of such a checkpoint builds all of it. Here the encoders are taken out before
weights are read, so that theirs never are, and every other module keeps its name: adapters of the
whole model find theirs. Where transformers has a class of the text alone too, an adapter may have
been trained on either, which its names tell (`pytest_divergence.models.skeletons`).
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
"""Before the name of a module, or not: checkpoints of before transformers 4.52 lack it."""

if TYPE_CHECKING:
    Mixed = PreTrainedModel
else:
    Mixed = object


class TextModel(Mixed):
    """Mixed into a class of transformers: its model without encoders of anything but text."""

    left_out: tuple[str, ...]
    """Names of the modules that are not there."""

    def __init__(self, config: PreTrainedConfig, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        # A model of its own inside the model: what only joins it to the text may run on any text.
        self.left_out = tuple(_outside_text(self, PreTrainedModel))
        for name in self.left_out:
            parent, _, own = name.rpartition(".")
            setattr(self.get_submodule(parent), own, None)

    def forward(self, *args: Any, **options: Any) -> Any:
        """Return what the whole model gives for text, by its text model where that has a head."""
        decoder: Any = self.get_decoder()  # type: ignore[no-untyped-call]
        has_head = decoder is not self and decoder.get_output_embeddings() is not None
        return decoder(*args, **options) if has_head else super().forward(*args, **options)

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
        """Return a model without weights, as transformers' own Auto classes do."""
        options.pop("trust_remote_code", None)
        model: PreTrainedModel = cls._from_config(config, **options)  # type: ignore[no-untyped-call]
        return model


def text_loaders(config: PreTrainedConfig) -> list[Any]:
    """Return what loads a config's text, by `from_config` and `from_pretrained`; at least one.

    The first is transformers' own choice; names of an adapter may ask for another one.
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
    """Return the model that a loader makes of a config, on torch's meta device."""
    config = copy.deepcopy(config)  # a model writes to its config
    text, mapping = config.get_text_config(), MODEL_FOR_CAUSAL_LM_MAPPING
    # As newer versions of transformers do by themselves.
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
    """Return the names of the modules that a checkpoint of a config holds besides the text's."""
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    if kind is None or config.get_text_config() is config:
        return ()
    model: Any = bare_model(_text_model(kind), config)
    return (*model.left_out, *_outside_text(model, nn.Module))


def left_out_note(role: str, parts: tuple[str, ...]) -> str | None:
    """Return what is said of a checkpoint with such parts; None where it has none."""
    if not parts:
        return None
    return f"{role} is compared as a model of text, without its {' and '.join(parts)}"


def is_in_part(key: str, parts: tuple[str, ...]) -> bool:
    """Return whether a tensor of a checkpoint or a model is in one of the parts, by its name."""
    name = f"{key.removeprefix(ROOT)}."
    return any(name.startswith(f"{part.removeprefix(ROOT)}.") for part in parts)


def _is_of_text(kind: Any, config: PreTrainedConfig) -> bool:
    """Whether a class is of the text alone that a config holds beside other parts."""
    text = config.get_text_config()
    return text is not config and getattr(kind, "config_class", None) is type(text)


@cache
def _text_model(kind: type[PreTrainedModel]) -> type[TextModel]:
    # transformers looks at the name and the module of a class for what it can do.
    return type(kind.__name__, (TextModel, kind), {"__module__": kind.__module__})


def _outside_text(model: Any, kind: type[nn.Module]) -> Iterator[str]:
    """Names of outermost modules of a kind that neither hold, nor stand in, what reads text."""
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
