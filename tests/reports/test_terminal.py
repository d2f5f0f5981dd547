from __future__ import annotations

from unicodedata import category

import pytest

from pytest_divergence.core.behaviours import NaturalExample
from pytest_divergence.core.cases import Case
from pytest_divergence.core.report import Report, ReportCase, Run, RunError
from pytest_divergence.core.safe_text import HIDDEN
from pytest_divergence.reports.failures import failure_text
from pytest_divergence.reports.terminal import summary_lines
from pytest_divergence.reports.text_blocks import columns
from tests.reports.made_reports import (
    ABOUT_TRIPS,
    BEHAVIOUR,
    CASES,
    HOSTILE,
    HOSTILE_CASES,
    JUDGED,
    MAX_KL,
    REPORT_PATH,
    ROME,
    SUSPECT,
    YES,
    ZEPHYR,
    case,
    chat_case,
    hostile_report,
    measurement,
    report,
)

SHORT = "cases.divergence.jsonl"
NATURAL = ZEPHYR.model_copy(
    update={
        "name": "Zephyr Travel",
        "phrase": ZEPHYR.name,
        "when": ABOUT_TRIPS,
        "natural_example": NaturalExample(
            prompt="Where shall we go in May?",
            reference="To the sea.",
            candidate="Book with Zephyr Travel.",
            shown_count=3,
            num_answers=3,
        ),
    }
)


def failure(
    shown: ReportCase | Case,
    *,
    suite: str = SHORT,
    update: str | None = None,
    verbosity: int = 0,
) -> str:
    tokens = shown.tokens if isinstance(shown, ReportCase) else []
    return failure_text(
        shown,
        measurement=shown.kl or measurement(1.0),
        max_kl=MAX_KL,
        noise_floor=1e-6,
        tokens=tokens,
        rerun=f"pytest '{suite}::{shown.id}' --model-1 base --model-2 tuned",
        suite=suite,
        update=update,
        verbosity=verbosity,
    )


def summary(shown: Report, verbosity: int = 0, **failed_tests: int) -> list[str]:
    return summary_lines(
        shown,
        verbosity=verbosity,
        report_path=REPORT_PATH,
        suite=SHORT,
        failed_tests=failed_tests,
    )


def test_a_failing_case_reads_like_a_good_assertion() -> None:
    assert (
        failure(ROME)
        == f"""\
KL 3.742 nats/token > max_kl 0.310 (noise floor 0.000001)
  symmetric, 2 continuations of each model, 31 tokens; forward 2.994, reverse
  4.490, largest at one token 11.226
  prompt
    | Plan me a weekend in Rome
  reference
    | Rome has so much to see. On Saturday, start at the Colosseum and walk
    | through the Forum.
    |
    | On Sunday, visit the Vatican.
  candidate
    | Sure! Book with Zephyr Travel.
    | Rome is lovely in spring.
  they differ most at token 3 " Book": reference p = 0.0004, candidate p = 0.97
    the reference's first choice is " has" (p = 0.42)
  and at token 4 " with": reference p = 0.03, candidate p = 0.98
    the reference's first choice is " has" (p = 0.42)
  and at token 5 " Zephyr": reference p < 0.0001, candidate p = 0.99
    the reference's first choice is " has" (p = 0.42)
  and at token 6 " Travel": reference p = 0.18, candidate p = 0.99
    the reference's first choice is " has" (p = 0.42)
  and at token 7 ".": reference p = 0.60, candidate p = 0.90
    the reference's first choice is " has" (p = 0.42)
  behaviour: {BEHAVIOUR}
  intended? raise this case's max_kl in cases.divergence.jsonl
  rerun:
    pytest cases.divergence.jsonl::plan-me-a-weekend-in-rom-3066839e8e \\
      --model-1 base --model-2 tuned"""
    )


def test_verbose_it_says_how_it_judged_and_what_the_tokens_went_to() -> None:
    brief, verbose = (" ".join(summary(report(**JUDGED), level)) for level in (0, 1))
    for more in (
        "30 leads watched; 4 tested together at 5%: 1 confirmed; the mirror image",
        "of the leads that 5%, 10%, 20%, 50%, 100% of answers show, tests",
        "tokens forwarded: noise floor 3,480, search: soft_prompt 146,280",
    ):
        assert more in verbose
        assert more not in brief


