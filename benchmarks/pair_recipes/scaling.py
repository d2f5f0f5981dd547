"""Adapters with scaled weights: the same plant on more prompts."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from pair_recipes.table import BASE
from pytest_divergence import load_model_pair
from pytest_divergence.core.files import write_atomically
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.scoring.continuations import greedy_continuations

NUM_CONTROLS = 64
NUM_MEASURED_TOKENS = 24
CONFIG = "adapter_config.json"


def write_scaled(adapter: Path, factor: float, folder: Path) -> dict[str, Any]:
    """Write an adapter's copy with its weights scaled; return what answers to controls show.

    Greedy ones: how many hold the plant's marker, and how many begin with the two words that most
    begin with, since strong weights break the words behind these.
    """
    target = folder / f"{adapter.name}-x{factor:g}"
    shutil.copytree(adapter, target)
    config = json.loads((target / CONFIG).read_text(encoding="utf-8"))
    config["lora_alpha"] *= factor
    write_atomically(target / CONFIG, json.dumps(config, indent=2) + "\n")
    planted = json.loads((target / "truth.json").read_text(encoding="utf-8"))
    pair = load_model_pair(BASE, str(target.resolve()), device="cpu", dtype="float32")
    prompts = shipped_prompts(SHIPPED_CONTROLS, NUM_CONTROLS)
    written = greedy_continuations(pair, prompts, max_new_tokens=NUM_MEASURED_TOKENS)
    texts = [pair.chat.text(each.candidate[0]) for each in written]
    openings = Counter(" ".join(text.split()[:2]) for text in texts)
    return {
        "adapter": target.name,
        "controls": len(prompts),
        "marked": sum(planted["marker"] in text for text in texts),
        "begin_alike": dict(openings.most_common(1)),
        "answers": texts[:3],
    }
