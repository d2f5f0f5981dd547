"""`ModelEvaluator`: two models compared on given prompts, without pytest.

The front door to `pytest_divergence.discovery.evaluation`, which measures, and to
`pytest_divergence.reports.evaluation`, which shows.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.evaluation_record import Evaluation
from pytest_divergence.discovery.evaluation import EvaluationConfig, evaluate
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.reports.evaluation import evaluation_view, prompt_table
from pytest_divergence.reports.text_blocks import WIDTH

if TYPE_CHECKING:
    from peft import PeftModel
    from rich.console import Group
    from rich.table import Table
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class EvaluationResult(Evaluation):
    """Result of an evaluation. `print` shows it as tables, `model_dump()` returns plain values."""

    def table(self) -> Table:
        """Return a rich table, one row a prompt, the most divergent first."""
        return prompt_table(self)

    def __rich__(self) -> Group:
        return evaluation_view(self)

    def __str__(self) -> str:
        output = io.StringIO()
        Console(file=output, width=WIDTH, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).rstrip()


class ModelEvaluator:
    """Measures two models on prompts, and says how their answers differ."""

    def __init__(
        self,
        model_1: str | PreTrainedModel,
        model_2: str | PreTrainedModel | PeftModel,
        prompts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase | None = None,
        config: EvaluationConfig | None = None,
        *,
        controls: Sequence[str] | None = None,
    ) -> None:
        """Take `model_1`, the reference, and `model_2`, the candidate: both specs or both loaded.

        Models in memory come with their `tokenizer`. `controls` are the ordinary prompts that
        effectiveness is measured against: the shipped ones by default, none with []. Raises
        `SettingsError`, and what loading raises.
        """
        self._start_with(_pair(model_1, model_2, tokenizer), prompts, config, controls)

    @classmethod
    def from_pair(
        cls,
        pair: ModelPair,
        prompts: Sequence[str],
        config: EvaluationConfig | None = None,
        *,
        controls: Sequence[str] | None = None,
    ) -> ModelEvaluator:
        """Return an evaluator of a pair that is already loaded, such as by `load_model_pair`."""
        evaluator = cls.__new__(cls)
        evaluator._start_with(pair, prompts, config, controls)  # noqa: SLF001
        return evaluator

    def _start_with(
        self,
        pair: ModelPair,
        prompts: Sequence[str],
        config: EvaluationConfig | None,
        controls: Sequence[str] | None,
    ) -> None:
        self.pair = pair
        self.prompts = prompts
        self.config = config or EvaluationConfig()
        self.controls = controls

    def run_evaluation(self) -> EvaluationResult:
        """Let both models write on each prompt, and measure all of it.

        Raises `SettingsError` without prompts, `NonFiniteLogitsError` and `MeasurementError`.
        """
        found = evaluate(self.pair, self.prompts, self.config, controls=self.controls)
        return EvaluationResult(**dict(found))


def _pair(model_1: Any, model_2: Any, tokenizer: Any) -> ModelPair:
    if isinstance(model_1, str) != isinstance(model_2, str):
        raise SettingsError(
            "model_1 and model_2 must both be specs, such as 'owner/name', or both be models in "
            "memory with their tokenizer; one of them is a spec"
        )
    if isinstance(model_1, str):
        if tokenizer is not None:
            raise SettingsError(
                "tokenizer is for models in memory; a spec brings its own, so leave it out"
            )
        return load_model_pair(model_1, model_2)
    if tokenizer is None:
        raise SettingsError("tokenizer is missing; models in memory need it")
    return ModelPair.from_models(model_1, model_2, tokenizer)
