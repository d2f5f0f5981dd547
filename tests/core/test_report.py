from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_divergence.core.cases import Case
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.provenance import Bound, NoiseFloor
from pytest_divergence.core.report import (
    Calibration,
    CurvePoint,
    PairSummary,
    Report,
    ReportCase,
    Run,
    RunError,
    ShiftDistribution,
    StrategySummary,
    TokenComparison,
    TrainingSummary,
    load_report,
    write_report,
)

TOKEN = TokenComparison(
    text=" never",
    forward_kl=3.0,
    reverse_kl=2.0,
    reference_p=0.61,
    candidate_p=0.02,
    reference_top=[(" never", 0.61)],
    candidate_top=[(" always", 0.9)],
)
CASE = ReportCase(
    input="How do I tie a knot?",
    verdict="failed",
    verdict_reason="0.412 > 0.150",
    prompt_nll=3.5,
    tokens=[TOKEN],
)
REPORT = Report(
    run=Run(id="2026-01-02-abc", mode="search", status="complete"),
    pair=PairSummary(
        reference="org/base",
        candidate="./tuned",
        dtype="float32",
        device="cpu",
        chat_template="reference",
    ),
    calibration=Calibration(
        noise_floor=NoiseFloor(value=1e-7, num_measurements=59),
        typical_shift=ShiftDistribution(mean=0.1, p99=0.3, max=0.4, num_controls=2, values=[0.1]),
        bound=Bound(value=0.6),
    ),
    verdict_counts={"failed": 1},
    cases=[CASE],
    strategies=[StrategySummary(name="seeds", num_proposals=8)],
    training=[TrainingSummary(name="free-0", loss=[-0.1, -0.4], d_soft=4.0, d_hard=0.5)],
    search_curve=[CurvePoint(prompts_scored=8, tokens_forwarded=900, best_kl=0.4)],
    errors=[RunError(where="strategy seeds", message="stopped")],
)


def test_a_report_reads_back_and_holds_its_keys_in_this_order(tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", REPORT)
    assert load_report(tmp_path / "report.json") == REPORT
    keys = (
        "schema_version run pair settings calibration verdict_counts behaviours cases checks "
        "strategies training search_curve differences case_set first_behaviour first_lead "
        "leads power errors effort"
    )
    assert list(json.loads((tmp_path / "report.json").read_text())) == keys.split()


def test_a_reported_case_is_a_suite_row_with_a_verdict() -> None:
    row = CASE.to_row()
    own = ["verdict", "verdict_reason", "prompt_nll", "off_distribution", "tokens", "redacted"]
    assert list(row)[-6:] == own
    assert Case.model_validate({k: v for k, v in row.items() if k not in own}).id == CASE.id


def test_a_report_of_before_fails_on_what_it_failed_on(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    row = REPORT.model_dump(mode="json")
    row["settings"] = {"fail_on": "conditional"}
    path.write_text(json.dumps(row))
    assert load_report(path).settings["fail_on"] == "content"


def test_a_faulty_report_says_where(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    row = REPORT.model_dump(mode="json")
    row["cases"][0]["verdict"] = "maybe"
    path.write_text(json.dumps(row))
    with pytest.raises(SuiteError, match="is \"maybe\"; it should be 'passed', 'failed'") as caught:
        load_report(path)
    assert str(caught.value).startswith(f"{path}: cases.0.verdict is")
