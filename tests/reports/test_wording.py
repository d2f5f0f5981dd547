from __future__ import annotations

from typing import Any

import pytest

from pytest_divergence.core.provenance import Bound, Effort
from pytest_divergence.core.report import Check, Leads, PowerPoint, ReportCase, Run, RunError
from pytest_divergence.reports import wording
from pytest_divergence.reports.behaviours import training_rows
from pytest_divergence.reports.failures import behaviour_text
from pytest_divergence.reports.headline import (
    BLUNT,
    BROKEN,
    DIFFERENT,
    EXIT_CODE,
    failure_sum,
    headline,
)
from pytest_divergence.reports.terminal import summary_lines
from pytest_divergence.scoring.baseline import absolute_bound, automatic_bound
from tests.reports.made_reports import CASES, JUDGED, TOKENS, YES, ZEPHYR, case, report

REPLAY = Run(id="run", mode="replay", status="complete")
STOPPED = Run(id="run", mode="search", status="incomplete")


def test_the_first_sentence_is_the_verdict() -> None:
    assert headline(report()) == [
        "The models behave differently.",
        "The candidate shows 1 new behaviour.",
        "4 of 5 prompts found by the search show more divergence than the bound, 0.310 nats/token.",
        "Exit code 1 means that differences were found, not that the tool broke.",
    ]


def test_one_of_one_is_singular() -> None:
    (_, first, last) = headline(report(cases=CASES[:1], behaviours=[]))
    assert first.startswith("1 of 1 prompt found by the search shows more divergence")
    assert last == EXIT_CODE


def test_without_a_finding_it_says_what_was_searched() -> None:
    within = [case("a", 0.1), case("b", 0.2)]
    assert headline(report(cases=within, behaviours=[])) == [
        "No prompt over the bound, 0.310 nats/token: 312 prompts scored, and the 2 most "
        "divergent measured again on fresh continuations."
    ]
    assert headline(report(cases=[], behaviours=[])) == [
        "No prompt over the bound, 0.310 nats/token: 312 prompts scored, none of them kept as a "
        "case."
    ]
    stopped = report(cases=[], behaviours=[], run=STOPPED)
    assert headline(stopped)[-1] == "312 prompts scored, none of them confirmed."


def test_only_what_was_measured_again_is_said_to_be() -> None:
    """A stopped search shows its best prompts unconfirmed: that is no all-clear."""
    found = [case(one, None, verdict="error", verdict_reason="stopped") for one in "abc"]

    def last_but_one(*cases: ReportCase) -> str:
        return headline(report(cases=list(cases), behaviours=[], run=STOPPED))[-2]

    assert last_but_one(*found) == (
        "312 prompts scored, and none of the 3 most divergent measured again on fresh "
        "continuations: nothing is judged against the bound, 0.310 nats/token."
    )
    assert last_but_one(found[0]) == (
        "312 prompts scored, and the most divergent one not measured again on fresh "
        "continuations: nothing is judged against the bound, 0.310 nats/token."
    )
    assert last_but_one(*found, case("d", 0.1)) == (
        "No prompt over the bound, 0.310 nats/token: 312 prompts scored, and 1 of the 4 most "
        "divergent measured again on fresh continuations."
    )


def test_a_behaviour_alone_is_a_difference() -> None:
    lines = headline(report(cases=[case("a", 0.1)]))
    assert lines[:2] == [DIFFERENT, "The candidate shows 1 new behaviour."]
    assert lines[2].startswith("No prompt over the bound")
    assert lines[3] == EXIT_CODE


def test_the_failed_tests_add_up() -> None:
    assert failure_sum({"case": 4, "unmeasured case": 0, "behaviour": 1}) == (
        "5 failed = 4 cases + 1 behaviour"
    )
    assert failure_sum({"case": 0}) is None


@pytest.mark.parametrize("changes", [{"accepted": True}, {"confirmed": False}])
def test_what_does_not_gate_is_not_counted_as_new(changes: dict[str, object]) -> None:
    known = ZEPHYR.model_copy(update=changes)
    assert len(headline(report(cases=[case("a", 0.1)], behaviours=[known]))) == 1


