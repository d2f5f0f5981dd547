"""Estimates of a served candidate's divergence, from the tokens that its server tells of.

Asks a llama.cpp server for whole distributions, so that every estimate can be compared with the
value from all tokens:

    python benchmarks/served.py estimates MODEL_1 MODEL_2 llamacpp:URL [PROMPTS]

MODEL_2 are the weights that the server was made of; a suite on them is what it is gated by. And the
cost of a replay against the server:

    python benchmarks/served.py replay MODEL_1 llamacpp:URL [PROMPTS]

KL from llama.cpp's own probabilities of both models, beside that of the weights here, at the same
positions:

    python benchmarks/served.py agreement MODEL_1 MODEL_2 llamacpp:URL_1 llamacpp:URL_2 [PROMPTS]

And a gate with a recorded reference against one with both models, each in a process of its own:

    python benchmarks/served.py recorded SUITE MODEL_1 MODEL_2
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from pytest_divergence import ModelPair, load_model_pair, score_prompts
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.models.endpoints.llamacpp import LlamaCppServer
from pytest_divergence.models.endpoints.served_side import ServedSide
from pytest_divergence.models.side import Role, Side, Told
from pytest_divergence.scoring.continuations import Continuations
from pytest_divergence.scoring.estimates import importance_weights, k3, token_scores, told_by_both
from pytest_divergence.scoring.teacher_forcing import read_prompts

LENGTH = 16
HEADS = (20, 64)


def whole(pair: ModelPair) -> ModelPair:
    """The pair whose servers tell of every token."""
    return replace(
        pair, reference=telling_all(pair.reference), candidate=telling_all(pair.candidate)
    )


def telling_all(side: Side) -> Side:
    if not isinstance(side, ServedSide):
        return side
    assert isinstance(side.dialect, LlamaCppServer)
    return replace(side, dialect=replace(side.dialect, num_told=side.dialect.vocab_size))


def cut(told: Told, size: int) -> Told:
    return replace(told, head_ids=told.head_ids[:, :size], head=told.head[:, :size])


def both_told(pair: ModelPair, prompt: str, ids: Sequence[int]) -> tuple[Told, Told]:
    ((prefix, body),) = pair.prompt_rows([prompt])
    ((reference, candidate),) = told_by_both(
        read_prompts(pair, [body], prefix=prefix), [0], [list(ids)]
    )
    return reference, candidate


def direction(
    reference: Told, candidate: Told, writer: Role, log_p: Sequence[float] | None
) -> float:
    """KL from the model that wrote to the other one, nats per token.

    `log_p` is ln p of the tokens by the weights that have sampled them in the server's place.
    """
    scores = token_scores(reference, candidate, writer, log_p)
    return float((scores.forward if writer == "reference" else scores.reverse).mean())


def of_chosen(
    reference: Told, candidate: Told, writer: Role, log_p: Sequence[float] | None
) -> float:
    sign = 1 if writer == "reference" else -1
    values = k3(sign * (candidate.chosen.double() - reference.chosen.double()))
    return float((importance_weights(candidate.chosen, log_p) * values).mean())


def values_of(pair: ModelPair, prompt: str, given: Continuations) -> dict[str, float]:
    """Symmetric KL of a prompt by each kind of evidence."""
    parts: dict[str, list[float]] = {}
    assert given.candidate_log_p is not None  # they were sampled here
    written: list[tuple[Role, tuple[int, ...], Sequence[float] | None]] = [
        ("reference", given.reference[0], None),
        ("candidate", given.candidate[0], given.candidate_log_p[0]),
    ]
    for writer, ids, log_p in written:
        reference, candidate = both_told(pair, prompt, ids)
        parts.setdefault("full", []).append(direction(reference, candidate, writer, log_p))
        parts.setdefault("chosen", []).append(of_chosen(reference, candidate, writer, log_p))
        for size in HEADS:
            value = direction(reference, cut(candidate, size), writer, log_p)
            parts.setdefault(f"head:{size}", []).append(value)
    return {name: statistics.fmean(both) for name, both in parts.items()}


def estimates(model_1: str, model_2: str, served: str, count: int) -> None:
    local, pair = load_model_pair(model_1, model_2), whole(load_model_pair(model_1, served))
    prompts = shipped_prompts(SHIPPED_CONTROLS, count)
    made = score_prompts(local, prompts, num_continuations=1, max_new_tokens=LENGTH)
    rows = []
    for prompt, score in zip(prompts, made, strict=True):
        found = values_of(pair, prompt, score.continuations)
        stored = score.measurement
        assert stored.k3 is not None
        found["carried on"] = stored.value + found["chosen"] - stored.k3
        rows.append(found)
        print(f"{stored.value:8.4f} {found}", flush=True)
    full = [row["full"] for row in rows]
    print(f"\nmean of {count} prompts, all tokens: {statistics.fmean(full):.4f} nats/token")
    for name in ("chosen", *(f"head:{size}" for size in HEADS), "carried on"):
        errors = [row[name] - row["full"] for row in rows]
        bias = statistics.fmean(errors) / statistics.fmean(full)
        error = bias and statistics.stdev(errors) / math.sqrt(count) / statistics.fmean(full)
        spread = math.sqrt(statistics.fmean([value**2 for value in errors]))
        relative = statistics.median(abs(e) / f for e, f in zip(errors, full, strict=True))
        over = sum(row[name] > 1.25 * row["full"] for row in rows)
        print(
            f"{name:10}  mean error {bias:+.1%} (standard error {error:.1%})  root mean square "
            f"{spread / statistics.fmean(full):.1%} of the mean  median {relative:.1%} of a row's "
            f"own value  over by a quarter: {over} of {count}"
        )


def agreement(model_1: str, model_2: str, served_1: str, served_2: str, count: int) -> None:
    local = load_model_pair(model_1, model_2)
    pair = whole(load_model_pair(f"{served_1},tokenizer={model_1}", served_2))
    prompts = shipped_prompts(SHIPPED_CONTROLS, count)
    made = score_prompts(local, prompts, num_continuations=1, max_new_tokens=LENGTH)
    ours, theirs, same_top = list[float](), list[float](), list[float]()
    for prompt, score in zip(prompts, made, strict=True):
        (ids,) = score.continuations.candidate
        scores = token_scores(*both_told(pair, prompt, ids), "candidate")
        ours += score.on_candidate[0].forward.tolist()
        theirs += scores.forward.tolist()
        same_top += scores.same_top.tolist()
    for name, values in (("weights", ours), ("llama.cpp", theirs)):
        median, p99 = np.quantile(values, (0.5, 0.99))
        print(f"{name:10} mean {np.mean(values):.4f} median {median:.4f} 99 % {p99:.3f}", end=" ")
        print(f"largest {max(values):.3f}, {len(values)} positions")
    print(f"rank correlation {stats.spearmanr(ours, theirs).statistic:.4f}")
    print(f"same top of llama.cpp's two models {statistics.fmean(same_top):.2%}")


def replay(model_1: str, served: str, count: int) -> None:
    pair = load_model_pair(model_1, served)
    prompts = shipped_prompts(SHIPPED_CONTROLS, count)
    made = score_prompts(pair, prompts, num_continuations=1, max_new_tokens=LENGTH)
    given = [score.continuations for score in made]
    positions = sum(score.measurement.num_tokens for score in made)
    started = time.perf_counter()
    score_prompts(pair, prompts, continuations=given)
    seconds = time.perf_counter() - started
    print(f"{count} rows, {positions} positions, as many requests: {seconds:.1f} s, ", end="")
    print(f"{1000 * seconds / positions:.1f} ms a position")


def recorded(suite: str, model_1: str, model_2: str) -> None:
    for _ in range(3):
        for reference in (model_1, f"recorded:{suite}"):
            words = [suite, f"--model-1={reference}", f"--model-2={model_2}", "-q", "-Wignore"]
            started = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-m", "pytest", *words])
            _, _, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            print(f"{reference}: {seconds:.1f} s, {used.ru_maxrss / 1024:.0f} MB", flush=True)


if __name__ == "__main__":
    way, *words = sys.argv[1:]
    named = [word for word in words if not word.isdigit()]
    size = next((int(word) for word in words if word.isdigit()), 12)
    if way == "estimates":
        estimates(named[0], named[1], named[2], size)
    elif way == "agreement":
        agreement(named[0], named[1], named[2], named[3], size)
    elif way == "replay":
        replay(named[0], named[1], size)
    else:
        recorded(named[0], named[1], named[2])
