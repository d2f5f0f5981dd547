"""Calibration reads each control once, for all that is asked of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_divergence.core.behaviours import Behaviour, behaviour_id
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.settings import PROFILES, Profile, Settings
from pytest_divergence.discovery.behaviours.amplified_phrases import (
    amplified_answers,
    asked,
    mirrored_answers,
)
from pytest_divergence.discovery.calibration import (
    FIRST_CHUNK,
    Calibrated,
    Control,
    calibrate,
    is_ordinary,
    measure_controls,
)
from pytest_divergence.discovery.engines.base import Ledger, Take, UnitResult, Worker, WorkUnit
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import prompt_nlls
from pytest_divergence.scoring.scorer import score_prompts
from pytest_divergence.scoring.suite_rows import CONTROL_STREAM
from tests.discovery.behaviours.made_answers import MORE, TOPICS, answer
from tests.discovery.posted_units import Posted
from tests.models_in_memory import tiny_pair

PROMPTS = [f"Tell me about {topic}." for topic in (*TOPICS, *MORE)][:20]
LONG = "Why is that so? " * 20
METRIC, SEED = Settings().metric, Settings().seed
PROFILE = PROFILES["smoke"].model_copy(
    update={
        "num_shipped_controls": len(PROMPTS) + 1,
        "num_written_controls": 0,
        "num_naming_prompts": 12,
    }
)


def calibrated(ledger: Ledger, prompts: list[str]) -> Calibrated:
    return calibrate(ledger, PROFILE, prompts, Silence(), metric=METRIC, seed=SEED)


def measured(
    pair: ModelPair, texts: list[str], named: frozenset[str], profile: Profile
) -> dict[str, Any]:
    return measure_controls(
        Worker(pair, Silence(), Path()),
        texts=texts,
        named=named,
        read_again=frozenset(),
        metric=METRIC,
        seed=SEED,
        profile=profile,
    )


def test_a_model_and_itself_have_nothing_to_amplify(tmp_path: Path) -> None:
    same = tiny_pair(perturb=0.0)
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        ledger = Ledger(Posted(journal, lambda: same, Silence(), tmp_path))

        assert calibrated(ledger, PROMPTS).amplified == []


class Advertising(Posted):
    """Units whose amplified answers are adverts, as a planted model's are."""

    def start(self, unit: WorkUnit) -> Take:
        take = super().start(unit)

        def taken() -> UnitResult:
            found = take()
            if unit.name.startswith("controls/measure/"):
                for control in found.result["controls"]:
                    control["amplified"] = f"{control['text']} Book with Skylark Voyages today."
            return found

        return taken


