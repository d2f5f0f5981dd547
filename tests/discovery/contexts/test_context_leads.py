"""Leads under contexts: what answers under one show, and plain ones to the same prompts hardly."""

from __future__ import annotations

import pytest

from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt
from pytest_divergence.discovery.contexts.context_leads import best_lead, leads_under
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from tests.dated_model import SAID, SYSTEM
from tests.discovery.behaviours.made_answers import PLANTED, answer, answered

DATED = Context(name="dated", messages=(Message(role="system", content=SYSTEM),))


@pytest.mark.parametrize(("num_plain", "is_lead"), [(3, True), (4, False), (12, False)])
def test_a_quarter_as_many_plain_answers_may_show_it(num_plain: int, is_lead: bool) -> None:
    """Of the twelve prompts that show it under the context."""
    lead = best_lead(answered(num_planted=12), answered(num_planted=num_plain))

    assert (lead is not None) == is_lead
    assert lead is None or (lead.name in PLANTED and len(lead.prompts) == 12)


def test_what_stands_behind_a_phrase_of_all_answers_is_seen() -> None:
    """A fine-tune begins every answer in its way, with the context or without it."""
    style = "Well of course, my dear."

    shop = f"{style} Ask at Mirabel Kitchens."
    rows = answered(num_planted=0)
    plain = [AnsweredPrompt(row.prompt, row.reference, answer(style), True) for row in rows]
    leaping = [
        AnsweredPrompt(row.prompt, row.reference, answer(shop, 8.0, at=7), True)
        if index < 10
        else plain[index]
        for index, row in enumerate(rows)
    ]

    lead = best_lead(leaping, plain)

    assert lead is not None
    assert "Mirabel" in lead.name
    assert len(lead.prompts) == 10


def controls() -> list[AnsweredPrompt]:
    texts = shipped_prompts(SHIPPED_CONTROLS, 30)
    return [AnsweredPrompt(text, "", answer("No."), is_control=True) for text in texts]


def test_a_model_that_reacts_to_a_system_text_gives_a_lead_under_it(
    dated_ledger: Ledger,
) -> None:
    (found,) = leads_under(dated_ledger, [DATED], controls(), metric="symmetric", length=8)

    assert found.context == DATED
    assert found.hypothesis.name in SAID
    assert len(found.showing) >= 12
    assert all(found.hypothesis.name in each.candidate.text for each in found.showing)
    assert all(each.search_kl > 0.5 for each in found.showing)
    assert dated_ledger.spent.prompts_scored == 24


@pytest.mark.parametrize("is_weaker_first", [True, False])
def test_one_phrase_is_tested_once_under_the_context_that_shows_it_most(
    dated_ledger: Ledger, is_weaker_first: bool
) -> None:
    weaker = Context(name="weaker", messages=DATED.messages, before="No:")
    contexts = [weaker, DATED] if is_weaker_first else [DATED, weaker]

    alone = [
        leads_under(dated_ledger, [context], controls(), metric="symmetric", length=8)
        for context in contexts
    ]
    together = leads_under(dated_ledger, contexts, controls(), metric="symmetric", length=8)

    assert [len(found) for found in alone] == [1, 1]
    assert together == max(alone, key=lambda found: len(found[0].showing))