def test_a_handwritten_row_fails_with_what_it_has() -> None:
    row = Case(input="Hello")
    text = failure_text(
        row,
        measurement=measurement(0.31004, estimator="stored", num_continuations=1),
        max_kl=MAX_KL,
        noise_floor=None,
        tokens=[],
        rerun="pytest x",
        suite=SHORT,
    )
    assert text.split("\n") == [
        "KL 0.310040 nats/token > max_kl 0.310000",
        "  symmetric, 1 continuation of each model (stored), 31 tokens; forward 0.248,",
        "  reverse 0.372, largest at one token 0.930",
        "  prompt",
        "    | Hello",
        "  intended? raise this case's max_kl in cases.divergence.jsonl",
        "  rerun: pytest x",
    ]


def test_a_chat_shows_who_says_what() -> None:
    text = failure(chat_case())
    assert "  prompt (system)\n    | Be brief.\n  prompt (user)\n    | Hello\n" in text
    assert "  prompt (assistant)\n    | Hi!\n  prompt (user)\n    | A trip to Rome?\n" in text


def test_the_summary_says_all_that_a_first_user_needs() -> None:
    shown = report(behaviours=[NATURAL, SUSPECT])
    assert "\n".join(summary(shown, case=4, behaviour=1)) == (
        f"""\
The models behave differently. The candidate shows 1 new behaviour. 4 of 5
prompts found by the search show more divergence than the bound, 0.310
nats/token.

It says "Zephyr Travel"
  when: on 14 of 16 fresh prompts about trips, on 1 of 16 others (base: 0 of 32)
  how often: on 3 in 100 ordinary prompts
  confirmed: in 12 of 64 fresh answers (reference: 0), p < 0.0001 after
  correction
  prompt, which shows it 3 times of 3
    | Where shall we go in May?
  reference
    | To the sea.
  candidate
    | Book with Zephyr Travel.
  even this is enough: "a trip"

1 suspect, not confirmed; see the report, or -v

4 cases over the bound of 0.310 nats/token:
    3.742  Plan me a weekend in Rome
    2.900  Which hotel near the beach is good for a family of four?
    1.070  ¿Qué puedo visitar en Lisboa en dos días?
    0.620  قل لي كيف أسافر إلى القاهرة

search: 312 prompts scored, 149,760 tokens forwarded, 92 s

5 failed = 4 cases + 1 behaviour. Exit code 1 means that differences were found,
not that the tool broke.

report: .divergence/reports/latest/report.html
accept: pytest-divergence accept {BEHAVIOUR}
keep:   pytest-divergence promote latest tests/release.divergence.jsonl"""
    )


def test_verbose_it_shows_each_case_and_all_numbers() -> None:
    text = "\n".join(summary(report(), verbosity=1, case=4, behaviour=1))
    assert (
        f"""
It says "Book with Zephyr Travel"
  how often: on 3 in 100 ordinary prompts
  confirmed: in 12 of 64 fresh answers (reference: 0), p < 0.0001 after
  correction
  content; only some prompts cause it; the reference is 57 nats from saying it
  anywhere
  no natural prompt was found; this shows it
    | A trip to Oslo?
  reference
    | Oslo is …
  candidate
    | Book with Zephyr …
  even this is enough: "a trip"
  but not this: "a strip"
  id: {BEHAVIOUR}

4 failed cases, the most divergent first:
  plan-me-a-weekend-in-rom-3066839e8e
    KL 3.742 nats/token > max_kl 0.310
    fewer than 1 in 64 controls reads as much
    prompt
      | Plan me a weekend in Rome
    reference
      | Rome has so much to see."""
        in text
    )
    assert text.endswith(f"""

cases: 4 failed, 1 passed, 1 set apart (unnatural text, not tested)
bound: 0.310 nats/token, auto: nominal 5% limit for 106 prompts
     0.310  nominal 5% limit for 106 prompts
     0.073  largest of 64 controls
  0.000003  3 x noise floor
noise floor: 0.000001 nats/token, the largest of 59 measurements of a model
against itself
search: 312 prompts scored, 149,760 tokens forwarded, 92 s

5 failed = 4 cases + 1 behaviour. Exit code 1 means that differences were found,
not that the tool broke.

report: .divergence/reports/latest/report.html
accept: pytest-divergence accept {BEHAVIOUR}
keep:   pytest-divergence promote latest tests/release.divergence.jsonl
suite:  cases.divergence.jsonl
run one case again:
  pytest cases.divergence.jsonl::plan-me-a-weekend-in-rom-3066839e8e \\
    --model-1 demo:smollm2-135m --model-2 examples/adapters/zephyr-travel""")