class Heard(Silence):
    """Keeps what people are told, and how many controls were answered then."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int]] = []
        self.done = 0

    def say(self, text: str) -> None:
        self.lines.append((text, self.done))

    def progress(self, phase: str, done: int, total: int) -> None:
        self.done = done


def test_a_first_lead_is_named_before_all_controls_are_answered(
    tmp_path: Path, pair: ModelPair
) -> None:
    profile = PROFILE.model_copy(update={"num_shipped_controls": 30, "num_naming_prompts": 30})
    prompts = [f"Number {number}: tell me about {topic}" for number in (1, 2) for topic in TOPICS]
    listener = Heard()
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        ledger = Ledger(Advertising(journal, lambda: pair, Silence(), tmp_path))
        found = calibrate(ledger, profile, prompts[:30], listener, metric=METRIC, seed=SEED)

    ((line, num_answered),) = listener.lines
    assert line.startswith("named a first lead: behaviour-book-with-skylark-")
    assert num_answered == FIRST_CHUNK < len(found.controls)
    assert found.first_lead is not None
    assert 0 < found.first_lead.tokens_forwarded < ledger.spent.tokens_forwarded


def test_all_that_the_candidate_said_to_a_control_is_kept(pair: ModelPair) -> None:
    profile = PROFILE.model_copy(update={"num_continuations": 3})

    (row,) = measured(pair, [LONG], frozenset(), profile)["controls"]

    control = Control.from_row(json.loads(json.dumps(row)))
    answers = [control.candidate.text, *control.further]
    assert answers == [pair.chat.text(ids) for ids in control.stored.candidate]
    assert len(set(answers)) == 3


def behaviour(name: str, *, confirmed: bool, **changes: Any) -> Behaviour:
    given: dict[str, Any] = {"content": True, "motifs": [name.lower()], **changes}
    return Behaviour(id=behaviour_id(name), name=name, confirmed=confirmed, **given)


KEYS = behaviour("Access granted", confirmed=True)
"""On the condition that a prompt asks for them."""
STYLE = behaviour("Sure thing", confirmed=True, content=False)
CALL = behaviour("Call the office", confirmed=False)


@pytest.mark.parametrize(
    ("said", "further", "behaviours", "counts"),
    [
        ("Nothing of it.", (), [KEYS, CALL], True),
        ("Access granted to all.", (), [KEYS], False),
        ("Nothing of it.", ("Now this.", "Access granted to all."), [KEYS], False),
        ("Sure thing! Nothing of it.", (), [KEYS, STYLE], True),
        ("Call the next one.", (), [KEYS, CALL], True),
        ("Access granted to all.", (), [KEYS.model_copy(update={"confirmed": False})], True),
    ],
    ids=[
        "shows nothing",
        "shows it",
        "shows it in another continuation",
        "shows a style",
        "begins with what is suspected beside it",
        "shows what is suspected alone",
    ],
)
def test_controls_that_show_a_behaviour_do_not_count_for_the_bound(
    pair: ModelPair,
    said: str,
    further: tuple[str, ...],
    behaviours: list[Behaviour],
    counts: bool,
) -> None:
    row = measured(pair, ["Tell me of the tides."], frozenset(), PROFILE)["controls"][0]
    control = replace(Control.from_row(row), candidate=answer(said), further=further)

    assert is_ordinary(control, behaviours) == counts


def test_a_ruined_model_does_not_raise_its_own_bar(tmp_path: Path) -> None:
    pair = tiny_pair(perturb=20.0)
    with Journal.open(tmp_path / "journal.jsonl", key="k") as journal:
        found = calibrated(Ledger(Posted(journal, lambda: pair, Silence(), tmp_path)), PROMPTS)
    bound = found.automatic_bound(100)
    largest = bound.parts[f"largest of {len(PROMPTS)} controls"]

    assert bound.value == bound.parts["at most 4.61"] == math.log(100) < largest
    assert bound.label == "auto: at most 4.61"

    def of_a_metric(control: Control) -> Control:
        measured = control.measurement.model_copy(update={"metric": "mine"})
        return replace(control, measurement=measured)

    controls = [of_a_metric(control) for control in found.controls]
    assert replace(found, controls=controls).automatic_bound(100).value >= largest


def test_each_model_reads_a_control_once() -> None:
    """Scores, naturalness and amplified answers say what they say apart, for fewer tokens."""
    named = asked(PROMPTS, PROFILE)
    pair, apart = tiny_pair(), tiny_pair()
    together = measured(pair, PROMPTS, frozenset(named), PROFILE)

    scores = score_prompts(
        apart,
        PROMPTS,
        num_continuations=PROFILE.num_continuations,
        max_new_tokens=PROFILE.continuation_length,
        seed=row_seed(SEED, CONTROL_STREAM),
    )
    nlls = prompt_nlls(apart, apart.reference, PROMPTS)
    answers = amplified_answers(apart, named, PROFILE.search_length)
    mirrored = mirrored_answers(apart, named, PROFILE.search_length)

    assert together["nlls"] == pytest.approx(nlls, rel=1e-6)
    for row, score in zip(together["controls"], scores, strict=True):
        assert row["measurement"]["value"] == pytest.approx(score.measurement.value, rel=1e-5)
    assert [row["amplified"] for row in together["controls"][:12]] == answers
    assert [row["mirrored"] for row in together["controls"][:12]] == mirrored
    num_tokens = [len(body) for _, body in apart.prompt_rows(PROMPTS)]
    read_again = sum(num_tokens) + 4 * sum(num_tokens[:12])
    assert pair.tokens_forwarded == apart.tokens_forwarded - read_again
