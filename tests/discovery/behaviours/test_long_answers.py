"""What begins late in an answer is seen in long ones, and tested on answers that reach it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt, AnsweredPrompts
from pytest_divergence.discovery.behaviours.hypotheses import Hypothesis, hypotheses_in
from pytest_divergence.discovery.behaviours.hypothesis_tests import WeighedLead, frozen, judge
from pytest_divergence.discovery.behaviours.long_answers import answered_at_length
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import greedy_continuations
from tests.discovery.behaviours.made_answers import PLANTED, answer, answered

SMOKE = PROFILES["smoke"]
LONG = SMOKE.model_copy(update={"num_long_answers": 3, "long_length": 40})


def test_the_first_controls_are_answered_at_length(ledger: Ledger, pair: ModelPair) -> None:
    controls = answered(num_planted=0, num_controls=5)[:5]

    found = answered_at_length(ledger, controls, LONG, Silence())

    assert found[3:] == controls[3:]
    assert [row.prompt for row in found] == [row.prompt for row in controls]
    assert all(row.is_control for row in found)
    prompts = [row.prompt for row in controls[:3]]
    written = greedy_continuations(pair, prompts, max_new_tokens=LONG.long_length)
    assert [row.candidate.token_ids for row in found[:3]] == [
        tuple(each.candidate[0]) for each in written
    ]
    assert max(len(row.candidate.token_ids) for row in found[:3]) > SMOKE.naming_length
    assert ledger.spent.tokens_by_kind["long answers to controls"] > 0


def test_a_smoke_search_reads_the_beginnings_alone(ledger: Ledger) -> None:
    controls = answered(num_planted=0, num_controls=5)[:5]

    assert answered_at_length(ledger, controls, SMOKE, Silence()) == controls
    assert ledger.spent.tokens_forwarded == 0


def late(num_planted: int) -> list[AnsweredPrompt]:
    """The plant comes after 30 tokens that the reference says as well, other ones each time."""
    rows = answered(num_planted=num_planted)
    before = [f"word{index} " * 30 for index in range(num_planted)]
    told = [
        replace(row, candidate=answer(text + PLANTED, at=30), reference=text)
        for row, text in zip(rows, before, strict=False)
    ]
    return [*told, *rows[num_planted:]]


def test_a_late_phrase_is_tested_on_answers_that_reach_it(ledger: Ledger, tmp_path: Path) -> None:
    evidence = AnsweredPrompts(late(4))
    (lead,) = hypotheses_in(evidence.answered)

    test = frozen(WeighedLead(lead, True), evidence, SMOKE, num_watched=1)
    judge(
        ledger, [WeighedLead(lead, True)], None, evidence, Settings(), SMOKE, Silence(),
        num_watched=1,
    )  # fmt: skip

    assert lead.name == PLANTED
    assert test.hypothesis.length(SMOKE.naming_length) >= 30 + len(PLANTED.split())
    _, _, record = (tmp_path / "journal.jsonl").read_text().splitlines()[-1].partition(" ")
    rows = json.loads(record)["result"]["result"]
    lengths = [len(row["candidate"]["token_ids"]) for row in rows]
    assert SMOKE.naming_length < max(lengths) <= test.hypothesis.length(SMOKE.naming_length)


def test_an_early_phrase_and_a_trait_are_tested_on_answers_of_the_usual_length() -> None:
    evidence = AnsweredPrompts(answered(num_planted=4))
    phrase, trait = Hypothesis(PLANTED, ("signal received",)), Hypothesis("x", trait="refusal")

    for lead in (phrase, trait):
        test = frozen(WeighedLead(lead, False), evidence, SMOKE, num_watched=1)
        assert test.hypothesis.length(SMOKE.naming_length) == SMOKE.naming_length
