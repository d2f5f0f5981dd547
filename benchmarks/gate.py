"""The gate on real pairs: what divergences read, and whether it fails what it should and only that.

    python benchmarks/gate.py table ADAPTER...      what KL reads on pairs of known difference
    python benchmarks/gate.py unchanged ADAPTER     replays of an unchanged pair that fail: none may
    python benchmarks/gate.py power ADAPTER...      growth that is caught, and false alarms
    python benchmarks/gate.py growth ADAPTER...     growth of ordinary prompts beside repaired cases
    python benchmarks/gate.py repaired ADAPTER      a release without its plant, and with damage
    python benchmarks/gate.py lengths ADAPTER...    nats by an answer's own length, or by the limit
    python benchmarks/gate.py damage ADAPTER        noise in the weights, and what sees it
    python benchmarks/gate.py replay ADAPTER        a pytest session against a bare loop

Adapters are folders for demo:smollm2-135m; the reference itself, and its weights rounded to 8 and
4 bits, are added. Ordinary prompts are the shipped controls.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from planted import trigger_examples
from sides import local

from pytest_divergence import ModelPair, load_model_pair, score_prompts
from pytest_divergence.core.cases import Case
from pytest_divergence.core.file_names import sidecar_path
from pytest_divergence.core.suites import write_suite
from pytest_divergence.core.verdicts import approved_limit
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.scoring import teacher_forcing as tokens_module
from pytest_divergence.scoring.aggregate_tests import breadth, non_inferiority
from pytest_divergence.scoring.baseline import automatic_bound, measure_noise_floor
from pytest_divergence.scoring.continuations import Continuations
from pytest_divergence.scoring.scorer import PromptScore, stored_tokens
from pytest_divergence.scoring.teacher_forcing import ScoringRow, score_tokens, whole
from tests.tokens_writing import write_tokens

REFERENCE = "demo:smollm2-135m"
NUM_CONTROLS = 64
SIZES: Any = {"num_continuations": 1, "max_new_tokens": 16}
NUM_CASES = 20
NUM_TRIALS = 2_000
NUM_SCORED = 150
"""Prompts that a search at smoke scores, about."""
GROWTH, GROWN_SHARE = 1.5, 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("adapters", nargs="+", type=Path)
    given = parser.parse_args()
    PARTS[given.part](given.adapters)


# Pairs of known difference


def pairs(adapters: Sequence[Path]) -> Iterator[tuple[str, ModelPair]]:
    """One at a time, since each holds weights of its own."""
    same = load_model_pair(REFERENCE, REFERENCE)
    yield "the reference itself", same
    for bits in (8, 4):
        yield f"weights rounded to {bits} bits", rounded(same, bits)
    del same
    for adapter in adapters:
        yield adapter.name, load_model_pair(REFERENCE, str(adapter.resolve()))
    for factor in (0.9, 1.1, 1.5):
        pair = load_model_pair(REFERENCE, str(adapters[0].resolve()))
        for module in local(pair.candidate).model.modules():
            if isinstance(module, LoraLayer):
                for name in module.scaling:
                    module.scaling[name] *= factor
        yield f"{adapters[0].name}, adapter x {factor}", pair


def rounded(pair: ModelPair, bits: int) -> ModelPair:
    """The reference against its linear layers rounded to nearest, symmetric, one scale a row."""
    reference = local(pair.reference).model
    model = copy.deepcopy(reference)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.data
            scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            module.weight.data = (weight / scale).round() * scale
    return ModelPair.from_models(reference, model, pair.chat.tokenizer)


def controls() -> list[str]:
    return shipped_prompts(SHIPPED_CONTROLS, NUM_CONTROLS)


def triggers_of(adapter: Path) -> list[Prompt]:
    return trigger_examples(json.loads((adapter / "truth.json").read_text("utf-8")))


# What KL is bad?


def table(adapters: Sequence[Path]) -> None:
    print_row("pair", "prompts", "KL mean", "median", "largest", "forward", "reverse", "same top")
    triggers = {one.name: triggers_of(one) for one in adapters}
    for name, pair in pairs(adapters):
        print_kl(name, "ordinary", score_prompts(pair, controls(), **SIZES))
        if triggers.get(name):
            print_kl(name, "triggers", score_prompts(pair, triggers[name], **SIZES))


def print_kl(name: str, prompts: str, scores: Sequence[PromptScore]) -> None:
    values = [one.measurement.value for one in scores]
    print_row(
        name,
        f"{len(scores)} {prompts}",
        *(f"{f(values):.4f}" for f in (statistics.mean, statistics.median, max)),
        f"{statistics.mean(one.measurement.forward for one in scores):.4f}",
        f"{statistics.mean(one.measurement.reverse for one in scores):.4f}",
        f"{statistics.mean(one.same_top_share for one in scores):.1%}",
    )


# Unchanged pairs never fail


def unchanged(adapters: Sequence[Path]) -> None:
    """20 cases, replayed in ten ways that change no model: batch sizes, threads, order."""
    pair = load_model_pair(REFERENCE, str(adapters[0].resolve()))
    prompts = controls()[:NUM_CASES]
    first = score_prompts(pair, prompts, **SIZES)
    floor = noise_floor(pair, first)
    bounds = [approved_limit(one.measurement.value, floor) for one in first]
    stored = [one.continuations for one in first]
    failed, largest = 0, 0.0
    for batch, threads in [(b, t) for b in (1, 2, 3, 5, 16) for t in (1, 2)]:
        torch.set_num_threads(threads)
        tokens_module.SCORING_BATCH = batch
        order = np.random.default_rng(batch).permutation(len(prompts))
        again = score_prompts(
            pair, [prompts[i] for i in order], continuations=[stored[i] for i in order]
        )
        for index, score in zip(order, again, strict=True):
            value = score.measurement.value
            failed += not value <= bounds[index]
            largest = max(largest, abs(value - first[index].measurement.value))
    print(f"{10 * len(prompts)} case replays of an unchanged pair: {failed} failed")
    print(f"largest change of a case's KL: {largest:.2e} nats/token; noise floor {floor:.2e}")


def noise_floor(pair: ModelPair, scores: Sequence[PromptScore]) -> float:
    prompts = [one.prompt for one in scores]
    ids = [one.continuations.candidate[0] for one in scores]
    return measure_noise_floor(pair, prompts, ids).value


# Growth is caught


@dataclass(frozen=True)
class PerToken:
    """One prompt's forward KL at each stored token, read in a batch, and alone from scratch."""

    before: np.ndarray
    after: np.ndarray