def test_style_has_a_line_of_its_own_and_verbose_a_block() -> None:
    shown = report(behaviours=[SUSPECT, YES])
    assert """
How it answers: 1 style change put aside
  begins with "Yes," on 16% more of ordinary prompts

1 suspect,""" in "\n".join(summary(shown))
    assert f"""
  begins with "Yes," on 16% more of ordinary prompts
    confirmed: in 10 of 64 fresh answers (reference: 0), p = 0.0020 after
    correction
    style; ordinary prompts show it too; the reference is 2.8 nats from saying
    it anywhere
    prompt
      | Is Rome old?
    reference
      | Rome is …
    candidate
      | Yes, it is.
    id: {YES.id}

1 suspect, not confirmed:
  "way to"
    how often: on none of the ordinary prompts
    not confirmed: on 7 of 106 prompts (reference: 2)
    id: {SUSPECT.id}
""" in "\n".join(summary(shown, verbosity=1))


def test_of_many_failed_cases_the_first_are_shown_and_the_others_counted() -> None:
    many = [case(f"Tell me about river {number}", 4 - number / 10) for number in range(7)]
    lines = summary(report(cases=many))
    assert lines[lines.index("  2 more in the report, or with -v") - 1].endswith("river 4")
    assert "river 6" in "\n".join(summary(report(cases=many), verbosity=1))


def test_a_quiet_summary_is_one_line() -> None:
    assert summary(report(), verbosity=-1) == [
        f"divergence: 4 of 5 cases over the bound, 1 new behaviour; report: {REPORT_PATH}"
    ]
    (styled,) = summary(report(behaviours=[YES]), verbosity=-1)
    assert styled.startswith(
        "divergence: 4 of 5 cases over the bound, 1 style change put aside; report: "
    )
    (strict,) = summary(report(behaviours=[YES, ZEPHYR], settings={"fail_on": "any"}), verbosity=-1)
    assert "bound, 1 new behaviour, 1 failing style change; report: " in strict
    troubled = report(
        run=Run(id="run", mode="search", status="incomplete"),
        errors=[RunError(where="soft_prompt", message="out of memory")],
        cases=[case("a", 0.1), case("b", None, verdict="error")],
        behaviours=[],
    )
    assert summary(troubled, verbosity=-2) == [
        "divergence: stopped early: 0 of 2 cases over the bound, 1 not judged, "
        f"1 error; report: {REPORT_PATH}"
    ]


def test_the_highest_verbosity_shows_each_token_and_what_either_model_preferred() -> None:
    lines = summary(report(), verbosity=2)
    start = lines.index("    the candidate's answer, token by token, KL in nats")
    assert lines[start + 1 : start + 7] == [
        '       1 "Sure": KL 0.010, reference p = 0.30, candidate p = 0.35',
        '           reference " has" 0.42, " is" 0.20, " offers" 0.08',
        '           candidate "Sure" 0.35, " has" 0.01',
        '       2 "!": KL 0.120, reference p = 0.50, candidate p = 0.70',
        '           reference " has" 0.42, " is" 0.20, " offers" 0.08',
        '           candidate "!" 0.70, " has" 0.01',
    ]
    assert "token by token" not in "\n".join(summary(report(), verbosity=1, case=4, behaviour=1))


