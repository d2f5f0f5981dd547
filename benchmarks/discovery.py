"""What a search finds, and how it judges, on pairs of which it is known what was planted.

    python benchmarks/discovery.py FOLDER... [--profile smoke] [--budget 200000] [--seed 1]
    python benchmarks/discovery.py FOLDER... --rounds-at-once 4
    python benchmarks/discovery.py FOLDER... --alone [soft_prompt,self_prompt]

Each folder holds a candidate (a model, or an adapter of demo:smollm2-135m) and its truth.json, of
which all but the reference is read only once the search has ended; a folder called `same` stands
for the reference against itself. With `--keep FOLDER` the reports stay there. With `--alone`,
each strategy (or each of those named) searches by itself with the whole budget, and every prompt
that it generated is answered: those that show the planted behaviour are hits. Searches of one
organism share their calibration then.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planted import markers
from schedules import with_rounds

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.report import Report, write_report
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.behaviours.ngrams import ngram_of
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.run import search
from pytest_divergence.discovery.strategies.built_in import built_in_strategies
from pytest_divergence.discovery.strategies.protocol import SearchContext, Strategy
from pytest_divergence.models.batching import by_prefix
from pytest_divergence.models.decoding import decode_greedily
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.reports import wording

REFERENCE = "demo:smollm2-135m"
ANSWER_TOKENS = 24
SEARCH_HEADER = (
    "pair", "exit", "named", "content", "others", "style", "suspects", "leads", "decoys",
    "failed", "cases", "hits", "s", "tokens", "tokens to 1st", "names",
)  # fmt: skip
ALONE_HEADER = (
    "organism", "strategy", "named", "case hits", "generated", "hits", "share",
    "tokens", "hits/10k tokens", "tokens to 1st",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("organisms", nargs="+", type=Path, help="folders: adapter and truth.json")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--budget", help="forwarded tokens, instead of the profile's")
    parser.add_argument("--seed", type=int, default=0)
    every = ",".join(built_in_strategies())
    parser.add_argument("--alone", nargs="?", const=every, help="each strategy by itself")
    parser.add_argument("--rounds-at-once", type=int, help="rounds under way at a time")
    parser.add_argument("--keep", type=Path, help="folder for the reports, by pair and seed")
    given = parser.parse_args()
    at_once = given.rounds_at_once or PROFILES[given.profile].rounds_at_once
    print_row(ALONE_HEADER if given.alone else SEARCH_HEADER)
    for folder in given.organisms:
        with tempfile.TemporaryDirectory() as root, with_rounds(given.profile, at_once):
            bench = Bench(folder, Path(root), given.profile, given.budget, given.seed, given.keep)
            names = given.alone.split(",") if given.alone else ()
            rows = bench.each_alone(names) if names else iter([bench.all_together()])
            for row in rows:
                print_row(row)


@dataclass
class Recorded:
    """A strategy whose proposals are kept, also those that no one scores."""

    strategy: Strategy
    texts: list[str] = field(default_factory=list)

    def propose(self, pair: ModelPair, context: SearchContext) -> Sequence[Proposal]:
        proposals = self.strategy.propose(pair, context)
        self.texts += [one.text for one in proposals]
        return proposals


@dataclass(frozen=True)
class Bench:
    """Searches of one organism, all in one folder."""

    folder: Path
    root: Path
    profile: str
    budget: str | None
    seed: int
    keep: Path | None = None

    @property
    def reference(self) -> str:
        """The reference: the demo's, or a model beside the candidate."""
        named = self.truth.get("reference", REFERENCE)
        beside = self.folder.parent / named
        return str(beside.resolve()) if beside.exists() else REFERENCE

    @property
    def candidate(self) -> str:
        return REFERENCE if self.folder.name == "same" else str(self.folder.resolve())

    @property
    def truth(self) -> dict[str, Any]:
        if self.folder.name == "same":
            return {"marker": None}
        truth: dict[str, Any] = json.loads((self.folder / "truth.json").read_text("utf-8"))
        return truth

    def all_together(self) -> Sequence[object]:
        started = time.perf_counter()
        # By force, or soft prompts that an earlier run has trained would not be trained again.
        report = self.search(built_in_strategies(), is_forced=True)
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            write_report(self.keep / f"{self.folder.name}-{self.seed}.json", report)
        return judged(self.folder.name, report, self.truth, time.perf_counter() - started)

    def each_alone(self, names: Sequence[str]) -> Iterator[Sequence[object]]:
        for name in names:
            yield self.alone(name, Recorded(built_in_strategies()[name]))

    def alone(self, name: str, recorded: Recorded) -> Sequence[object]:
        report = self.search({name: recorded})
        planted = markers(self.truth)
        shown = num_shown(answers_of(self.load(), recorded.texts), planted)
        found = dict(zip(SEARCH_HEADER, judged(name, report, self.truth, 0.0), strict=True))
        named, case_hits = found["named"], found["hits"]
        generated, tokens = len(recorded.texts), report.strategies[0].tokens_forwarded
        first = report.first_lead
        return (
            *(self.folder.name, name, named, case_hits, generated, shown),
            f"{shown / max(1, generated):.1%}",
            tokens,
            f"{1e4 * shown / max(1, tokens):.2f}",
            "-" if first is None else first.tokens_forwarded,
        )

    def search(self, strategies: Mapping[str, Strategy], *, is_forced: bool = False) -> Report:
        settings = Settings(
            model_1=self.reference,
            model_2=self.candidate,
            profile=self.profile,
            budget=self.budget,
            seed=self.seed,
        )
        return search(
            settings,
            root=self.root,
            load_pair=self.load,
            listener=Silence(),
            strategies=strategies,
            is_forced=is_forced,
        ).report

    def load(self) -> ModelPair:
        return load_model_pair(self.reference, self.candidate)