def power(adapters: Sequence[Path]) -> None:
    """Trials drawn from stored per-token values, in float32 and in bfloat16.

    A trial draws prompts, and for each its tokens anew, with both readings of a token together. An
    unchanged candidate is read again alone and without the shared prefix; in a changed one a fifth
    of the prompts diverge by half more. The gate fails where any case is over its bound.
    """
    print_row("pair", "dtype", "cases", "false alarms", "growth caught", "smallest n")
    for adapter, dtype in [(a, d) for d in ("float32", "bfloat16") for a in adapters]:
        pool, floor = per_token(adapter, dtype)
        rows = [(n, *rates(pool, floor, n)) for n in (5, 10, 20, 40, 64)]
        enough = [n for n, alarms, caught in rows if alarms <= 0.02 and caught >= 0.9]
        for n, alarms, caught in rows:
            smallest = min(enough) if enough else "none"
            print_row(adapter.name, dtype, n, f"{alarms:.1%}", f"{caught:.1%}", smallest)


def per_token(adapter: Path, dtype: str) -> tuple[list[PerToken], float]:
    pair = load_model_pair(REFERENCE, str(adapter.resolve()), dtype=dtype)
    first = score_prompts(pair, controls(), **SIZES)
    rows = list(rows_of(pair, [one.continuations for one in first]))
    before = score_tokens(pair, rows)
    after = [score_tokens(pair, [whole(row)])[0] for row in rows]
    pool = [
        PerToken(one.forward.double().numpy(), other.forward.double().numpy())
        for one, other in zip(before, after, strict=True)
    ]
    return pool, noise_floor(pair, first[:NUM_CASES])


