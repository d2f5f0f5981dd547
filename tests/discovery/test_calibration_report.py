"""A whole calibration in memory: what could not be measured is said, and tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.calibration_record import CalibrationReport
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.calibration_report import calibration_report
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from tests.models_in_memory import local

SMALL = PROFILES["smoke"].model_copy(
    update={"num_shipped_controls": 8, "num_written_controls": 0, "continuation_length": 4}
)


@pytest.fixture(autouse=True)
def _small_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings_module.PROFILES, "smoke", SMALL)


@pytest.fixture
def settings(tiny_models: Path) -> Settings:
    return Settings(model_1=str(tiny_models / "base"), model_2=str(tiny_models / "ft"))


@pytest.fixture
def pair(settings: Settings) -> ModelPair:
    return load_model_pair(str(settings.model_1), str(settings.model_2))


def report(settings: Settings, pair: ModelPair, root: Path) -> CalibrationReport:
    return calibration_report(settings, root=root, load_pair=lambda: pair, listener=Silence())


def test_a_lack_of_memory_costs_one_row_and_is_tried_again(
    settings: Settings, pair: ModelPair, tmp_path: Path
) -> None:
    model: Any = local(pair.reference).model

    def full(module: Any, arguments: Any) -> None:
        if next(module.parameters()).dtype == torch.bfloat16:
            raise MemoryError

    hook = model.register_forward_pre_hook(full)
    first = report(settings, pair, tmp_path)
    hook.remove()
    second = report(settings, pair, tmp_path)
    third = report(settings, pair, tmp_path)

    rows = [{one.setting: one.reason for one in each.nuisances} for each in (first, second, third)]
    assert rows[0] == {"eager": None, "bfloat16": "out of memory", "float16": None}
    assert rows[1] == rows[2] == {"eager": None, "bfloat16": None, "float16": None}
    assert [one.is_cached for one in (first, second, third)] == [False, False, True]
    assert first.planted == second.planted == third.planted


def test_a_planted_change_that_breaks_the_model_has_no_value(
    settings: Settings, pair: ModelPair, tmp_path: Path
) -> None:
    """NaN is over no bound and under none."""
    model: Any = local(pair.reference).model
    own = model.lm_head.weight.detach().clone()

    def overflow(module: Any, arguments: Any, output: Any) -> None:
        if not torch.equal(module.lm_head.weight, own):
            output.logits.fill_(float("nan"))

    model.register_forward_hook(overflow)
    found = report(settings, pair, tmp_path)

    assert {one.reason for one in found.planted} == {"its logits are not numbers (NaN or infinite)"}
    assert not any(one.values for one in found.planted)
    assert found.smallest_caught is None


def test_few_controls_measure_fewer_times_and_the_count_says_so(
    settings: Settings, pair: ModelPair, tmp_path: Path
) -> None:
    found = report(settings, pair, tmp_path)

    assert found.noise_floor.num_measurements == 6 * 8
    assert {one.num_measurements for one in found.nuisances} == {8}
