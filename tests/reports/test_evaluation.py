"""The tables of an evaluation: what they say, in 80 columns of plain text."""

from __future__ import annotations

from typing import Any

from pytest_divergence.core.evaluation_record import (
    Diversity,
    Generation,
    OrdinaryPrompts,
    PromptEvaluation,
)
from pytest_divergence.core.report import Difference
from pytest_divergence.evaluator import EvaluationResult

SHOWN = """\
model 1: owner/base
model 2: adapters/new

 prompt                          KL   above   same top   ppl 1   ppl 2   dist-2
 ──────────────────────────────────────────────────────────────────────────────
 Plan a week in a place th…   2.500   2.300       0.41   1,234    3.20     1.00
 Hi \\u{1b}[31m[bold]there[…   0.250   0.050       0.41   1,234    3.20        -

KL: symmetric, nats per token.
above: KL minus the mean of 16 ordinary prompts, 0.200.
same top: share of positions where both models prefer the same token.
ppl: perplexity under each model.
dist-2: share of distinct word pairs in what model 2 wrote.
1 of 2 prompts are above every ordinary one (0.300).

 type of difference   model 2 only   model 1 only   prompts      p
 ─────────────────────────────────────────────────────────────────
 refuses                         2              0         2   0.50
 says a new phrase               2              0         2      -

No p-value for “says a new phrase”: its phrases were chosen in these answers.

 diversity of            distinct-1   distinct-2   self-similarity
 ─────────────────────────────────────────────────────────────────
 prompts                       0.90         1.00              0.10
 model 1's generations         0.50            -              0.25
 model 2's generations            -            -                 -"""


def prompt(text: str, kl: float, **metrics: float) -> PromptEvaluation:
    return PromptEvaluation(
        prompt=text,
        generations_1=["Yes."],
        generations_2=[Generation(text="No.", perplexity_1=2.0, perplexity_2=3.0)],
        metrics={
            "kl_divergence": kl,
            "same_top_share": 0.41,
            "perplexity_1": 1234.5,
            "perplexity_2": 3.2,
            **metrics,
        },
    )


def result(**changes: Any) -> EvaluationResult:
    values: dict[str, Any] = {
        "model_1": "owner/base",
        "model_2": "adapters/new",
        "metric": "symmetric",
        "prompts": [
            prompt("Hi \x1b[31m[bold]there[/bold]", 0.25, effectiveness=0.05),
            prompt(
                "Plan a week in a place that no one knows", 2.5, effectiveness=2.3, distinct_2=1
            ),
        ],
        "differences": [
            Difference(
                name="refuses",
                explanation="the answer declines",
                candidate_count=2,
                reference_count=0,
                num_prompts=2,
                p_value=0.5,
            ),
            Difference(
                name="says a new phrase",
                explanation="a phrase",
                candidate_count=2,
                reference_count=0,
                num_prompts=2,
                p_value=None,
            ),
            Difference(
                name="answers nothing",
                explanation="no text",
                candidate_count=0,
                reference_count=0,
                num_prompts=2,
                p_value=1.0,
            ),
        ],
        "ordinary": OrdinaryPrompts(num_prompts=16, mean=0.2, max=0.3),
        "prompt_diversity": Diversity(distinct_1=0.9, distinct_2=1.0, self_similarity=0.1),
        "diversity_1": Diversity(distinct_1=0.5, self_similarity=0.25),
        "diversity_2": Diversity(),
    }
    return EvaluationResult(**{**values, **changes})


def test_an_evaluation_reads_as_tables() -> None:
    assert str(result()) == SHOWN


def test_without_ordinary_prompts_nothing_is_said_of_them() -> None:
    shown = str(result(ordinary=None, differences=[]))

    assert "above" not in shown
    assert "ordinary" not in shown
    assert "no type of difference on any prompt" in shown
