"""Ways to propose prompts: one file each, one method each."""

from __future__ import annotations

from pytest_divergence.discovery.strategies.base import SearchContext, Strategy
from pytest_divergence.discovery.strategies.seeds import SeedStrategy
from pytest_divergence.discovery.strategies.self_prompt import SelfPromptStrategy
from pytest_divergence.discovery.strategies.soft_prompt import SoftPromptStrategy

__all__ = ["SearchContext", "Strategy", "built_in_strategies"]


def built_in_strategies() -> dict[str, Strategy]:
    """The strategies of every search, cheapest first."""
    return {
        "seeds": SeedStrategy(),
        "self_prompt": SelfPromptStrategy(),
        "soft_prompt": SoftPromptStrategy(),
    }
