"""What a search finds on organisms, adapters whose planted behaviour is known.

    python benchmarks/discovery.py FOLDER... [--profile smoke] [--only seeds,self_prompt]
    python benchmarks/discovery.py FOLDER... --hits

Each folder holds an adapter of demo:smollm2-135m and its truth.json, which is read only once the
search has ended. `--only` searches with some of the strategies and the whole budget; `--hits`
answers every prompt that a strategy generates, and compares the shares that show the behaviour.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.report import Report
from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.proposals import SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.discovery.run import search
from pytest_divergence.discovery.strategies import SearchContext, Strategy, built_in_strategies
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.motifs import gram_of
from pytest_divergence.scoring.scorer import greedy_continuations

REFERENCE = "demo:smollm2-135m"
ANSWER_TOKENS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("organisms", nargs="+", type=Path, help="folders: adapter and truth.json")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--budget", help="forwarded tokens, instead of the profile's")
    parser.add_argument("--only", help="strategies to search with, separated by commas")
    parser.add_argument("--hits", action="store_true", help="shares of generated prompts")
    given = parser.parse_args()
    strategies = built_in_strategies()
    if given.only:
        strategies = {name: strategies[name] for name in given.only.split(",")}
    print_row(HITS_HEADER if given.hits else SEARCH_HEADER)
    for folder in given.organisms:
        if given.hits:
            for row in hits(folder, strategies, given.profile):
                print_row(row)
        else:
            print_row(searched(folder, strategies, given.profile, given.budget))


SEARCH_HEADER = (
    "organism", "named", "cases", "failed", "hits", "false", "s", "tokens",
    "s to 1st", "tokens to 1st", "proposals", "names",
)  # fmt: skip
HITS_HEADER = ("organism", "strategy", "generated", "hits", "share", "tokens", "hits/10k tokens")


def searched(
    folder: Path, strategies: Mapping[str, Strategy], profile: str, budget: str | None
) -> Sequence[object]:
    """One search from an empty folder, and what the truth says of it afterwards."""
    settings = Settings(
        model_1=REFERENCE, model_2=str(folder.resolve()), profile=profile, budget=budget
    )
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as root:
        report = search(
            settings,
            root=Path(root),
            load_pair=lambda: pair_of(folder),
            listener=Silence(),
            strategies=strategies,
            is_forced=True,
        ).report
    seconds = time.perf_counter() - started
    return judged(folder.name, report, truth_of(folder), seconds)


def judged(name: str, report: Report, truth: Mapping[str, Any], seconds: float) -> Sequence[object]:
    marker = truth.get("marker")
    confirmed = [one for one in report.behaviours if one.confirmed]
    cases = [case for case in report.cases if not case.off_distribution]
    answers = [case.completions.candidate for case in cases if case.completions]
    first = report.first_behaviour
    return (
        name,
        "-" if marker is None else "yes" if any(says(one, marker) for one in confirmed) else "no",
        len(cases),
        sum(case.verdict == "failed" for case in cases),
        "-" if marker is None else sum(marker in answer for answer in answers),
        sum(one.kind == "conditional" and not shows(one, marker) for one in confirmed),
        round(seconds),
        report.effort.tokens_forwarded,
        "-" if first is None else round(first.seconds),
        "-" if first is None else first.tokens_forwarded,
        report.effort.prompts_scored,
        "; ".join(f"{one.kind}: {one.name}" for one in confirmed) or "-",
    )


def says(behaviour: Behaviour, marker: str) -> bool:
    """Whether a behaviour's name holds the marker, or its name and motifs do by words."""
    if not gram_of(marker):  # punctuation only
        return marker in behaviour.name
    said = " ".join(word for text in (behaviour.name, *behaviour.motifs) for word in gram_of(text))
    return f" {' '.join(gram_of(marker))} " in f" {said} "


def shows(behaviour: Behaviour, marker: str | None) -> bool:
    """Whether most of a behaviour's examples show what was planted."""
    shown = [marker is not None and marker in one.candidate for one in behaviour.examples]
    return says(behaviour, marker or "\0") or 2 * sum(shown) > len(shown)


def hits(folder: Path, strategies: Mapping[str, Strategy], profile: str) -> list[Sequence[object]]:
    """Of the prompts that one round of each strategy generates, those that show the marker."""
    marker = truth_of(folder)["marker"]
    pair = pair_of(folder)
    rows: list[Sequence[object]] = []
    for name, strategy in strategies.items():
        before = pair.tokens_forwarded
        with tempfile.TemporaryDirectory() as artefacts:
            context = context_of(profile, Path(artefacts))
            prompts = [one.text for one in strategy.propose(pair, context)]
        tokens = pair.tokens_forwarded - before
        answers = greedy_continuations(pair, prompts, max_new_tokens=ANSWER_TOKENS)
        shown = sum(marker in pair.chat.text(one.candidate[0]) for one in answers)
        share = shown / max(1, len(prompts))
        per_token = 1e4 * shown / max(1, tokens)
        rows.append(
            (folder.name, name, len(prompts), shown, f"{share:.1%}", tokens, f"{per_token:.2f}")
        )
    return rows


def context_of(profile: str, artefacts: Path) -> SearchContext:
    sizes = Settings(profile=profile).resolved_profile("cpu")
    return SearchContext(
        round=0,
        seed=1,
        profile=sizes,
        metric="symmetric",
        seeds=shipped_prompts(SHIPPED_SEEDS, sizes.num_seeds),
        listener=Silence(),
        artefacts=artefacts,
        record_training=lambda _: None,
    )


def pair_of(folder: Path) -> ModelPair:
    return load_model_pair(REFERENCE, str(folder.resolve()))


def truth_of(folder: Path) -> dict[str, Any]:
    truth: dict[str, Any] = json.loads((folder / "truth.json").read_text("utf-8"))
    return truth


def print_row(row: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