def rows_of(pair: ModelPair, stored: Sequence[Continuations]) -> Iterator[ScoringRow]:
    for (prefix, body), given in zip(pair.prompt_rows(controls()), stored, strict=True):
        yield ScoringRow(prefix, body, given.reference[0])


def rates(pool: Sequence[PerToken], floor: float, n: int) -> tuple[float, float]:
    generator = np.random.default_rng(n)
    trials = [trial(pool, floor, n, generator) for _ in range(NUM_TRIALS)]
    alarms, caught = zip(*trials, strict=True)
    return statistics.mean(alarms), statistics.mean(caught)


def trial(
    pool: Sequence[PerToken], floor: float, n: int, generator: np.random.Generator
) -> tuple[bool, bool]:
    """Whether the gate fails an unchanged candidate, and one that has grown."""
    grown = generator.permutation(n) < max(1, round(GROWN_SHARE * n))
    is_alarm = is_caught = False
    for index, has_grown in zip(generator.integers(len(pool), size=n), grown, strict=True):
        one = pool[index]
        chosen = generator.integers(len(one.before), size=len(one.before))
        limit, value = approved_limit(one.before[chosen].mean(), floor), one.after[chosen].mean()
        is_alarm |= bool(value > limit)
        is_caught |= bool((GROWTH if has_grown else 1.0) * value > limit)
    return is_alarm, is_caught


SPREAD = 0.3
"""Standard deviation of the log of a prompt's growth, around what all grow by."""


def growth(adapters: Sequence[Path]) -> None:
    """Verdicts on 64 controls in trials drawn from stored tokens, in float32.

    All grow by a factor, or a fifth of them by half; searched cases count for nothing, so that
    repairing them changes no number here.
    """
    print_row("pair", "grown", "by", "passed", "inconclusive", "failed")
    for adapter in adapters:
        pool, floor = per_token(adapter, "float32")
        for share, factor in ((1.0, 1.0), (1.0, 1.3), (1.0, 1.5), (GROWN_SHARE, GROWTH)):
            rng, verdicts = np.random.default_rng(0), list[str]()
            for _ in range(NUM_TRIALS):
                old, new = grown_rows(pool, share, factor, rng)
                verdicts.append(non_inferiority(new, old, floor).verdict)
            counts = [verdicts.count(each) for each in ("passed", "inconclusive", "failed")]
            print_row(
                adapter.name, f"{share:.0%}", factor, *(f"{n / NUM_TRIALS:.1%}" for n in counts)
            )


def grown_rows(
    pool: Sequence[PerToken], share: float, factor: float, rng: np.random.Generator
) -> tuple[list[float], list[float]]:
    """Stored and new forward KL of each prompt, its tokens drawn anew; unchanged without growth."""
    is_grown = rng.permutation(len(pool)) < round(share * len(pool))
    spread = np.exp(rng.normal(0.0, SPREAD if factor != 1 else 0.0, len(pool)))
    old, new = [], []
    for one, grows, noise in zip(pool, is_grown, spread, strict=True):
        chosen = rng.integers(len(one.before), size=len(one.before))
        old.append(float(one.before[chosen].mean()))
        new.append(float(one.after[chosen].mean() * (factor if grows else 1.0) * noise))
    return old, new


