"""What reading a prompt once saves, in the units of work that ask several things of it.

    python benchmarks/readings.py demo:smollm2-135m ADAPTER

Does the same unit with and without `ModelPair.reuse_prompts`, in turn: controls as a calibration
measures them, a round of proposals as a search scores them, cases as they are confirmed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from timing import ratio, seconds

from pytest_divergence import ModelPair, load_model_pair
from pytest_divergence.core.cases import Case
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery import calibration, confirmation
from pytest_divergence.discovery.behaviours.amplified_phrases import asked
from pytest_divergence.discovery.engines.base import Worker
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.prompt_files import (
    SHIPPED_CONTROLS,
    SHIPPED_SEEDS,
    shipped_prompts,
)
from pytest_divergence.scoring.cheap_scores import prompt_nlls, screen
from pytest_divergence.scoring.scorer import score_greedily
from pytest_divergence.scoring.suite_rows import Sizes

NUM_TURNS = 5
SETTINGS, PROFILE = Settings(), PROFILES["smoke"]
SIZES = Sizes(SETTINGS.metric, PROFILE.num_continuations, PROFILE.continuation_length)
CONTROLS = shipped_prompts(SHIPPED_CONTROLS, calibration.CHUNK)
PROPOSALS = shipped_prompts(SHIPPED_SEEDS, PROFILE.num_proposals)


def main() -> None:
    pair = load_model_pair(*sys.argv[1:3])
    units: dict[str, Callable[[ModelPair], object]] = {
        f"{len(CONTROLS)} controls": partial(
            in_unit,
            calibration.measure_controls,
            texts=CONTROLS,
            named=frozenset(asked(CONTROLS, PROFILE)),
            read_again=frozenset(calibration.noise_prompts(CONTROLS)),
            metric=SETTINGS.metric,
            seed=SETTINGS.seed,
            profile=PROFILE,
        ),
        f"{len(PROPOSALS)} proposals of self_prompt": ranked_and_scored,
        f"{PROFILE.num_cases} cases": partial(
            in_unit,
            confirmation._measure_cases,
            rows=[Case(input=text) for text in CONTROLS[: PROFILE.num_cases]],
            sizes=SIZES,
            seed=SETTINGS.seed,
        ),
    }
    for name, unit in units.items():
        print_row(pair, name, unit)


def in_unit(work: Callable[..., object], pair: ModelPair, **arguments: Any) -> object:
    """Do the work of a unit as a search does it."""
    return work(Worker(pair, Silence(), Path()), **arguments)


def ranked_and_scored(pair: ModelPair) -> None:
    """As a round of `self_prompt`: ranked under both models, screened, the best scored."""
    with pair.reuse_prompts():
        for side in pair.sides:
            prompt_nlls(pair, side, PROPOSALS)
        screen(pair, PROPOSALS, metric=SETTINGS.metric)
        chosen = PROPOSALS[: round(PROFILE.full_score_share * len(PROPOSALS))]
        score_greedily(pair, chosen, max_new_tokens=PROFILE.search_length)


def print_row(pair: ModelPair, name: str, unit: Callable[[ModelPair], object]) -> None:
    def once() -> object:
        return unit(pair)

    def again() -> object:
        with mock.patch.object(ModelPair, "reuse_prompts", return_value=nullcontext()):
            return unit(pair)

    tokens = [tokens_of(pair, way) for way in (once, again)]
    turns = [(seconds(once), seconds(again)) for _ in range(NUM_TURNS)]
    mine, theirs = (statistics.median(one) for one in zip(*turns, strict=True))
    print(
        f"{name}: {tokens[0]:,} tokens against {tokens[1]:,}, {mine:.2f} s against {theirs:.2f} s, "
        f"{ratio(*zip(*turns, strict=True))}",
        flush=True,
    )


def tokens_of(pair: ModelPair, work: Callable[[], object]) -> int:
    before = pair.tokens_forwarded
    work()
    return pair.tokens_forwarded - before


if __name__ == "__main__":
    main()
