"""A replayed suite is also judged as a whole: growth, breadth, and the shift of its controls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_divergence.core.cases import Case, Origin, case_id
from pytest_divergence.core.provenance import Bound, write_provenance
from pytest_divergence.core.report import load_report
from pytest_divergence.core.suites import write_suite
from pytest_divergence.core.token_statistics import TokenStatistics
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.reports.token_statistics import statistics_lines
from pytest_divergence.scoring.control_tokens import control_tokens, token_statistics
from pytest_divergence.scoring.scorer import PromptScore, score_prompts, stored_tokens
from tests.plugin.conftest import MODELS, Project, block, properties, shown
from tests.plugin.made_provenance import provenance_of
from tests.tiny import save_tiny_model
from tests.tokens_writing import write_tokens

SUITE = "release.divergence.jsonl"
AGGREGATE = f"{SUITE}::aggregate"
CASES = [f"What is {number} + {number}?" for number in range(6)]
CONTROLS = [f"Tell me about the number {number}." for number in range(64)]
WORSE = ("--model-1=base", "--model-2=worse")


@pytest.fixture(scope="module")
def scores(tiny_models: Path) -> dict[str, PromptScore]:
    """What a search of `base` and `ft` measured."""
    pair = load_model_pair(str(tiny_models / "base"), str(tiny_models / "ft"))
    prompts = [*CASES, *CONTROLS]
    found = score_prompts(pair, prompts, num_continuations=1, max_new_tokens=6)
    return dict(zip(prompts, found, strict=True))


class Release:
    """A project with a suite that was searched on `base` and `ft`."""

    def __init__(self, project: Project, scores: dict[str, PromptScore]) -> None:
        self.project = project
        self.scores = scores
        self.run, self.run_forked = project.run, project.run_forked

    def write(
        self,
        *,
        num_cases: int = 6,
        num_controls: int = 64,
        num_not_ordinary: int = 0,
        num_written: int = 0,
        bound: float | None = 50.0,
        case_factor: float = 1.0,
    ) -> None:
        """The suite with its tokens and provenance.

        `num_written` controls are a user's rows instead; cases are stored as `case_factor` times
        what they read.
        """
        prompts = [*CASES[:num_cases], *CONTROLS[:num_controls]]
        rows = [self._row(prompt, case_factor) for prompt in prompts]
        for index, row in enumerate(rows[num_cases:], num_cases):
            if index - num_cases < num_not_ordinary:
                rows[index] = row.with_changes(tags=("control", "not-ordinary"))
            if index - num_cases < num_written:
                rows[index] = row.with_changes(tags=(), max_kl=99.0)
        write_suite(self.project.path / SUITE, rows)
        write_tokens(
            self.project.path / "release.tokens.jsonl",
            (stored_tokens(case_id(prompt), self.scores[prompt]) for prompt in prompts),
        )
        root = self.project.path
        made_of = Bound(value=bound) if bound is not None else None
        provenance = provenance_of(root / "base", root / "ft", bound=made_of)
        write_provenance(root / "release.provenance.json", provenance)

    def _row(self, prompt: str, case_factor: float) -> Case:
        kl = self.scores[prompt].measurement
        if prompt in CONTROLS:
            return Case(input=prompt, tags=("control",), kl=kl)
        origin = Origin(strategy="soft_prompt")
        kl = kl.model_copy(update={"forward": case_factor * kl.forward})
        return Case(input=prompt, max_kl=99.0, kl=kl, origin=origin)


@pytest.fixture
def release(project: Project, scores: dict[str, PromptScore]) -> Release:
    """The project also has `worse`, which differs from `base` more than `ft` does."""
    save_tiny_model(project.path / "worse", perturb=1.0)
    return Release(project, scores)


# Growth and breadth


def test_an_unchanged_pair_passes(release: Release, scores: dict[str, PromptScore]) -> None:
    release.write()
    expected = token_statistics([control_tokens(scores[prompt]) for prompt in CONTROLS])
    assert expected is not None

    kept = ("--junit-xml=junit.xml", "--divergence-report-dir=out")
    result = release.run(*MODELS, SUITE, "-v", "-rP", *kept)

    result.assert_outcomes(passed=7)
    first = next(line for line in result.outlines if line.startswith(SUITE))
    assert first.startswith(f"{AGGREGATE} PASSED")
    result.stdout.fnmatch_lines(
        [
            "passed: forward KL is 1.00 x the stored values, geometric mean of 64 ordinary "
            "rows, 90% interval [[]1.00, 1.00[]], p < 0.0001 for 1.25 x or more; 0 of 64 control "
            "rows (0%) over the bound of 50.000 nats/token, *; 6 searched cases beside them: *",
            "6 stored cases replayed: 6 within the bound.",
        ]
    )
    left = properties(release.project.path / "junit.xml")["aggregate"]
    assert left.pop("aggregate").startswith("passed: forward KL is 1.00 x")
    assert float(left.pop("share_p_value")) == pytest.approx(0.95**64)
    assert float(left.pop("ratio")) == pytest.approx(1.0, abs=1e-4)
    assert float(left.pop("ratio_p_value")) < 1e-12
    tokens = {name: left.pop(name) for name in TokenStatistics.model_fields}
    assert tokens["num_controls"] == "64.0"
    assert left == {"kind": "aggregate", "verdict": "passed", "share_over": "0.0"}

    # and what becomes of single tokens
    lines = list(statistics_lines(expected, 80))
    assert block(result, lines[0], len(lines)) == lines
    (page,) = release.project.path.glob("out/2*/report.json")
    found = load_report(page).calibration.token_statistics
    assert found is not None
    assert found.mean_kld == pytest.approx(expected.mean_kld, rel=1e-4)
    assert found.num_tokens == expected.num_tokens


def test_a_candidate_that_moves_everywhere_fails_although_no_case_does(release: Release) -> None:
    """A planted behaviour is trained away: cases that are repaired hide no growth of the rest."""
    release.write(case_factor=1_000)
    result = release.run(*WORSE, SUITE)
    result.assert_outcomes(passed=6, failed=1)
    assert "Traceback" not in shown(result)
    result.stdout.re_match_lines(
        [
            r"_+ aggregate _+",
            r"worse: forward KL \d+\.\d\d x stored, at least \d+\.\d\d x$",
            r"  forward KL is \d+\.\d\d x the stored values, geometric mean of 64 ordinary .*$",
        ],
        consecutive=True,
    )
    result.stdout.re_match_lines(
        [r"    [a-z0-9-]+-[0-9a-f]{10} +\d\.\d{3} -> \d\.\d{3} \(\d+\.\d\d x\)$"]
    )
    result.stdout.fnmatch_lines(
        [
            "  6 searched cases beside them: 0.0* x",
            "  intended? measure the suite again:",
            f"    pytest {SUITE} --model-1 base --model-2 worse *",
            "      --divergence-update",
            "  rerun:",
            f"    pytest {AGGREGATE} --model-1 base --model-2 worse",
            "6 stored cases replayed: 6 within the bound.",
        ]
    )


def test_the_control_that_the_bound_is_made_of_is_not_over_it(release: Release) -> None:
    """Measured again, it may read a little more: a batch of another size is enough."""
    largest = max(release.scores[prompt].measurement.value for prompt in CONTROLS)
    release.write(bound=largest * (1 - 1e-6))

    result = release.run(*MODELS, AGGREGATE, "-rP")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["passed: * 0 of 64 control rows (0%) over the bound of *"])


def test_the_bound_of_the_controls_may_come_from_the_option(release: Release) -> None:
    release.write(bound=None)
    for arguments, said in (
        ((), "; breadth is not checked: no bound; give --divergence-max-kl; 6 searched *"),
        (("--divergence-max-kl=50",), "; 0 of 64 control rows (0%) over the bound of 50.000*"),
    ):
        result = release.run(*MODELS, AGGREGATE, "-rP", *arguments)
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"passed: forward KL is 1.00 x *{said}"])


def test_rows_over_the_bound_fail_unless_they_show_a_behaviour(release: Release) -> None:
    """The bound was made without those, so they lie over it on the very pair it is for."""
    release.write(bound=0.0001)
    result = release.run(*MODELS, AGGREGATE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["100% of controls over the bound > 5%"])

    release.write(bound=0.0001, num_not_ordinary=64)
    result = release.run(*MODELS, AGGREGATE, "-W", "default")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        [
            "* aggregate inconclusive: growth is not checked: the suite has no ordinary rows with "
            "stored values; breadth is not checked: the suite has no control rows; 6 searched *",
        ]
    )


def test_prompts_that_a_user_wrote_show_growth_as_controls_do(release: Release) -> None:
    release.write(num_cases=0, num_written=64, bound=None)
    result = release.run(*WORSE, AGGREGATE)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["worse: forward KL *", "*geometric mean of 64 ordinary*", "*suite has no control rows*"]
    )


# Too little evidence

INSUFFICIENT = (
    "forward KL is 1.00 x the stored values, geometric mean of 4 ordinary rows (insufficient: a "
    "verdict needs 32); 0 of 4 control rows (0%) over the bound of 50.000 nats/token "
    "(insufficient: a pass needs 32 rows); 4 searched cases beside them: 1.00 x"
)


def test_too_few_rows_pass_with_a_warning_or_fail_if_asked(release: Release) -> None:
    release.write(num_cases=4, num_controls=4)
    result = release.run(*MODELS, SUITE, "-W", "default")
    result.assert_outcomes(passed=5, warnings=1)
    result.stdout.fnmatch_lines(
        [
            AGGREGATE,
            f"  *DivergenceWarning: aggregate inconclusive: {INSUFFICIENT}",
            "4 stored cases replayed: 4 within the bound.",
            f"{AGGREGATE} inconclusive: {INSUFFICIENT}",
        ]
    )
    assert '"schema_version"' not in shown(result)  # a line of the suite may hold anything
    assert "KLD" not in shown(result)  # which only -v tells

    result = release.run(*MODELS, SUITE, "--divergence-inconclusive=fail")
    result.assert_outcomes(passed=4, failed=1)
    result.stdout.fnmatch_lines(
        [
            "inconclusive: too little evidence to rule out broad change",
            "  add rows to decide it; with --divergence-inconclusive=pass it only warns",
            f"    pytest {AGGREGATE} *",
            "      --divergence-inconclusive fail",
            f"{AGGREGATE} inconclusive: {INSUFFICIENT}",
        ]
    )


def test_where_warnings_are_errors_it_is_told_as_one_sentence(release: Release) -> None:
    release.write(num_cases=4, num_controls=4)
    result = release.run_forked(*MODELS, SUITE, "-W", "error::pytest_divergence.DivergenceWarning")
    result.assert_outcomes(passed=4, failed=1)
    assert f"aggregate inconclusive: {INSUFFICIENT}" in shown(result)
    assert "warn_explicit" not in shown(result)  # no traceback


@pytest.mark.slow
def test_with_workers_the_summary_still_says_what_is_undecided(release: Release) -> None:
    release.write(num_cases=4, num_controls=4)
    arguments = ("-p", "xdist", "-n1", "-W", "default")
    result = release.run_forked(*MODELS, SUITE, *arguments)
    result.assert_outcomes(passed=5, warnings=1)
    assert "INTERNALERROR" not in shown(result)
    result.stdout.fnmatch_lines([f"{AGGREGATE} inconclusive: {INSUFFICIENT}"])


# Rows that cannot be measured


def test_rows_that_cannot_be_measured_are_an_error(release: Release) -> None:
    """One has an id that no vocabulary has, another has lost its continuations."""
    release.write()
    lost, strange = sorted(map(case_id, CONTROLS[3:5]))
    path = release.project.path / "release.tokens.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        if row["id"] == strange:
            row["candidate"][0][0] = 99_999
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"] != lost), "utf-8")

    result = release.run(*WORSE, SUITE)

    result.assert_outcomes(passed=6, errors=1)
    assert "Traceback" not in shown(result)
    result.stdout.fnmatch_lines(
        [
            f"2 of 70 rows could not be measured, so there is no verdict: row {lost} and 1 more: "
            "release.tokens.jsonl lacks its continuations. *",
        ]
    )


def test_a_suite_without_stored_continuations_has_no_aggregate(release: Release) -> None:
    release.write()
    (release.project.path / "release.tokens.jsonl").unlink()
    result = release.run(*MODELS, SUITE, "--collect-only", "-q")
    assert AGGREGATE not in shown(result)


# The shift of ordinary prompts


def test_the_shift_of_a_replayed_suite_has_a_limit(release: Release) -> None:
    release.write()
    shift = f"{SUITE}::shift"
    result = release.run(*MODELS, shift, "--divergence-max-shift=0.0001")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "mean KL of 64 ordinary prompts 0.* nats/token > max_shift 0.000100",
            "  intended? raise --divergence-max-shift",
            f"    pytest {shift} *",
            "      --divergence-max-shift 0.0001",
        ]
    )

    nearer = ("--model-1=base", "--model-2=base")  # than the candidate of the stored values
    result = release.run(*nearer, AGGREGATE, shift, "--divergence-max-shift=1e-6", "-rP")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["passed: forward KL is 0.00 x the stored values, *"])


def test_a_shift_that_cannot_be_measured_is_an_error(release: Release) -> None:
    release.write(num_controls=0)
    result = release.run(*MODELS, f"{SUITE}::shift", "--divergence-max-shift=1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        [
            "the suite has no control rows, so --divergence-max-shift cannot be judged; leave it "
            "out, or search again"
        ]
    )


def test_the_shift_of_a_search_has_a_limit(project: Project) -> None:
    search = ("-p", "tests.plugin.fake_search", "--junit-xml=junit.xml")
    result = project.run(*MODELS, *search, "--divergence-max-shift=0.005", "-k", "shift")
    result.assert_outcomes(failed=1, deselected=3)
    assert "mean KL of 64 ordinary prompts 0.010 nats/token > max_shift 0.005" in shown(result)
    assert properties(project.path / "junit.xml")["shift"] == {
        "kind": "shift",
        "verdict": "failed",
        "shift": "0.01",
        "max_shift": "0.005",
    }