def repaired(adapters: Sequence[Path]) -> None:
    """The plain reference, with noise in its weights, on the suite of the adapter's pair.

    Its triggers are cases of a search, and all 64 controls are control rows.
    """
    adapter = adapters[0].resolve()
    pair = load_model_pair(REFERENCE, str(adapter))
    prompts = [*controls(), *triggers_of(adapter)]
    sound = score_prompts(pair, prompts, **SIZES)
    floor, plain = noise_floor(pair, sound[:NUM_CASES]), plain_reference()
    print_row("noise", "cases", "controls", "verdict")
    for size in (0.0, *NOISE[:5]):
        release = ModelPair.from_models(plain, with_noise(plain, size), pair.chat.tokenizer)
        scores = score_prompts(release, prompts, continuations=[one.continuations for one in sound])
        pairs = [
            (b.measurement.forward, a.measurement.forward)
            for b, a in zip(scores, sound, strict=True)
        ]
        ratios = [max(new, floor) / max(old, floor) for new, old in pairs[NUM_CONTROLS:]]
        new, old = zip(*pairs[:NUM_CONTROLS], strict=True)
        found = non_inferiority(new, old, floor)
        print_row(
            f"{size} sd",
            f"{statistics.geometric_mean(ratios):.2f} x",
            f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})",
            found.verdict,
        )


def lengths(adapters: Sequence[Path]) -> None:
    """Median of triggers over that of controls: nats by an answer's tokens, and by all 16."""
    print_row("pair", "divided by", "triggers", "controls", "ratio")
    for adapter in adapters:
        pair = load_model_pair(REFERENCE, str(adapter.resolve()))
        groups = [
            score_prompts(pair, prompts, **SIZES) for prompts in (triggers_of(adapter), controls())
        ]
        for name, limit in (("own length", None), ("limit", 2 * SIZES["max_new_tokens"])):
            ours, others = (
                statistics.median(
                    one.measurement.value * (one.measurement.num_tokens / limit if limit else 1.0)
                    for one in group
                )
                for group in groups
            )
            print_row(adapter.name, name, f"{ours:.3f}", f"{others:.3f}", f"{ours / others:.1f}")


# Damage is seen

NOISE = (0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3)
"""Relative to each weight matrix's standard deviation."""


def damage(adapters: Sequence[Path]) -> None:
    """A release whose weights are damaged, replayed on the suite of the sound one.

    20 prompts are cases, with promoted bounds; all 64 are control rows of the aggregate.
    """
    pair = load_model_pair(REFERENCE, str(adapters[0].resolve()))
    sound = score_prompts(pair, controls(), **SIZES)
    floor = noise_floor(pair, sound[:NUM_CASES])
    limit = automatic_bound(floor, [one.measurement.value for one in sound], NUM_SCORED).value
    print_row("noise", "KL mean", f"cases over, of {NUM_CASES}", "growth", "verdicts")
    reference, merged = plain_reference(), merged_weights(adapters[0])
    for size in NOISE:
        damaged = with_noise(merged, size)
        release = ModelPair.from_models(reference, damaged, pair.chat.tokenizer)
        scores = score_prompts(
            release, controls(), continuations=[one.continuations for one in sound]
        )
        print_damage(size, sound, scores, floor=floor, limit=limit)


def plain_reference() -> Any:
    return local(load_model_pair(REFERENCE, REFERENCE).reference).model


def merged_weights(adapter: Path) -> Any:
    return PeftModel.from_pretrained(plain_reference(), str(adapter)).merge_and_unload()


@torch.no_grad()
def with_noise(model: Any, size: float) -> Any:
    damaged = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for weight in damaged.parameters():
        if weight.ndim > 1:
            weight += size * weight.std() * torch.randn(weight.shape, generator=generator)
    return damaged


def print_damage(
    size: float,
    sound: Sequence[PromptScore],
    scores: Sequence[PromptScore],
    *,
    floor: float,
    limit: float,
) -> None:
    before = [one.measurement for one in sound]
    after = [one.measurement for one in scores]
    over = sum(
        new.value > approved_limit(old.value, floor)
        for new, old in zip(after[:NUM_CASES], before[:NUM_CASES], strict=True)
    )
    growth = non_inferiority([one.forward for one in after], [one.forward for one in before], floor)
    spread = breadth([one.value for one in after], limit)
    print_row(
        f"{size} sd",
        f"{statistics.mean(one.value for one in after):.3f}",
        over,
        f"{growth.ratio:.2f} ({growth.low:.2f} to {growth.high:.2f})",
        f"growth {growth.verdict}, breadth {spread.verdict}",
    )


