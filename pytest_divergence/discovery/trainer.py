"""Soft prompts without pytest: train them on a pair, write prompts with them, keep a dataset."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.store import write_atomically
from pytest_divergence.core.suites import strict_dumps
from pytest_divergence.discovery.proposals import Proposal, clean
from pytest_divergence.discovery.soft_prompts import SoftPrompt, generate_prompts
from pytest_divergence.discovery.training import TrainingConfig, TrainingResult, train_soft_prompt
from pytest_divergence.models.decoding import row_seed
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.measurement import perplexity
from pytest_divergence.scoring.scorer import PromptScore, prompt_nlls, score_prompts
from pytest_divergence.scoring.tokens import ScoringRow, score_tokens

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class DivergenceTrainer:
    """Trains a soft prompt on two models in memory, and writes divergent prompts with it."""

    def __init__(
        self,
        model_1: PreTrainedModel,
        model_2: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainingConfig | None = None,
    ) -> None:
        """`model_1` is the reference, `model_2` the candidate; both are frozen."""
        self.pair = ModelPair.from_models(model_1, model_2, tokenizer)
        self.config = config or TrainingConfig()
        self.soft_prompt: SoftPrompt | None = None

    def train(
        self,
        texts: Sequence[str],
        validation_texts: Sequence[str] = (),
        *,
        checkpoint: Path | None = None,
    ) -> TrainingResult:
        """Maximise the divergence over `texts`; the result holds loss and validation histories.

        With `checkpoint` an interrupted training goes on where it was. Raises `SettingsError`
        without usable texts and `NoGradientError` where no gradient reaches the soft prompt.
        """
        result = train_soft_prompt(
            self.pair, self.config, texts, validation_texts, checkpoint=checkpoint
        )
        self.soft_prompt = result.soft_prompt
        return result

    def generate_prompts(self, num_prompts: int = 64, *, max_new_tokens: int = 32) -> list[str]:
        """Distinct prompts that both models write after the trained soft prompt.

        Raises `SettingsError` before `train`.
        """
        if self.soft_prompt is None:
            raise SettingsError("there is no soft prompt yet; call train() first")
        texts = generate_prompts(
            self.pair,
            self.soft_prompt.prompt_embeds,
            num_prompts=num_prompts,
            max_new_tokens=max_new_tokens,
            seed=row_seed(self.config.seed, "dataset"),
        )
        return [one.text for one in clean(Proposal(text, "soft_prompt") for text in texts)]

    def generate_divergent_dataset(
        self,
        prompts: Sequence[str] | None = None,
        output_file: str | Path = "divergent_dataset.pt",
        *,
        num_generations: int = 1,
        max_new_tokens: int = 32,
    ) -> list[dict[str, Any]]:
        """The candidate's generations on each prompt with metrics, the most divergent first.

        Without `prompts` the trained soft prompt writes them. Rows are {prompt, generation,
        metrics}; divergences are in nats per token, measured on the text alone, without the soft
        prompt. Writes plain containers that `torch.load(..., weights_only=True)` reads, and the
        same rows as JSON Lines beside them. Raises `SettingsError` and `StoreError`.
        """
        chosen = list(prompts) if prompts is not None else self.generate_prompts()
        if not chosen:
            raise SettingsError("prompts is empty; give at least one prompt, or None")
        scores = score_prompts(
            self.pair,
            chosen,
            metric=self.config.metric,
            num_continuations=num_generations,
            max_new_tokens=max_new_tokens,
            seed=row_seed(self.config.seed, "generations"),
        )
        scores.sort(key=lambda score: -score.measurement.value)
        rows = [row for score in scores for row in self._rows(score)]
        write_dataset(rows, Path(output_file))
        return rows

    def _rows(self, score: PromptScore) -> list[dict[str, Any]]:
        """One row a generation of the candidate."""
        measured = score.measurement
        prompt_nll = [prompt_nlls(self.pair, side, [score.prompt])[0] for side in self.pair.sides]
        ((prefix, body),) = self.pair.prompt_rows([score.prompt])
        generations = score.continuations.candidate
        scored = score_tokens(self.pair, [ScoringRow(prefix, body, ids) for ids in generations])
        return [
            {
                "prompt": score.prompt,
                "generation": self.pair.chat.text(ids),
                "metrics": {
                    "kl_divergence": measured.value,
                    "forward_kl": measured.forward,
                    "reverse_kl": measured.reverse,
                    "js": measured.js,
                    "perplexity_1": perplexity(tokens.reference_logprobs),
                    "perplexity_2": perplexity(tokens.candidate_logprobs),
                    "prompt_nll_1": prompt_nll[0],
                    "prompt_nll_2": prompt_nll[1],
                },
            }
            for ids, tokens in zip(generations, scored, strict=True)
        ]


def write_dataset(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows for `torch.load`, and as JSON Lines beside; raises `StoreError`."""
    # torch.save is what readers of a .pt file expect; it holds plain containers only.
    buffer = io.BytesIO()
    torch.save(list(rows), buffer)
    write_atomically(path, buffer.getvalue())
    lines = "".join(strict_dumps(row) + "\n" for row in rows)
    write_atomically(path.with_suffix(".jsonl"), lines)
