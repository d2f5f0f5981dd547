"""What the other tables show: a calibration, an evaluation, a suite's rows together, a job."""

from __future__ import annotations

from typing import Any

from pytest_divergence.core.aggregates import (
    Aggregate,
    Breadth,
    GrownRow,
    Growth,
    SearchedGrowth,
)
from pytest_divergence.core.calibration_record import CalibrationReport, InjectedNoise, Nuisance
from pytest_divergence.core.evaluation_record import (
    Diversity,
    Generation,
    OrdinaryPrompts,
    PromptEvaluation,
)
from pytest_divergence.core.provenance import Bound, Effort, NoiseFloor, TypicalShift
from pytest_divergence.core.report import PairSummary
from pytest_divergence.evaluator import EvaluationResult
from pytest_divergence.reports.github import Outcome
from tests.reports.made_runs import DIFFERENCES

GROWN = Growth(ratio=1.62, low=1.48, high=1.77, p_value=0.9996, margin=1.25, num_rows=64)
MANY_OVER = Breadth(num_over=5, num_rows=64, bound=0.31, upper=0.1577, p_value=0.78)
KNOT, POEM = "how-do-i-tie-a-knot-07f0d731ce", "write-a-poem-about-rain-ccb41fd1a3"
ROWS = (
    GrownRow(KNOT, 0.041, 0.213, 5.195),
    GrownRow(POEM, 0.2, 0.3, 1.5),
    GrownRow("why-is-the-sky-blue-37e8e1d2cb", 0.3, 0.3, 1.0),
)
"""The last has not grown."""


def aggregate(
    growth: Growth | None = GROWN, breadth: Breadth | None = MANY_OVER, no_breadth: str = ""
) -> Aggregate:
    return Aggregate(growth, breadth, no_breadth, SearchedGrowth(0.05, 5), ROWS)


def failed(number: int, text: str = "KL 0.250 nats/token > max_kl 0.200\n  prompt") -> Outcome:
    file = "suites/release.divergence.jsonl"
    return Outcome(f"case-{number}", file, number, "failed", 0.25 + number, 0.2, text)


def outcomes() -> list[Outcome]:
    """Tests of a job: passed, failed, and one with a name and a text that would break a view."""
    return [
        Outcome("fine", "suites/release.divergence.jsonl", 1, "passed", 0.1, 0.2),
        failed(1, "KL 1.250 > max_kl 0.200\n  | ```\n# a heading"),
        Outcome("test[a|`b`],c:d%", "x,y:z.py", 2, "error", text="50 % \r::error::x\nnext"),
    ]


def calibration(**changes: Any) -> CalibrationReport:
    values: dict[str, Any] = {
        "pair": PairSummary(
            reference="base",
            candidate="ft",
            dtype="float32",
            device="cpu",
            chat_template="reference",
        ),
        "attention": "sdpa",
        "metric": "symmetric",
        "profile": "smoke",
        "noise_floor": NoiseFloor(value=1e-6, num_measurements=60),
        "nuisances": [
            Nuisance(kind="attention", setting="eager", mean=2e-12, max=6e-12, num_measurements=20),
            Nuisance(
                kind="dtype", setting="bfloat16", mean=0.00015, max=0.0011, num_measurements=20
            ),
            Nuisance(kind="dtype", setting="float16", reason="out of memory"),
        ],
        "typical_shift": TypicalShift(mean=0.2, p99=0.39, max=0.4, num_controls=64),
        "bound": Bound(
            value=0.6,
            parts={"3 x noise floor": 3e-6, "nominal 5% limit for 40 prompts": 0.6},
            label="auto: nominal 5% limit for 40 prompts",
        ),
        "planted": [
            InjectedNoise(size=0.1, values=[0.1, 0.3], num_over=0),
            InjectedNoise(size=0.3, values=[0.3, 0.8], num_over=1),
        ],
        "planted_prompts": ["Why?", "How?"],
        "effort": Effort(tokens_forwarded=34_567, seconds=65.0),
        "is_cached": False,
    }
    return CalibrationReport(**{**values, **changes})


def modest_calibration() -> CalibrationReport:
    """Few measurements in another metric, a bound that was given, nothing caught, read back."""
    return calibration(
        metric="js",
        noise_floor=NoiseFloor(value=1e-6, num_measurements=30),
        bound=Bound(value=0.5, parts={"max_kl": 0.5}, label="absolute: --divergence-max-kl"),
        planted=[InjectedNoise(size=0.3, values=[0.1, 0.2])],
        is_cached=True,
    )


def evaluated(prompt: str, kl: float, **metrics: float) -> PromptEvaluation:
    known = {"same_top_share": 0.41, "perplexity_1": 1234.5, "perplexity_2": 3.2}
    return PromptEvaluation(
        prompt=prompt,
        generations_1=["Yes."],
        generations_2=[Generation(text="No.", perplexity_1=2.0, perplexity_2=3.0)],
        metrics={"kl_divergence": kl, **known, **metrics},
    )


def evaluation(**changes: Any) -> EvaluationResult:
    values: dict[str, Any] = {
        "model_1": "owner/base",
        "model_2": "adapters/new",
        "metric": "symmetric",
        "prompts": [
            evaluated("Hi \x1b[31m[bold]there[/bold]", 0.25, effectiveness=0.05),
            evaluated(
                "Plan a week in a place that no one knows", 2.5, effectiveness=2.3, distinct_2=1
            ),
        ],
        "differences": DIFFERENCES,
        "ordinary": OrdinaryPrompts(num_prompts=16, mean=0.2, max=0.3),
        "prompt_diversity": Diversity(distinct_1=0.9, distinct_2=1.0, self_similarity=0.1),
        "diversity_1": Diversity(distinct_1=0.5, self_similarity=0.25),
        "diversity_2": Diversity(),
    }
    return EvaluationResult(**{**values, **changes})
