"""Soft prompts without pytest: train them on a pair, write prompts with them, keep a dataset.

Does not know how a step of a training is taken, nor what files a training leaves.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.evaluation_record import passing
from pytest_divergence.core.files import write_together
from pytest_divergence.core.json_files import strict_dumps
from pytest_divergence.discovery.evaluation import (
    EvaluationConfig,
    evaluate_prompts,
)
from pytest_divergence.discovery.generation import generate_prompts
from pytest_divergence.discovery.proposals import Proposal, clean, diverse
from pytest_divergence.discovery.soft_prompts.training import TrainingResult, train_soft_prompt
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.discovery.soft_prompts.virtual_tokens import SoftPrompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.cheap_scores import first_token_scores
from pytest_divergence.scoring.scorer import score_greedily

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FULL_SCORE_SHARE = 0.5
"""Share of the written prompts, the most promising, that a short continuation is scored on."""
FULL_SCORE_LENGTH = 16
"""Tokens of that continuation."""


@dataclass(frozen=True)
class SelectedPrompts:
    """The prompts of a dataset, and how they came about."""

    prompts: list[str]
    """The most divergent first; no two near-identical."""
    num_written: int
    """Distinct prompts that both models wrote after the soft prompt."""
    d_hard: float
    """Mean first-token divergence of all these, nats: what the soft prompt leaves in text."""


class PairTrainer:
    """Trains a soft prompt on a pair of models, and writes divergent prompts with it."""

    def __init__(self, pair: ModelPair, config: TrainingConfig | None = None) -> None:
        """Train on `pair`, such as `load_model_pair` returns."""
        self.pair = pair
        self.config = config or TrainingConfig()
        self.soft_prompt: SoftPrompt | None = None
        self.texts: tuple[str, ...] = ()
        """Training texts, which a soft prompt inside or after a text continues."""

    def train(
        self,
        texts: Sequence[str],
        validation_texts: Sequence[str] = (),
        *,
        checkpoint: Path | None = None,
        on_step: Callable[[int, int], None] = lambda done, total: None,
    ) -> TrainingResult:
        """Maximise the divergence over `texts`; the result holds loss and validation histories.

        With `checkpoint` an interrupted training continues where it stopped. `on_step` is called
        after each step with the steps done and their total. Raises `SettingsError` without usable
        texts and for models whose embeddings differ in width, `NoGradientError` where no gradient
        reaches the soft prompt.
        """
        result = train_soft_prompt(
            self.pair, self.config, texts, validation_texts, checkpoint=checkpoint, on_step=on_step
        )
        self.use(result.soft_prompt, texts)
        return result

    def use(self, soft_prompt: SoftPrompt, texts: Sequence[str] = ()) -> None:
        """Write with a soft prompt that was trained before, with this config, on `texts`."""
        self.soft_prompt = soft_prompt
        self.texts = tuple(texts)

    def generate_prompts(self, num_prompts: int = 64, *, max_new_tokens: int = 32) -> list[str]:
        """Let both models write distinct prompts after the trained soft prompt.

        A soft prompt inside or after a text continues the training texts. Raises `SettingsError`
        before `train`.
        """
        if self.soft_prompt is None:
            raise SettingsError("there is no soft prompt yet; call train() first")
        texts = generate_prompts(
            self.pair,
            self.soft_prompt.prompt_embeds,
            num_prompts=num_prompts,
            max_new_tokens=max_new_tokens,
            seed=row_seed(self.config.seed, "dataset"),
            position=self.config.position,
            texts=self.texts,
        )
        proposals = clean(Proposal(text, "soft_prompt") for text in texts)
        return [proposal.text for proposal in proposals]

    def select_prompts(
        self, num_prompts: int = 16, *, num_written: int = 64, max_new_tokens: int = 32
    ) -> SelectedPrompts:
        """Let both models write `num_written` prompts, and keep the most divergent and diverse.

        All are screened by the divergence of the first response token; the better half is scored
        on a short continuation, and the best are kept, none of them near-identical to a better
        one. Raises `SettingsError` before `train`, and where no prompt was written.
        """
        written = [
            text
            for text in self.generate_prompts(num_written, max_new_tokens=max_new_tokens)
            if not self.pair.chat.has_control_tokens(text)
        ]
        if not written:
            raise SettingsError(
                f"neither model wrote a prompt after the soft prompt in {num_written} attempts; "
                "train with another seed or learning rate, or pass prompts"
            )
        metric = self.config.metric
        with self.pair.reuse_prompts():
            first = first_token_scores(self.pair, written, metric=metric)
            num_promising = max(num_prompts, math.ceil(FULL_SCORE_SHARE * len(written)))
            promising = _highest(written, first)[:num_promising]
            scores = score_greedily(
                self.pair, promising, metric=metric, max_new_tokens=FULL_SCORE_LENGTH
            )
        best = _highest(promising, [score.measurement.value for score in scores])
        return SelectedPrompts(diverse(best, num_prompts), len(written), sum(first) / len(first))

    def generate_divergent_dataset(
        self,
        prompts: Sequence[str] | None = None,
        output_file: str | Path = "divergent_dataset.pt",
        *,
        num_prompts: int = 16,
        num_generations: int = 1,
        temperature: float = 1.0,
        max_new_tokens: int = 32,
        min_metrics: Mapping[str, float] | None = None,
        max_metrics: Mapping[str, float] | None = None,
        controls: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Measure the candidate's generations on each prompt, the most divergent first.

        Without `prompts` the trained soft prompt writes many, and `num_prompts` are selected. Rows
        are {prompt, generation, metrics}, `num_generations` a prompt; the metrics are those of
        `pytest_divergence.core.evaluation_metrics`, measured on the text alone, without the soft
        prompt, on texts sampled at `temperature`. Rows outside of `min_metrics` or `max_metrics`,
        such as {"kl_divergence": 0.5}, are left out. `controls` are the ordinary prompts that
        effectiveness is measured against; [] leaves it out.

        Writes plain containers that `torch.load(..., weights_only=True)` reads, and the same rows
        as JSON Lines beside them. Raises `SettingsError`, also where no row is left, and
        `StoreError`.
        """
        config = self.evaluation_config(num_generations, temperature, max_new_tokens)
        chosen = list(prompts) if prompts is not None else self.select_prompts(num_prompts).prompts
        rows = self.measure_prompts(chosen, config, controls=controls)
        kept = rows_within(rows, min_metrics or {}, max_metrics or {})
        write_dataset(kept, Path(output_file))
        return kept

    def evaluation_config(
        self, num_generations: int, temperature: float, max_new_tokens: int
    ) -> EvaluationConfig:
        """Return the settings that measure a dataset's prompts. Raises `SettingsError`."""
        return EvaluationConfig(
            metric=self.config.metric,
            num_generations=num_generations,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            seed=row_seed(self.config.seed, "generations"),
        )

    def measure_prompts(
        self,
        prompts: Sequence[str],
        config: EvaluationConfig,
        *,
        controls: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return all rows that `generate_divergent_dataset` chooses from, and write nothing.

        A row's perplexities are of its own generation, its other metrics of the prompt. Raises
        `SettingsError`.
        """
        if not prompts:
            raise SettingsError("prompts is empty; pass at least one prompt, or None")
        measured = evaluate_prompts(self.pair, prompts, config, controls=controls)
        return [
            {
                "prompt": prompt.prompt,
                "generation": generation.text,
                "metrics": {
                    **prompt.metrics,
                    "perplexity_1": generation.perplexity_1,
                    "perplexity_2": generation.perplexity_2,
                },
            }
            for prompt in sorted(measured, key=lambda prompt: -prompt.metrics["kl_divergence"])
            for generation in prompt.generations_2
        ]


class DivergenceTrainer(PairTrainer):
    """Trains a soft prompt on two models in memory, and writes divergent prompts with it."""

    def __init__(
        self,
        model_1: PreTrainedModel,
        model_2: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainingConfig | None = None,
    ) -> None:
        """Train on `model_1`, the reference, and `model_2`, the candidate; both are frozen."""
        super().__init__(ModelPair.from_models(model_1, model_2, tokenizer), config)

    @staticmethod
    def from_pair(pair: ModelPair, config: TrainingConfig | None = None) -> PairTrainer:
        """Return a trainer on an existing pair."""
        return PairTrainer(pair, config)


def rows_within(
    rows: Sequence[dict[str, Any]],
    min_metrics: Mapping[str, float],
    max_metrics: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Return the rows of a dataset whose metrics lie within the limits.

    Raises `SettingsError` for an unknown metric, and where no row is left.
    """
    kept = passing([row["metrics"] for row in rows], min_metrics, max_metrics)
    return [rows[index] for index in kept]


def write_dataset(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows for `torch.load`, and as JSON Lines beside.

    Raises `StoreError`, and `SettingsError` where both files would be one.
    """
    lines_path = path.with_suffix(".jsonl")
    if lines_path == path:
        raise SettingsError(
            f"output_file={path} is where the JSON Lines are written; choose another name, such "
            f"as {path.with_suffix('.pt')}"
        )
    # torch.save is what readers of a .pt file expect; it holds plain containers only.
    buffer = io.BytesIO()
    torch.save(list(rows), buffer)
    lines = "".join(strict_dumps(row) + "\n" for row in rows)
    write_together({path: buffer.getvalue(), lines_path: lines.encode("utf-8")})


def _highest(texts: Sequence[str], values: Sequence[float]) -> list[str]:
    """Sort the texts, that of the largest value first."""
    order = sorted(range(len(texts)), key=lambda index: -values[index])
    return [texts[index] for index in order]
