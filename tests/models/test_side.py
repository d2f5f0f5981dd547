"""Every side reads and decodes; who needs gradients or weights is told where there are none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_divergence.core import settings as settings_module
from pytest_divergence.core.errors import MeasurementError, NoGradientError
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.report import Report
from pytest_divergence.core.setting_names import spelled_by
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.calibration import calibrate
from pytest_divergence.discovery.calibration_report import calibration_report
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.engines.in_process import InProcess
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.run import search
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.models.decoding import decode_amplified, decode_greedily, decode_sampled
from pytest_divergence.models.pair import ModelPair, with_gradients
from pytest_divergence.scoring.cheap_scores import screen
from pytest_divergence.scoring.scorer import score_prompts
from pytest_divergence.scoring.sensitivity import injected_kls, measure_nuisance, nuisances_of
from pytest_divergence.scoring.token_comparison import compare_tokens
from tests.bare_side import bare_pair
from tests.discovery.test_run import PROFILE
from tests.models_in_memory import tiny_pair

PROMPTS = ("How do I tie a knot?", "Write a poem about rain.", "Why?")
BODIES = [torch.arange(20, 23), torch.arange(30, 50), torch.tensor([9])]
PREFIX = (1, 87, 85)
NO_GRADIENTS = (
    'the candidate ("tiny/ft") gives no gradients for its inputs, which soft prompts are '
    "trained with; give a model folder or a Hub id for --model-2, or search without training: the "
    "other strategies need no gradients"
)
NO_WEIGHTS = (
    'the reference ("tiny/base") has no weights here, so its attention, dtype and device cannot be '
    "switched and no noise can be added to them; give a model folder or a Hub id for --model-1, or "
    "search: a search measures the noise floor and the typical shift without weights"
)


@pytest.fixture(scope="module")
def loaded() -> ModelPair:
    return tiny_pair().with_names(("tiny/base", "folder"), ("tiny/ft", "folder"))


@pytest.fixture(scope="module")
def bare(loaded: ModelPair) -> ModelPair:
    return bare_pair(loaded)


def test_it_decodes_the_same_tokens_and_measures_the_same_numbers(
    loaded: ModelPair, bare: ModelPair
) -> None:
    options: Any = {"prefix": PREFIX, "max_new_tokens": 6, "stop_ids": frozenset({2})}
    spent = [pair.tokens_forwarded for pair in (loaded, bare)]
    written = [
        (
            decode_greedily(pair.candidate, BODIES, **options),
            decode_sampled(pair.candidate, BODIES, seeds=[1, 2, 3], **options),
            [row.ids for row in decode_amplified(*pair.sides, BODIES, alpha=3.0, **options)],
        )
        for pair in (loaded, bare)
    ]
    assert written[0] == written[1]
    assert loaded.tokens_forwarded - spent[0] == bare.tokens_forwarded - spent[1] > 0

    ours, theirs = (
        score_prompts(pair, PROMPTS, num_continuations=2, max_new_tokens=6)
        for pair in (loaded, bare)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.continuations == other.continuations
        for key in ("value", "forward", "reverse", "js", "sd", "max_token", "num_tokens"):
            value, expected = getattr(mine.measurement, key), getattr(other.measurement, key)
            assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)
    numbers = [
        [one.forward_kl for one in compare_tokens(pair, PROMPTS[0], (20, 30, 40))]
        + [one.promise for one in screen(pair, PROMPTS, metric="symmetric", aim="the answer")]
        for pair in (loaded, bare)
    ]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-4)


def test_its_controls_read_alike(loaded: ModelPair, bare: ModelPair, tmp_path: Path) -> None:
    found = []
    for number, pair in enumerate((loaded, bare)):
        with Journal.open(tmp_path / f"{number}.jsonl", key="k") as journal:
            ledger = Ledger(InProcess(journal, partial(_same, pair), Silence(), tmp_path))
            found.append(calibrate(ledger, PROFILE, PROMPTS, Silence(), metric="symmetric", seed=0))

    ours, theirs = found
    assert [one.text for one in ours.controls] == [one.text for one in theirs.controls]
    assert len(ours.controls) > len(PROMPTS)  # those that the reference writes too
    assert ours.shift.values == pytest.approx(theirs.shift.values, rel=1e-4, abs=1e-6)
    assert ours.nll_limit == pytest.approx(theirs.nll_limit, rel=1e-5)


@pytest.mark.slow
def test_a_search_goes_on_without_soft_prompts(
    tiny_models: Path, bare: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings_module.PROFILES, "smoke", PROFILE)
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "cache"))
    settings = Settings(
        model_1=str(tiny_models / "base"), model_2=str(tiny_models / "ft"), profile="smoke"
    )
    said: list[str] = []
    reports: list[Report] = []

    class Listener(Silence):
        def say(self, line: str) -> None:
            said.append(line)

    search(
        settings,
        root=tmp_path,
        load_pair=lambda: bare,
        listener=Listener(),
        on_report=lambda report, _: reports.append(report),
    )

    assert (
        "no gradient reaches the inputs of the reference and the candidate, as in some quantised "
        "models: soft prompts are skipped, and the other strategies continue"
    ) in said
    proposed = {one.name: one.num_proposals for one in reports[-1].strategies}
    assert proposed["soft_prompt"] == 0
    assert min(proposed[name] for name in ("seeds", "self_prompt", "amplified")) > 0
    assert reports[-1].errors == []
    assert len(reports[-1].cases) == PROFILE.num_cases


def test_the_model_without_gradients_is_named(loaded: ModelPair, bare: ModelPair) -> None:
    with spelled_by(flag), pytest.raises(NoGradientError) as caught:
        with_gradients(bare, bare.candidate)

    assert str(caught.value) == NO_GRADIENTS
    assert with_gradients(loaded, loaded.candidate) is loaded.candidate
    config = TrainingConfig(num_steps=1, num_virtual_tokens=2)
    with pytest.raises(NoGradientError, match=r"tiny/base.* gives no gradients"):
        train_soft_prompt(bare, config, PROMPTS)


def test_a_calibration_is_refused(bare: ModelPair, tmp_path: Path, tiny_models: Path) -> None:
    settings = Settings(model_1=str(tiny_models / "base"), model_2=str(tiny_models / "ft"))

    with spelled_by(flag), pytest.raises(MeasurementError) as caught:
        calibration_report(settings, root=tmp_path, load_pair=lambda: bare, listener=Silence())

    assert str(caught.value) == NO_WEIGHTS


def test_what_switches_weights_is_refused(loaded: ModelPair, bare: ModelPair) -> None:
    given = PROMPTS, [(20, 30, 40)] * len(PROMPTS)

    with pytest.raises(MeasurementError, match="has no weights here"):
        measure_nuisance(bare, "dtype", "bfloat16", *given)
    with pytest.raises(MeasurementError, match="has no weights here"):
        injected_kls(bare, [], {}, size=0.1, seed=0, metric="symmetric")
    # A calibration switches the reference alone.
    assert nuisances_of(replace(loaded, candidate=bare.candidate)) == nuisances_of(loaded)


def _same(pair: ModelPair) -> ModelPair:
    return pair


def flag(field: str) -> str:
    return f"--{field.replace('_', '-')}"
