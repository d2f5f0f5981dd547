"""Find prompts on which two language models behave differently, and turn them into tests.

Names are resolved on first use (PEP 562): importing this package imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pytest_divergence.core.cases import Case
    from pytest_divergence.core.report import Report
    from pytest_divergence.core.suites import load_suite, write_suite
    from pytest_divergence.discovery.evaluation import EvaluationConfig
    from pytest_divergence.discovery.proposals import Proposal
    from pytest_divergence.discovery.soft_prompts.trainer import DivergenceTrainer
    from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
    from pytest_divergence.discovery.soft_prompts.virtual_tokens import SoftPrompt
    from pytest_divergence.discovery.strategies.protocol import SearchContext, Strategy
    from pytest_divergence.evaluator import ModelEvaluator
    from pytest_divergence.exports.features import suite_features
    from pytest_divergence.integrations.trainer_callback import DivergenceCallback
    from pytest_divergence.models.loading import load_model_pair
    from pytest_divergence.models.pair import Metric, ModelPair
    from pytest_divergence.models.specs import LoadedModel
    from pytest_divergence.notebook import discover
    from pytest_divergence.plugin.warning import DivergenceWarning
    from pytest_divergence.scoring.scorer import PromptScore, score_prompts

_HOMES = {
    "Case": "pytest_divergence.core.cases",
    "DivergenceCallback": "pytest_divergence.integrations.trainer_callback",
    "DivergenceTrainer": "pytest_divergence.discovery.soft_prompts.trainer",
    "DivergenceWarning": "pytest_divergence.plugin.warning",
    "EvaluationConfig": "pytest_divergence.discovery.evaluation",
    "LoadedModel": "pytest_divergence.models.specs",
    "Metric": "pytest_divergence.models.pair",
    "ModelEvaluator": "pytest_divergence.evaluator",
    "ModelPair": "pytest_divergence.models.pair",
    "PromptScore": "pytest_divergence.scoring.scorer",
    "Proposal": "pytest_divergence.discovery.proposals",
    "Report": "pytest_divergence.core.report",
    "SearchContext": "pytest_divergence.discovery.strategies.protocol",
    "SoftPrompt": "pytest_divergence.discovery.soft_prompts.virtual_tokens",
    "Strategy": "pytest_divergence.discovery.strategies.protocol",
    "TrainingConfig": "pytest_divergence.discovery.soft_prompts.training_config",
    "discover": "pytest_divergence.notebook",
    "load_model_pair": "pytest_divergence.models.loading",
    "load_suite": "pytest_divergence.core.suites",
    "score_prompts": "pytest_divergence.scoring.scorer",
    "suite_features": "pytest_divergence.exports.features",
    "write_suite": "pytest_divergence.core.suites",
}

__all__ = [
    "Case",
    "DivergenceCallback",
    "DivergenceTrainer",
    "DivergenceWarning",
    "EvaluationConfig",
    "LoadedModel",
    "Metric",
    "ModelEvaluator",
    "ModelPair",
    "PromptScore",
    "Proposal",
    "Report",
    "SearchContext",
    "SoftPrompt",
    "Strategy",
    "TrainingConfig",
    "discover",
    "load_model_pair",
    "load_suite",
    "score_prompts",
    "suite_features",
    "write_suite",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
