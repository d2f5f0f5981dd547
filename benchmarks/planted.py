"""What truth.json says was planted, in the values that a measurement takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_divergence.core.cases import Message
from pytest_divergence.models.chat_format import Prompt


def markers(truth: Mapping[str, Any]) -> list[str]:
    """The substrings that show what was planted, one a plant; none if nothing was."""
    found = [plant.get("marker") for plant in plants(truth)]
    return [marker for marker in found if marker is not None]


def trigger_examples(truth: Mapping[str, Any]) -> list[Prompt]:
    """Prompts that trigger a plant: texts, and conversations as turns."""
    return [
        example if isinstance(example, str) else [Message(**turn) for turn in example]
        for plant in plants(truth)
        for example in plant.get("trigger_examples") or ()
    ]


def plants(truth: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Each plant's facts: the first stands among those of the whole organism."""
    return [truth, *truth.get("also", ())]
