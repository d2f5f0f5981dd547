"""Values of a model's config whose layers may differ from each other."""

from __future__ import annotations

from typing import Any


def values_of(config: Any, name: str) -> list[Any]:
    """Return the values of a key of a config: one for each layer where layers differ, else one.

    Of Gemma 4, transformers gives no single one. None: the config has no such key.
    """
    if name in (getattr(config, "per_layer_attributes", None) or ()):
        return [getattr(layer, name, None) for layer in config.per_layer_config]
    value = getattr(config, name, None)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def largest(config: Any, name: str) -> Any:
    """Return the largest value of a key over all layers; None if there is none."""
    return max((value for value in values_of(config, name) if value is not None), default=None)
