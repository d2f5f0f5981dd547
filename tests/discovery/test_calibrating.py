"""Calibration reads each control once, for all that is asked of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_divergence.core.journal import Journal
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.calibrating import _measure, calibrate
from pytest_divergence.discovery.executors import InProcess
from pytest_divergence.discovery.naming import Amplified, amplified_answers, asked
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.units import WorkUnits
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.prompt_nll import prompt_nlls
from pytest_divergence.scoring.remeasuring import CONTROL_STREAM
from pytest_divergence.scoring.scorer import score_prompts
from tests.discovery.made_answers import MORE, TOPICS
from tests.models_in_memory import tiny_pair

PROMPTS = [f"Tell me about {topic}." for topic in (*TOPICS, *MORE)][:20]
LONG = "Why is that so? " * 20
SETTINGS = Settings()
PROFILE = PROFILES["smoke"].model_copy(
    update={
        "num_shipped_controls": len(PROMPTS) + 1,
        "num_written_controls": 0,
        "num_naming_prompts": 12,
    }
)


def test_controls_are_answered_from_amplified_logits_too(units: WorkUnits, pair: ModelPair) -> None:
    found = calibrate(units, SETTINGS, PROFILE, [*PROMPTS, LONG], Silence())

    answers = amplified_answers(pair, PROMPTS[:12], PROFILE.search_length)
    plain = {one.text: one.reference for one in found.controls}
    assert len(found.controls) == len(PROMPTS) + 1
    assert found.amplified == [
        Amplified(text, plain[text], said) for text, said in zip(PROMPTS[:12], answers, strict=True)
    ]


def test_a_model_and_itself_have_nothing_to_amplify(tmp_path: Path) -> None:
    same = tiny_pair(perturb=0.0)
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        units = WorkUnits(InProcess(journal, lambda: same))

        assert calibrate(units, SETTINGS, PROFILE, PROMPTS, Silence()).amplified == []


def test_each_model_reads_a_control_once() -> None:
    """Scores, naturalness and amplified answers say what they say apart, for fewer tokens."""
    named = asked(PROMPTS, PROFILE)
    pair, apart = tiny_pair(), tiny_pair()
    together = _measure(PROMPTS, frozenset(named), SETTINGS, PROFILE, pair)

    scores = score_prompts(
        apart,
        PROMPTS,
        num_continuations=PROFILE.num_continuations,
        max_new_tokens=PROFILE.continuation_length,
        seed=row_seed(SETTINGS.seed, CONTROL_STREAM),
    )
    nlls = prompt_nlls(apart, apart.reference, PROMPTS)
    answers = amplified_answers(apart, named, PROFILE.search_length)

    assert together["nlls"] == pytest.approx(nlls, rel=1e-6)
    for row, score in zip(together["controls"], scores, strict=True):
        assert row["measurement"]["value"] == pytest.approx(score.measurement.value, rel=1e-5)
    assert [row["amplified"] for row in together["controls"][:12]] == answers
    num_tokens = [len(body) for _, body in apart.prompt_rows(PROMPTS)]
    read_again = sum(num_tokens) + 2 * sum(num_tokens[:12])
    assert pair.tokens_forwarded == apart.tokens_forwarded - read_again
