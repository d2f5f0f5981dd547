"""Every search, and every replay that writes a report, becomes a run in TensorBoard.

Copy it into the root folder of your project; it needs `pip install tensorboard`. Then

    pytest --model-1 owner/base --model-2 path/to/finetuned
    tensorboard --logdir .divergence/tensorboard

Set TENSORBOARD_DIR to keep the runs elsewhere. Numbers only: no prompt and no answer is written.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_divergence.core.report import Report


@pytest.hookimpl(optionalhook=True)
def pytest_divergence_report(config: pytest.Config, report: Report) -> None:
    """Write the report's curves, distributions and counts."""
    import torch
    from torch.utils.tensorboard import SummaryWriter

    folder = os.environ.get("TENSORBOARD_DIR") or config.rootpath / ".divergence" / "tensorboard"
    with SummaryWriter(os.path.join(folder, report.run.id)) as writer:
        for point in report.search_curve:
            writer.add_scalar("search/best_kl", point.best_kl, point.tokens_forwarded)
        for restart in report.training:
            for step, loss in enumerate(restart.loss):
                writer.add_scalar(f"training/{restart.name}/loss", loss, step)
        values = [case.kl.value for case in report.cases if case.kl is not None]
        if values:
            writer.add_histogram("cases/kl", torch.tensor(values))
        for verdict, count in report.verdict_counts.items():
            writer.add_scalar(f"cases/{verdict}", count)
        if report.calibration.bound is not None:
            writer.add_scalar("bound", report.calibration.bound.value)