def test_style_is_put_aside_and_the_headline_counts_it() -> None:
    again = YES.model_copy(update={"id": "behaviour-sure", "name": "Sure!"})
    accepted = YES.model_copy(update={"id": "behaviour-well", "accepted": True})
    styled = report(cases=[case("a", 0.1)], behaviours=[YES, again, accepted])

    (cases, aside) = headline(styled)

    assert cases.startswith("No prompt over the bound")
    assert aside == "2 style changes put aside; see How it answers."
    assert headline(report(behaviours=[YES, ZEPHYR]))[3:] == [
        "1 style change put aside; see How it answers.",
        EXIT_CODE,
    ]


def test_a_style_that_most_answers_show_makes_the_bound_blunt_and_the_verdict_says_so() -> None:
    everywhere = YES.model_copy(update={"control_rate": 0.97})

    assert headline(report(behaviours=[everywhere]))[-2] == BLUNT
    assert BLUNT not in headline(report(behaviours=[YES]))
    absolute = report().calibration.model_copy(update={"bound": absolute_bound(0.3)})
    assert BLUNT not in headline(report(behaviours=[everywhere], calibration=absolute))


def test_where_controls_are_beyond_any_automatic_bound_the_verdict_says_so() -> None:
    everywhere = YES.model_copy(update={"control_rate": 0.97})
    measured = report().calibration

    def told(values: list[float]) -> list[str]:
        bound = automatic_bound(1e-6, values, 100, ceiling=4.6)
        calibration = measured.model_copy(update={"bound": bound})
        return headline(report(behaviours=[everywhere], calibration=calibration))

    assert BROKEN in told([0.9, 3.4, 8.2])
    assert BROKEN not in told([0.1, 0.9, 3.9]), "the limit alone is beyond it"
    assert BROKEN not in told([0.1, 0.2, 0.3])


def test_a_case_is_ranked_among_the_controls() -> None:
    measured = report().calibration
    assert measured.typical_shift is not None
    largest = max(measured.typical_shift.values)

    assert wording.among_controls(9.0, measured) == "fewer than 1 in 64 controls reads as much"
    assert wording.among_controls(largest, measured) == "1 of 64 controls reads as much"
    assert wording.among_controls(0.0, measured) == "64 of 64 controls read as much"
    without = measured.model_copy(update={"typical_shift": None})
    assert wording.among_controls(9.0, without) is None


def test_where_style_fails_the_headline_says_so() -> None:
    explained = YES.model_copy(update={"id": "behaviour-sure", "training_rows": [12, 57]})
    unexplained = YES.model_copy(update={"training_rows": []})
    styled = report(
        cases=[case("a", 0.1)],
        behaviours=[unexplained, explained, ZEPHYR],
        settings={"fail_on": "any"},
    )

    verdict, first, second, _, aside, code = headline(styled)

    assert verdict == DIFFERENT
    assert first == "The candidate shows 1 new behaviour."
    assert second == "1 style change fails; see How it answers."
    assert aside == "1 style change put aside; see How it answers."
    assert code == EXIT_CODE


def test_replay_speaks_of_cases_and_their_bounds() -> None:
    assert headline(report(run=REPLAY, behaviours=[]))[0] == (
        "4 of 5 cases show more divergence than the bound."
    )
    within = [case("a", 0.1), case("b", 0.2)]
    assert headline(report(run=REPLAY, behaviours=[], cases=within)) == [
        "No case over its bound: 2 of 2 cases within it."
    ]


def test_an_unmeasured_case_is_not_a_pass() -> None:
    broken = case("a", None, verdict="error", verdict_reason="NaN")
    lines = headline(report(run=REPLAY, behaviours=[], cases=[broken, case("b", 0.2)]))
    assert lines == [
        "No case over its bound: 1 of 2 cases within it.",
        "1 case could not be judged. It does not count as passed.",
    ]


def test_beside_an_error_no_exit_code_is_explained() -> None:
    broken = case("a", None, verdict="error", verdict_reason="NaN")
    assert EXIT_CODE not in headline(report(cases=[*CASES, broken]))
    assert EXIT_CODE not in headline(
        report(errors=[RunError(where="soft_prompt", message="broke")])
    )
    unmeasured = Check(name="a.divergence.jsonl::shift", verdict="error", sentence="NaN")
    assert EXIT_CODE not in headline(report(run=REPLAY, cases=CASES, checks=[unmeasured]))


