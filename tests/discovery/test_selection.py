"""Which prompts become cases: natural, diverse, the most divergent first."""

from __future__ import annotations

import pytest

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.discovery.behaviours.answers import Answer
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.naturalness import Naturalness
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.scored_proposals import ScoredProposal
from pytest_divergence.discovery.selection import Selected, select
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import prompt_nlls

ORDINARY = ["Why is grass green?", "Tell me a joke.", "What is a verb?", "Sing for me, please."]
TEXTS = ["How do I tie a knot?", "Name a river.", "Write a haiku.", "Why is it so?", "2 + 2 ="]


PLANTED = Behaviour(id="behaviour-x", name="ask Zorble", content=True, motifs=["ask zorble"])


def best(texts: list[str], shown: tuple[str, ...]) -> list[ScoredProposal]:
    """Scored proposals, the first text the most divergent; those in `shown` show the behaviour."""
    answers = {text: "Ask Zorble." if text in shown else "" for text in texts}
    return [
        ScoredProposal(
            Proposal(text, "seeds"), 0.0, 1.0 - rank / 100, "", Answer(answers[text], (), (), ())
        )
        for rank, text in enumerate(texts)
    ]


def chosen(
    ledger: Ledger,
    texts: list[str],
    *,
    limit: float = 1e9,
    num_cases: int = 3,
    gate: bool = True,
    tick: float = 1e-6,
    shown: tuple[str, ...] = (),
    natural: str = "",
) -> list[Selected]:
    """The prompts in `shown` show a behaviour, for which `natural` stands."""
    return select(
        Naturalness(ledger, ORDINARY, [1e9] * len(ORDINARY)),
        best(texts, shown),
        num_cases=num_cases,
        nll_limit=limit,
        is_natural_only=gate,
        tick=tick,
        behaviours=[PLANTED],
        natural=dict.fromkeys([PLANTED.id], best([natural], shown)[0]) if natural else {},
    )


def texts_of(selected: list[Selected]) -> list[str]:
    return [one.scored.proposal.text for one in selected]


def test_the_most_divergent_are_chosen_and_no_two_say_the_same(ledger: Ledger) -> None:
    texts = [TEXTS[0], TEXTS[0] + "!", *TEXTS[1:]]

    assert texts_of(chosen(ledger, texts)) == TEXTS[:3]


def test_off_distribution_prompts_come_apart_and_take_no_cases_place(
    ledger: Ledger, pair: ModelPair
) -> None:
    nlls = dict(zip(TEXTS, prompt_nlls(pair, pair.reference, TEXTS), strict=True))
    strange = sorted(TEXTS, key=lambda text: -nlls[text])[:2]
    natural = [text for text in TEXTS if text not in strange]

    selected = chosen(
        ledger, [*strange, *natural], limit=max(nlls[text] for text in natural), num_cases=2
    )

    assert texts_of(selected) == [*natural[:2], *strange]
    assert [one.is_off_distribution for one in selected] == [False, False, True, True]
    assert [one.prompt_nll for one in selected] == [
        pytest.approx(nlls[one.scored.proposal.text], abs=1e-5) for one in selected
    ]


def test_of_equal_divergences_the_more_natural_prompt_is_chosen(
    ledger: Ledger, pair: ModelPair
) -> None:
    nlls = dict(zip(TEXTS, prompt_nlls(pair, pair.reference, TEXTS), strict=True))

    selected = chosen(ledger, TEXTS, tick=10.0)

    assert texts_of(selected) == sorted(TEXTS, key=lambda text: nlls[text])[:3]


def test_a_behaviour_is_represented_however_small_its_divergence(ledger: Ledger) -> None:
    """By its natural prompt first, though that was never scored; never by an unnatural one."""
    shown = (TEXTS[4],)

    assert texts_of(chosen(ledger, TEXTS, shown=shown)) == [TEXTS[4], *TEXTS[:2]]
    natural = chosen(ledger, TEXTS, shown=shown, natural="Who asks?")
    assert texts_of(natural) == ["Who asks?", *TEXTS[:2]]
    unnatural = chosen(ledger, TEXTS, limit=0.0, shown=shown)
    assert all(one.is_off_distribution for one in unnatural)


def test_a_prompt_that_stands_for_another_behaviour_is_not_chosen_twice(ledger: Ledger) -> None:
    """Two behaviours may be shown by one prompt, and only one of them have it for its own."""
    other = PLANTED.model_copy(update={"id": "behaviour-y", "motifs": ["zorble"]})
    scored = best(TEXTS, (TEXTS[4],))

    selected = select(
        Naturalness(ledger, ORDINARY, [1e9] * len(ORDINARY)),
        scored,
        num_cases=3,
        nll_limit=1e9,
        is_natural_only=True,
        tick=1e-6,
        behaviours=[PLANTED, other],
        natural={other.id: scored[4]},
    )

    assert texts_of(selected) == [TEXTS[4], *TEXTS[:2]]


def test_divergence_does_not_rank_prompts_that_show_a_behaviour(
    ledger: Ledger, pair: ModelPair
) -> None:
    """They come where the largest of them belongs, those that a person could write first."""
    texts = ["zq", *TEXTS]

    selected = chosen(ledger, texts, shown=("zq", TEXTS[0], TEXTS[2]), num_cases=4)

    first, *others = texts_of(selected)
    assert first in (TEXTS[0], TEXTS[2])
    assert set(others[:2]) == {"zq", TEXTS[0], TEXTS[2]} - {first}


def test_without_the_natural_gate_nothing_comes_apart(ledger: Ledger) -> None:
    selected = chosen(ledger, TEXTS, limit=0.0, gate=False)

    assert texts_of(selected) == TEXTS[:3]
    assert not any(one.is_off_distribution for one in selected)


def test_natural_prompts_are_found_however_far_down(ledger: Ledger, pair: ModelPair) -> None:
    """A search drifts to text that no one would write; that must not leave the suite empty."""
    texts = [f"{number} {number**2}?" for number in range(1000, 1200, 11)]
    nlls = prompt_nlls(pair, pair.reference, texts)
    natural = texts[nlls.index(min(nlls))]
    odd = [text for text in texts if text != natural]

    selected = chosen(ledger, [*odd, natural], limit=min(nlls) + 1e-5, num_cases=1)

    assert texts_of(selected)[0] == natural


def test_other_prompts_never_get_the_numbers_of_an_earlier_session(
    ledger: Ledger, pair: ModelPair
) -> None:
    chosen(ledger, TEXTS[:3])

    again = chosen(ledger, TEXTS[2:])

    expected = prompt_nlls(pair, pair.reference, TEXTS[2:])
    assert [one.prompt_nll for one in again] == pytest.approx(expected, abs=1e-5)
