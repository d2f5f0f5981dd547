"""Datasets of divergent prompts: their rows and their two files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.evaluation import PromptEvaluation, passing
from pytest_divergence.core.store import write_together
from pytest_divergence.core.suites import strict_dumps


def dataset_rows(
    evaluated: Sequence[PromptEvaluation],
    *,
    min_metrics: Mapping[str, float],
    max_metrics: Mapping[str, float],
) -> list[dict[str, Any]]:
    """One row {prompt, generation, metrics} a generation of model 2, the most divergent first.

    A row's perplexities are of its own generation, its other metrics of the prompt. Rows with a
    metric outside of the limits are left out. Raises `SettingsError` for a metric that there is
    not, and where no row is left.
    """
    rows: list[dict[str, Any]] = [
        {
            "prompt": one.prompt,
            "generation": generation.text,
            "metrics": {
                **one.metrics,
                "perplexity_1": generation.perplexity_1,
                "perplexity_2": generation.perplexity_2,
            },
        }
        for one in sorted(evaluated, key=lambda one: -one.metrics["kl_divergence"])
        for generation in one.generations_2
    ]
    kept = passing([row["metrics"] for row in rows], min_metrics, max_metrics)
    return [rows[index] for index in kept]


def write_dataset(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows for `torch.load`, and as JSON Lines beside.

    Raises `StoreError`, and `SettingsError` where both files would be one.
    """
    lines_path = path.with_suffix(".jsonl")
    if lines_path == path:
        raise SettingsError(
            f"output_file={path} is where the JSON Lines go; name the other file, such as "
            f"{path.with_suffix('.pt')}"
        )
    # torch.save is what readers of a .pt file expect; it holds plain containers only.
    buffer = io.BytesIO()
    torch.save(list(rows), buffer)
    lines = "".join(strict_dumps(row) + "\n" for row in rows)
    write_together({path: buffer.getvalue(), lines_path: lines.encode("utf-8")})