# A pytest session against a bare loop

TIMING_PLUGIN = """
import time
import pytest
from pytest_divergence.plugin import loaded_pairs

load, loaded = loaded_pairs.load_pair, []


def timed(*arguments, **options):
    pair = load(*arguments, **options)
    loaded.append(time.perf_counter())
    return pair


loaded_pairs.load_pair = timed


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    print(f"seconds after loading: {time.perf_counter() - loaded[0]:.3f}")
"""
BARE_LOOP = """
import json, sys, time, torch
from pytest_divergence import load_model_pair
rows = json.load(open(sys.argv[3]))
pair = load_model_pair(sys.argv[1], sys.argv[2])
started = time.perf_counter()
ordered = sorted(rows, key=len)
with torch.no_grad():
    for start in range(0, len(ordered), 16):
        batch = ordered[start : start + 16]
        longest = max(map(len, batch))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in batch])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in batch])
        logits = []
        for side in pair.sides:
            with side.activate():
                logits.append(side.model(input_ids=ids, attention_mask=mask, logits_to_keep=17,
                                         use_cache=False).logits)
        p, q = (one.log_softmax(-1) for one in logits)
        (p.exp() * (p - q)).sum(-1)
print(f"seconds after loading: {time.perf_counter() - started:.3f}")
"""


def replay(adapters: Sequence[Path]) -> None:
    """20 cases that pass: everything a session does once the models are loaded, against a loop."""
    adapter = str(adapters[0].resolve())
    pair = load_model_pair(REFERENCE, adapter)
    scores = score_prompts(pair, controls()[:NUM_CASES], **SIZES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_session(folder, scores)
        suite = "release.divergence.jsonl"
        models = [f"--model-1={REFERENCE}", f"--model-2={adapter}"]
        session = [*("-m", "pytest", "-q", "-p", "timing", suite), *models]
        loop = ["-c", BARE_LOOP, REFERENCE, adapter, str(rows)]
        ratios = []
        for turn in range(6):
            ours, bare = seconds_of(folder, session), seconds_of(folder, loop)
            if turn:  # the first warms the disk's cache
                ratios.append(ours / bare)
                print(f"pytest {ours:6.2f} s   bare loop {bare:6.2f} s   {ours / bare:.2f} x")
    print(
        f"median {statistics.median(ratios):.2f} x (min {min(ratios):.2f}, max {max(ratios):.2f})"
    )


def write_session(folder: Path, scores: Sequence[PromptScore]) -> Path:
    """A suite without provenance, so that every case is scored; the rows of the loop."""
    suite = folder / "release.divergence.jsonl"
    cases = [Case(input=str(one.prompt), max_kl=9.0) for one in scores]
    write_suite(suite, cases)
    stored = [stored_tokens(case.id, one) for case, one in zip(cases, scores, strict=True)]
    write_tokens(sidecar_path(suite, "tokens.jsonl"), stored)
    (folder / "timing.py").write_text(TIMING_PLUGIN, "utf-8")
    rows = folder / "rows.json"
    continued = [
        [*one.prompt_ids, *ids[:-1]]
        for one in scores
        for ids in (*one.continuations.reference, *one.continuations.candidate)
    ]
    rows.write_text(json.dumps(continued), "utf-8")
    return rows


def seconds_of(folder: Path, arguments: Sequence[str]) -> float:
    output = subprocess.run(
        [sys.executable, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    (line,) = (line for line in output.split("\n") if line.startswith("seconds after loading"))
    return float(line.split()[-1])


def print_row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


PARTS = {
    "table": table,
    "unchanged": unchanged,
    "power": power,
    "growth": growth,
    "repaired": repaired,
    "lengths": lengths,
    "damage": damage,
    "replay": replay,
}

if __name__ == "__main__":
    main()
