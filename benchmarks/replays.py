"""Replays of suites on the pair they were searched on: none may fail, or be undecided.

    python benchmarks/replays.py PROJECT...

A project is a folder in which a search has finished (`benchmarks/discovery.py --keep` leaves such).
Its suite's cases get the limits of promoted ones. All rows are measured with batches of 1 and 16,
one thread and two, in bfloat16 against the values in float32, and, where the candidate is an
adapter, on its merged form. A line says how many cases are over their limit, and what the aggregate
and the behaviours say.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from sides import local

from pytest_divergence import ModelPair, load_model_pair
from pytest_divergence.core.aggregates import is_representative
from pytest_divergence.core.suites import StoredSuite, read_suite
from pytest_divergence.core.verdicts import approved_limit
from pytest_divergence.scoring import teacher_forcing
from pytest_divergence.scoring.aggregate_tests import breadth, non_inferiority
from pytest_divergence.scoring.suite_rows import ReplayedCase, replay_behaviour, replay_cases


def main() -> None:
    print("| pair | arrangement | cases over | growth | breadth | behaviours gone |")
    print("|---|---|--:|---|---|--:|")
    for project in map(Path, sys.argv[1:]):
        (path,) = (project / ".divergence/suites").glob("*.divergence.jsonl")
        stored = read_suite(path)
        for name, pair in arrangements(project, stored):
            print_replay(project.name, name, pair, stored)


def arrangements(project: Path, stored: StoredSuite) -> Iterator[tuple[str, ModelPair]]:
    assert stored.provenance is not None
    specs = stored.provenance.reference.spec, stored.provenance.candidate.spec
    pair = load_model_pair(*specs, root=project)
    for batch in (1, 16):
        teacher_forcing.SCORING_BATCH = batch
        for threads in (1, 2):
            torch.set_num_threads(threads)
            yield f"batches of {batch}, {threads} threads", pair
    yield "bfloat16", load_model_pair(*specs, root=project, dtype="bfloat16")
    adapter = project / specs[1]
    if (adapter / "adapter_config.json").exists():
        base = local(load_model_pair(specs[0], specs[0], root=project).reference)
        with tempfile.TemporaryDirectory() as folder:
            PeftModel.from_pretrained(base.model, adapter).merge_and_unload().save_pretrained(
                folder
            )
            pair.chat.tokenizer.save_pretrained(folder)
            yield "merged", load_model_pair(specs[0], folder, root=project)


def print_replay(name: str, arrangement: str, pair: ModelPair, stored: StoredSuite) -> None:
    assert stored.provenance is not None and stored.provenance.bound is not None  # noqa: PT018
    assert stored.provenance.noise_floor is not None
    floor, rows = stored.provenance.noise_floor.value, stored.suite.rows
    found = replay_cases(
        pair,
        rows,
        stored.tokens,
        metric_of=lambda row: row.kl.metric if row.kl else "symmetric",
        num_continuations=1,
        max_new_tokens=16,
        seed=0,
    )
    now = {
        id_: replayed.measurement
        for id_, replayed in found.items()
        if isinstance(replayed, ReplayedCase)
    }
    limit = partial(approved_limit, noise_floor=floor)
    cases = [(row.kl.value, now[row.id].value) for row in stored.suite.cases if row.kl]
    ordinary = [row for row in rows if is_representative(row) and row.kl]
    growth = non_inferiority(
        [now[row.id].forward for row in ordinary],
        [row.kl.forward for row in ordinary if row.kl],
        floor,
    )
    over = breadth(
        [now[row.id].value for row in stored.suite.ordinary], stored.provenance.bound.value
    )
    told = [
        each.telling for each in stored.provenance.behaviours if each.confirmed and each.telling
    ]
    gone = sum(replay_behaviour(pair, telling).is_gone for telling in told)
    print(
        f"| {name} | {arrangement} | {sum(value > limit(old) for old, value in cases)} of "
        f"{len(cases)} | {growth.ratio:.4f}, {growth.verdict} (n = {growth.num_rows}) | "
        f"{over.num_over} of {over.num_rows}, {over.verdict} | {gone} of {len(told)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
