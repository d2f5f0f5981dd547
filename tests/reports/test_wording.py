"""Sentences that no snapshot shows, from the value that makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_divergence.core.behaviours import Example
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.provenance import Bound
from pytest_divergence.core.replies import join_parts
from pytest_divergence.core.report import Calibration, Check, Leads, PowerPoint, Run, RunError
from pytest_divergence.reports import behaviours, wording
from pytest_divergence.reports.failures import behaviour_text
from pytest_divergence.reports.headline import (
    BLUNT,
    BROKEN,
    DIFFERENT,
    EXIT_CODE,
    headline,
)
from pytest_divergence.scoring.baseline import absolute_bound, automatic_bound
from tests.reports.made_reports import CASES, JUDGED, SUSPECT, TOKENS, YES, ZEPHYR, case, report

REPLAY = Run(id="run", mode="replay", status="complete")
STOPPED = Run(id="run", mode="search", status="incomplete")
WITHIN = case("a", 0.1)
BROKEN_CASES = [case(one, None, verdict="error", verdict_reason="stopped") for one in "abc"]
ACCEPTED = YES.model_copy(update={"id": "behaviour-well", "accepted": True})
TAUGHT = YES.model_copy(update={"id": "behaviour-sure", "training_rows": [12, 57]})
UNTAUGHT = YES.model_copy(update={"training_rows": []})
EVERYWHERE = YES.model_copy(update={"control_rate": 0.97})

LIMIT = "the bound, 0.310 nats/token"
FOUND = f"4 of 5 prompts found by the search show more divergence than {LIMIT}."
NONE_OVER = f"No prompt over {LIMIT}: 312 prompts scored, and the most divergent one measured again"
NEW, ASIDE = "The candidate shows 1 new behaviour.", "1 style change put aside; see How it answers."
EARLY = "The run stopped early; this is what it found until then."


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        (
            {"cases": CASES[:1], "behaviours": []},
            [DIFFERENT, f"1 of 1 prompt found by the search shows more divergence than {LIMIT}."],
        ),
        (
            {"cases": [], "behaviours": []},
            [f"No prompt over {LIMIT}: 312 prompts scored, none of them kept as a case."],
        ),
        ({"cases": [WITHIN]}, [DIFFERENT, NEW, f"{NONE_OVER} on fresh continuations."]),
        (
            {"run": REPLAY, "behaviours": [], "cases": [WITHIN, case("b", 0.2)]},
            ["No case over its bound: 2 of 2 cases within it."],
        ),
        (
            {"behaviours": [YES, TAUGHT, ACCEPTED], "cases": [WITHIN]},
            [
                f"{NONE_OVER} on fresh continuations.",
                "2 style changes put aside; see How it answers.",
            ],
        ),
        (
            {"behaviours": [UNTAUGHT, TAUGHT, ZEPHYR], "settings": {"fail_on": "any"}},
            [DIFFERENT, NEW, "1 style change fails; see How it answers.", FOUND, ASIDE],
        ),
        ({"behaviours": [EVERYWHERE]}, [DIFFERENT, FOUND, ASIDE, BLUNT]),
        ({"behaviours": [ZEPHYR.model_copy(update={"accepted": True})]}, [DIFFERENT, FOUND]),
        ({"behaviours": [ZEPHYR.model_copy(update={"confirmed": False})]}, [DIFFERENT, FOUND]),
    ],
)
def test_the_headline_of_a_finished_run(changes: dict[str, Any], sentences: list[str]) -> None:
    shown = headline(report(**changes))

    assert [one for one in shown if one != EXIT_CODE] == sentences
    is_different = DIFFERENT in sentences or "more divergence" in sentences[0]
    assert (shown[-1] == EXIT_CODE) == is_different


@pytest.mark.parametrize(
    ("cases", "sentence"),
    [
        ([], "312 prompts scored, none of them confirmed."),
        (
            BROKEN_CASES,
            "312 prompts scored, and none of the 3 most divergent measured again on fresh "
            f"continuations: nothing is judged against {LIMIT}.",
        ),
        (
            [*BROKEN_CASES, WITHIN],
            f"No prompt over {LIMIT}: 312 prompts scored, and 1 of the 4 most divergent measured "
            "again on fresh continuations.",
        ),
    ],
)
def test_only_what_was_measured_again_is_said_to_be(cases: list[Any], sentence: str) -> None:
    """A stopped search shows its best prompts unconfirmed: that is no all-clear."""
    shown = headline(report(cases=cases, behaviours=[], run=STOPPED))

    assert shown[:2] == [f"{EARLY} Run the same command to continue.", sentence]
    assert EXIT_CODE not in shown


def test_settings_that_stopped_a_run_are_not_to_be_tried_again() -> None:
    error = RunError(where="SettingsError", message="the budget is too small; raise it")
    shown = headline(report(run=STOPPED, errors=[error]))
    assert shown[0] == f"{EARLY} The error below says what to change."


@pytest.mark.parametrize(
    "changes",
    [
        {"cases": [*CASES, BROKEN_CASES[0]]},
        {"errors": [RunError(where="soft_prompt", message="broke")]},
        {"run": REPLAY, "checks": [Check(name="a::shift", verdict="error", sentence="NaN")]},
    ],
)
def test_beside_an_error_no_exit_code_is_explained(changes: dict[str, Any]) -> None:
    assert EXIT_CODE not in headline(report(**changes))


def test_the_verdict_says_where_the_bound_tells_little() -> None:
    measured = report().calibration

    def told(bound: Bound) -> list[str]:
        calibration = measured.model_copy(update={"bound": bound})
        return headline(report(behaviours=[EVERYWHERE], calibration=calibration))

    def automatic(*controls: float) -> Bound:
        return automatic_bound(1e-6, list(controls), 100, ceiling=4.6)

    assert BLUNT not in told(absolute_bound(0.3))
    assert BROKEN in told(automatic(0.9, 3.4, 8.2))
    assert BROKEN not in told(automatic(0.1, 0.9, 3.9)), "the limit alone is beyond it"


def kind(**changes: Any) -> str | None:
    return behaviours.kind(ZEPHYR.model_copy(update={"surprise": None, **changes}))


def style(**changes: Any) -> str:
    return behaviours.style_line(YES.model_copy(update=changes), 80)


def said(candidate: str) -> list[Example]:
    return [Example(prompt="a", reference="b", candidate=candidate)]


def rows(**changes: Any) -> str | None:
    return behaviours.training_rows(ZEPHYR.model_copy(update=changes))


def style_counts(fail_on: str) -> str:
    found = [UNTAUGHT, TAUGHT, ACCEPTED]
    return behaviours.style_counts(report(behaviours=found, settings={"fail_on": fail_on}))


def among(value: float) -> str | None:
    return wording.among_controls(value, report().calibration)


def leads(decoys: int | None) -> str | None:
    counts = Leads(watched=30, tested=3, level=0.05, decoys_confirmed=decoys)
    return wording.leads(report(**{**JUDGED, "leads": counts}))


def power(*points: tuple[float, float]) -> str | None:
    known = [PowerPoint(share=share, power=value) for share, value in points]
    return wording.power_in_short(report(power=known))


def command(**given: object) -> str:
    return wording.rerun_command("a.divergence.jsonl", given)


def case_command(suite: str | None, **settings: Any) -> str:
    shown = report(settings={"metric": "symmetric", "profile": "smoke", **settings})
    return wording.case_command(shown, CASES[0].id, suite)


ROME = CASES[0].id
MODELS = "--model-1 demo:smollm2-135m --model-2 examples/adapters/zephyr-travel"
NOWHERE = {"candidate_count": 0, "reference_count": 0}
"""Suspected by text that neither model writes by itself."""
Word = tuple[Callable[[], object], object]
WORDS: list[Word] = [
    # Numbers keep the digits that matter, and a value just over its limit does not look equal.
    (lambda: wording.nats(2e-9), "2e-09"),
    (lambda: wording.compared(0.3100000004, 0.31), ("0.31", "0.31")),
    (lambda: wording.compared(0.31, 0.31), ("0.310", "0.310")),
    (lambda: wording.duration(0.42), "0.4 s"),
    (lambda: wording.duration(725.0), "12 min 5 s"),
    (lambda: wording.duration(7800.0), "2 h 10 min"),
    # Counts.
    (lambda: among(0.0733), "1 of 64 controls reads as much"),
    (lambda: among(0.0), "64 of 64 controls read as much"),
    (lambda: wording.among_controls(9.0, Calibration()), None),
    (lambda: wording.counts(report(cases=[])), ["none"]),
    (lambda: wording.bound_parts(Bound(value=0.5, parts={"max_kl": 0.5}, label="x")), []),
    (lambda: style_counts("content"), "2 style changes put aside, 1 accepted"),
    (lambda: style_counts("any"), "1 style change fails, 1 put aside, 1 accepted"),
    # Leads, with what chance alone confirms, and the power of their tests.
    (
        lambda: leads(None),
        "30 leads watched; 3 tested together at 5%: 1 confirmed; no decoy could be tested",
    ),
    (lambda: wording.leads(report()), None),
    (
        lambda: power((0.1, 0.3), (0.2, 0.932)),
        "of leads that 2 in 10 answers show, 93% are confirmed",
    ),
    (lambda: power((0.05, 0.812)), "of leads that 1 in 20 answers show, 81% are confirmed"),
    (lambda: power((1.0, 0.1)), None),
    # Behaviours: nothing is told of what is unknown.
    (lambda: behaviours.ordinary_share(0.004), "on fewer than 1 in 100 ordinary prompts"),
    (lambda: kind(breadth=None), "content"),
    (
        lambda: kind(breadth="local"),
        "content; the models differ in it on the few prompts that were tested",
    ),
    (
        lambda: behaviours.facts(SUSPECT.model_copy(update=NOWHERE))[-1],
        ("not confirmed", "suspected but in no answer to 106 prompts"),
    ),
    (lambda: style(control_rate=0.001), 'begins with "Yes," more often'),
    (lambda: style(examples=said("Oh Yes, it is.")), 'says "Yes," on 16% more of ordinary prompts'),
    (
        lambda: style(examples=said(join_parts("Hm.", "Yes, it is."))),
        'begins with "Yes," on 16% more of ordinary prompts',
    ),
    (lambda: style(examples=[]), 'says "Yes," on 16% more of ordinary prompts'),
    (
        lambda: style(name="answers longer", trait="answers longer", motifs=[]),
        "answers longer on 16% more of ordinary prompts",
    ),
    (lambda: rows(training_rows=[]), "the training data does not teach it"),
    (
        lambda: rows(training_rows=list(range(12, 53)), num_training_rows=1374),
        "taught by 41 of 1,374 training rows: 12, 13, 14, 15, 16, 17, 18, 19, …",
    ),
    (
        lambda: rows(training_rows=[3], training_words=["\x1b[2J"]),
        "taught by 1 training rows: 3 (their prompts share: \\u{1b}[2J)",
    ),
    # A path outside the project is not left to stand alone: pytest would look there for its ini
    # file. Each template argument is given by itself, a prompt in one.
    (lambda: command(model_2="../ft"), "pytest a.divergence.jsonl --model-2=../ft"),
    (lambda: command(model_2="/my ft"), "pytest a.divergence.jsonl '--model-2=/my ft'"),
    (
        lambda: command(system_prompt="Be brief.\nBe kind.", template_arg="a=true\nb=calm"),
        "pytest a.divergence.jsonl --divergence-system-prompt 'Be brief.\nBe kind.' "
        "--divergence-template-arg a=true --divergence-template-arg b=calm",
    ),
    (
        lambda: command(template_arg={"a": True, "b": "calm"}),
        "pytest a.divergence.jsonl --divergence-template-arg a=true --divergence-template-arg "
        "b=calm",
    ),
    (lambda: case_command("my suite.jsonl"), f"pytest 'my suite.jsonl::{ROME}' {MODELS}"),
    (lambda: case_command(None), f"pytest {MODELS} -k {ROME}"),
    (
        lambda: case_command("s.jsonl", max_kl=0.5, dtype="bfloat16"),
        f"pytest s.jsonl::{ROME} {MODELS} --divergence-max-kl 0.5 --divergence-dtype bfloat16",
    ),
    (
        lambda: wording.case_command(
            report(), ROME, "s.jsonl", {"dtype": "float32", "budget": "2"}
        ),
        f"pytest s.jsonl::{ROME} --divergence-dtype float32",
    ),
]


@pytest.mark.parametrize(("said_of", "words"), WORDS, ids=[str(words) for _, words in WORDS])
def test_words(said_of: Callable[[], object], words: object) -> None:
    assert said_of() == words


def test_a_context_stays_on_its_line() -> None:
    """Wrapped, a text could begin a line with a runner's command."""
    hostile = Context(name="x", before=f"a\n::error::b {'w ' * 90}::warning::c")
    shown = ZEPHYR.model_copy(update={"context": hostile})

    lines = behaviour_text(shown, retelling=None, rerun="pytest x", suite="x").split("\n")

    (line,) = (line for line in lines if "where the user begins" in line)
    assert line.startswith('  where the user begins "a')
    assert len(line) <= 80
    assert not [line for line in lines if line.strip().startswith("::")]


def test_the_worst_tokens_come_in_the_order_of_the_text() -> None:
    assert [position for position, _ in wording.worst_tokens(TOKENS, "symmetric", 3)] == [3, 4, 5]
    assert wording.worst_tokens([TOKENS[-1]], "symmetric") == []


def test_the_metric_chooses_the_direction_at_a_token() -> None:
    token = TOKENS[2]
    assert wording.token_kl(token, "forward") == token.forward_kl
    assert wording.token_kl(token, "reverse") == token.reverse_kl
    assert wording.token_kl(token, "symmetric") == pytest.approx(7.81)