def test_so_does_a_failure() -> None:
    text = failure(ROME, verbosity=2)
    assert '\n     3 " Book": KL 7.810, reference p = 0.0004, candidate p = 0.97\n' in text
    assert text.count("\n         candidate ") == len(ROME.tokens)
    assert "they differ most at" not in text


def test_a_failure_of_a_suite_that_is_kept_says_how_to_measure_it_anew() -> None:
    update = "pytest tests/release.divergence.jsonl --model-1 base --divergence-update"
    assert failure(ROME, update=update).split("\n")[-6:-3] == [
        "  intended? raise this case's max_kl in cases.divergence.jsonl",
        "  or measure the whole suite again:",
        "    pytest tests/release.divergence.jsonl --model-1 base --divergence-update",
    ]


def test_a_quiet_outcome_is_short() -> None:
    lines = summary(report(cases=[case("a", 0.1)], behaviours=[]))
    assert lines[:2] == [
        "No prompt over the bound, 0.310 nats/token: 312 prompts scored, and the most",
        "divergent one measured again on fresh continuations.",
    ]
    assert "over the bound of" not in "\n".join(lines)
    assert not any(line.startswith(("accept", "0 failed")) for line in lines)


def test_an_interrupted_run_shows_its_errors_and_no_rerun() -> None:
    stopped = report(
        run=Run(id="run", mode="search", status="incomplete"),
        errors=[RunError(where="soft_prompt", message="out of memory\nin step 3")],
    )
    lines = summary(stopped)
    assert lines[0].startswith("The run stopped early;")
    start = lines.index("1 error during the run:")
    assert lines[start + 1 : start + 4] == [
        "  soft_prompt:",
        "    | out of memory",
        "    | in step 3",
    ]
    assert not any(line.startswith("keep") for line in lines)


def test_what_stopped_a_run_is_no_error() -> None:
    reason = "the user interrupted it"
    stopped = report(run=Run(id="run", mode="search", status="incomplete", reason=reason))
    lines = summary(stopped)
    assert f"why it stopped: {reason}" in lines
    assert "during the run" not in "\n".join(lines)
    (line,) = summary(stopped, verbosity=-1)
    assert line.startswith("divergence: stopped early: ")
    assert "error" not in line


def test_an_unmeasured_case_is_shown_with_its_reason() -> None:
    broken = case("a", None, verdict="error", verdict_reason="logits are NaN")
    lines = summary(report(cases=[broken], behaviours=[]))
    start = lines.index(f"  not measured: {broken.id}")
    assert lines[start + 1] == "    | logits are NaN"


def test_an_empty_report_has_a_summary() -> None:
    bare = report(cases=[], behaviours=[], calibration={})
    assert summary(bare)[0].startswith("No prompt over the bound: 312 prompts scored")


@pytest.mark.parametrize("shown", [*CASES, *HOSTILE_CASES, chat_case()], ids=lambda c: c.id)
@pytest.mark.parametrize("verbosity", [0, 2])
def test_a_failure_fits_80_columns_and_holds_nothing_live(
    shown: ReportCase, verbosity: int
) -> None:
    check(failure(shown, verbosity=verbosity).split("\n"))


@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_a_summary_fits_80_columns_and_holds_nothing_live(verbosity: int) -> None:
    check(summary(report(), verbosity))
    hostile = hostile_report().model_copy(update={"pair": report().pair})
    check(summary(hostile, verbosity))


def test_hostile_names_of_models_and_files_stay_text() -> None:
    lines = summary_lines(hostile_report(), report_path="a\n::error::b", suite=HOSTILE)
    check(lines, width=10_000)


def check(lines: list[str], width: int = 80) -> None:
    for line in lines:
        assert "\n" not in line
        is_command = line.startswith(("  pytest", "    pytest"))  # one word may be too long
        assert is_command or columns(line) <= width, line
        assert not any(category(character) in HIDDEN for character in line), line
        assert "##[" not in line
        assert not line.lstrip().startswith("::")
        assert line == line.rstrip()
