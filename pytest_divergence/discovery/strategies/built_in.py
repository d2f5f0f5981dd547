"""The strategies of every search, by name."""

from __future__ import annotations

from pytest_divergence.discovery.strategies.amplification import AmplifiedStrategy
from pytest_divergence.discovery.strategies.probe import ProbeStrategy
from pytest_divergence.discovery.strategies.protocol import Strategy
from pytest_divergence.discovery.strategies.seeds import SeedStrategy
from pytest_divergence.discovery.strategies.self_prompt import SelfPromptStrategy
from pytest_divergence.discovery.strategies.soft_prompt import SoftPromptStrategy


def built_in_strategies() -> dict[str, Strategy]:
    """Return the strategies of every search, in the order of their first rounds."""
    return {
        "seeds": SeedStrategy(),
        "probe": ProbeStrategy(),
        "soft_prompt": SoftPromptStrategy(),
        "self_prompt": SelfPromptStrategy(),
        "amplified": AmplifiedStrategy(),
    }