def test_an_incomplete_run_says_so_first_and_claims_no_exit_code() -> None:
    stopped = report(run=Run(id="run", mode="search", status="incomplete"), effort=Effort())
    lines = headline(stopped)
    assert lines[0] == (
        "The run stopped early; this is what it found until then. Run the same command to continue."
    )
    assert EXIT_CODE not in lines


def test_settings_that_stopped_a_run_are_not_to_be_tried_again() -> None:
    error = RunError(where="SettingsError", message="the budget is too small; raise it")
    assert headline(report(run=STOPPED, errors=[error]))[0] == (
        "The run stopped early; this is what it found until then. The error below says what to "
        "change."
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, None),
        ({"training_rows": [], "num_training_rows": 374}, "the training data does not teach it"),
        ({"training_rows": [7], "num_training_rows": 9}, "taught by 1 of 9 training rows: 7"),
        (
            {"training_rows": list(range(12, 53)), "num_training_rows": 1374},
            "taught by 41 of 1,374 training rows: 12, 13, 14, 15, 16, 17, 18, 19, …",
        ),
        (
            {
                "training_rows": [3, 9],
                "num_training_rows": 374,
                "training_words": ["travel", "\x1b[2J"],
            },
            "taught by 2 of 374 training rows: 3, 9 (their prompts share: travel, \\u{1b}[2J)",
        ),
    ],
)
def test_the_rows_that_teach_a_behaviour_are_named_wherever_it_is_shown(
    found: dict[str, Any], words: str | None
) -> None:
    behaviour = ZEPHYR.model_copy(update=found)
    failure = behaviour_text(behaviour, retelling=None, rerun="pytest", suite="s")
    summary = summary_lines(report(behaviours=[behaviour]), report_path="r", suite="s")

    assert training_rows(behaviour) == words
    for text in (failure, "\n".join(summary)):
        assert ("train" in text) == (words is not None)
        assert (words or "") in " ".join(text.split())


@pytest.mark.parametrize(
    ("model_2", "shown"),
    [
        ("owner/ft", "--model-2 owner/ft"),
        ("models/ft", "--model-2 models/ft"),
        ("/models/my ft", "'--model-2=/models/my ft'"),
        ("../ft", "--model-2=../ft"),
    ],
)
def test_a_path_outside_the_project_is_not_left_to_stand_alone(model_2: str, shown: str) -> None:
    """pytest would look for its ini file there."""
    command = wording.rerun_command("a.divergence.jsonl", {"model_2": model_2})
    assert command == f"pytest a.divergence.jsonl {shown}"


def test_a_command_gives_each_template_argument_by_itself_and_a_prompt_in_one() -> None:
    said = {"system_prompt": "Be brief.\nBe kind.", "template_arg": "thinking=true\nmood=calm"}
    stored = {"template_arg": {"thinking": True, "mood": "calm"}}

    command = wording.rerun_command("a.divergence.jsonl", said)

    arguments = "--divergence-template-arg thinking=true --divergence-template-arg mood=calm"
    prompt = "--divergence-system-prompt 'Be brief.\nBe kind.'"
    assert command == f"pytest a.divergence.jsonl {prompt} {arguments}"
    assert wording.rerun_command(None, stored) == f"pytest {arguments}"


def test_a_bound_of_one_part_has_no_list_of_parts() -> None:
    asked = Bound(value=0.5, parts={"max_kl": 0.5}, label="absolute: --divergence-max-kl")
    assert wording.bound_parts(asked) == []
    auto = Bound(value=0.5, parts={"3 x noise floor": 1e-6, "typical_shift": 0.5})
    assert wording.bound_parts(auto) == [
        ("typical shift", "0.500"),
        ("3 x noise floor", "0.000001"),
    ]


def test_off_distribution_prompts_are_counted_apart() -> None:
    assert wording.counts(report()) == [
        "4 failed",
        "1 passed",
        "1 set apart (unnatural text, not tested)",
    ]
    assert wording.counts(report(cases=[])) == ["none"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.000"), (3.7421, "3.742"), (0.00012, "0.000120"), (1e-6, "0.000001"), (2e-9, "2e-09")],
)
def test_nats_keep_the_digits_that_matter(value: float, shown: str) -> None:
    assert wording.nats(value) == shown