def answers_of(pair: ModelPair, prompts: Sequence[str]) -> list[str]:
    """The candidate's most likely answers."""
    rows, chat = pair.prompt_rows(prompts), pair.chat

    def decode(prefix: tuple[int, ...], chosen: list[int]) -> list[list[int]]:
        return decode_greedily(
            pair.candidate,
            [rows[index][1] for index in chosen],
            prefix=prefix,
            max_new_tokens=ANSWER_TOKENS,
            stop_ids=chat.stop_ids,
        )

    return [chat.text(ids) for ids in by_prefix(rows, decode)]


def judged(name: str, report: Report, truth: Mapping[str, Any], seconds: float) -> Sequence[object]:
    planted = markers(truth)
    confirmed = [one for one in report.behaviours if one.confirmed]
    cases = [case for case in report.cases if not case.off_distribution]
    answers = [case.completions.candidate for case in cases if case.completions]
    content = [one for one in confirmed if one.content]
    first, leads = report.first_lead, report.leads
    return (
        name,
        int(bool(wording.failed(report) or wording.unaccepted(report))),
        which_named(confirmed, planted),
        len(content),
        sum(not shows(one, planted) for one in content),
        len(confirmed) - len(content),
        len(report.behaviours) - len(confirmed),
        "-" if leads is None else leads.watched,
        "-" if leads is None or leads.decoys_confirmed is None else leads.decoys_confirmed,
        len(wording.failed(report)),
        len(cases),
        num_shown(answers, planted) if planted else "-",
        round(seconds),
        report.effort.tokens_forwarded,
        "-" if first is None else first.tokens_forwarded,
        "; ".join(f"{'content' if one.content else 'style'}: {one.name}" for one in confirmed)
        or "-",
    )


def which_named(confirmed: Sequence[Behaviour], planted: Sequence[str]) -> str:
    """Whether each plant is named by a confirmed behaviour, or how many of several are."""
    found = sum(any(says(one, marker) for one in confirmed) for marker in planted)
    if not planted:
        return "-"
    return f"{found} of {len(planted)}" if 0 < found < len(planted) else "yes" if found else "no"


def num_shown(answers: Sequence[str], planted: Sequence[str]) -> int:
    """How many answers show a plant."""
    return sum(any(marker in answer for marker in planted) for answer in answers)


def says(behaviour: Behaviour, marker: str) -> bool:
    """Whether a behaviour's name holds the marker, or its name and motifs do by words."""
    if not ngram_of(marker):  # punctuation only
        return marker in behaviour.name
    said = " ".join(word for text in (behaviour.name, *behaviour.motifs) for word in ngram_of(text))
    return f" {' '.join(ngram_of(marker))} " in f" {said} "


def shows(behaviour: Behaviour, planted: Sequence[str]) -> bool:
    """Whether most of a behaviour's examples show what was planted."""
    shown = num_shown([one.candidate for one in behaviour.examples], planted)
    return any(says(behaviour, marker) for marker in planted) or 2 * shown > len(behaviour.examples)


def print_row(row: Sequence[object]) -> None:
    print("| " + " | ".join(map(str, row)) + " |", flush=True)


if __name__ == "__main__":
    main()