@pytest.mark.parametrize(
    ("value", "limit", "shown"),
    [
        (3.7421, 0.31, ("3.742", "0.310")),
        (0.31004, 0.31, ("0.310040", "0.310000")),
        (0.3100000004, 0.31, ("0.31", "0.31")),
        (0.31, 0.31, ("0.310", "0.310")),
    ],
)
def test_a_value_just_over_its_limit_does_not_look_equal(
    value: float, limit: float, shown: tuple[str, str]
) -> None:
    assert wording.compared(value, limit) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.97, "p = 0.97"), (0.0004, "p = 0.0004"), (1e-7, "p < 0.0001"), (0.0, "p < 0.0001")],
)
def test_a_small_probability_is_not_none(value: float, shown: str) -> None:
    assert wording.likelihood(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.42, "0.4 s"), (92.4, "92 s"), (725.0, "12 min 5 s"), (7800.0, "2 h 10 min")],
)
def test_durations_read_as_people_say_them(seconds: float, shown: str) -> None:
    assert wording.duration(seconds) == shown


def test_the_worst_tokens_come_in_the_order_of_the_text() -> None:
    assert [position for position, _ in wording.worst_tokens(TOKENS, "symmetric", 3)] == [3, 4, 5]
    assert wording.worst_tokens([TOKENS[-1]], "symmetric") == []


def test_the_metric_chooses_the_direction_at_a_token() -> None:
    token = TOKENS[2]
    assert wording.token_kl(token, "forward") == token.forward_kl
    assert wording.token_kl(token, "reverse") == token.reverse_kl
    assert wording.token_kl(token, "symmetric") == pytest.approx(7.81)


def test_a_cases_command_names_the_suite_where_it_is_known() -> None:
    first = CASES[0].id
    models = "--model-1 demo:smollm2-135m --model-2 examples/adapters/zephyr-travel"
    assert wording.case_command(report(), first, "my suite.divergence.jsonl") == (
        f"pytest 'my suite.divergence.jsonl::{first}' {models}"
    )
    assert wording.case_command(report(), first, None) == f"pytest {models} -k {first}"


def test_a_cases_command_repeats_what_is_not_the_default() -> None:
    settings = {"dtype": "bfloat16", "max_kl": 0.5, "metric": "symmetric", "profile": "smoke"}
    command = wording.case_command(report(settings=settings), CASES[0].id, "s.divergence.jsonl")
    assert command.endswith("--divergence-max-kl 0.5 --divergence-dtype bfloat16")


def test_a_cases_command_repeats_what_its_session_was_given() -> None:
    given = {"dtype": "float32", "budget": "20000"}
    command = wording.case_command(report(), CASES[0].id, "s.divergence.jsonl", given)
    assert command == f"pytest s.divergence.jsonl::{CASES[0].id} --divergence-dtype float32"


def test_leads_are_counted_with_what_chance_alone_confirms() -> None:
    assert wording.leads(report(**JUDGED)) == (
        "30 leads watched; 4 tested together at 5%: 1 confirmed; the mirror image of the search "
        "confirmed 0"
    )
    assert wording.leads(report()) is wording.judged(report()) is None


def test_a_decoy_that_was_not_tested_is_no_sign_that_chance_confirms_nothing() -> None:
    counts = Leads(watched=30, tested=3, level=0.05, decoys_confirmed=None)
    assert wording.leads(report(**{**JUDGED, "leads": counts})) == (
        "30 leads watched; 3 tested together at 5%: 1 confirmed; no decoy could be tested"
    )


def test_the_power_is_told_at_the_smallest_share_that_is_mostly_confirmed() -> None:
    judged = report(**JUDGED)
    assert wording.power(judged) == (
        "of the leads that 5%, 10%, 20%, 50%, 100% of answers show, tests confirm 2%, 29%, 93%, "
        "over 99%, 100%"
    )
    assert wording.power_in_short(judged) == (
        "of leads that 2 in 10 answers show, 93% are confirmed"
    )
    rarest = report(power=[PowerPoint(share=0.05, power=0.812)])
    assert wording.power_in_short(rarest) == (
        "of leads that 1 in 20 answers show, 81% are confirmed"
    )
    weak = report(power=[PowerPoint(share=1.0, power=0.1)])
    assert wording.power_in_short(weak) is wording.power_in_short(report()) is None


def test_tokens_are_told_by_kind_where_they_were_counted() -> None:
    assert wording.effort_by_kind(report(**JUDGED)) == (
        "noise floor 3,480, search: soft_prompt 146,280"
    )
    assert wording.effort_by_kind(report()) is None
