"""Peak memory, each figure from a process of its own.

    python benchmarks/memory.py pair demo:smollm2-135m demo:travel-advert
    python benchmarks/memory.py vocabulary
    python benchmarks/memory.py checkpointing demo:smollm2-135m demo:travel-advert

`pair`: an adapter pair against the reference alone. `vocabulary`: what scoring, and a training
step, take above two models of 262,144 tokens in float32, over 2,048 positions, with logits made a
piece at a time and all at once. `checkpointing`: a training step on long texts that keeps what is
inside the layers, and one that computes it twice.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

VOCABULARY, NUM_POSITIONS, NUM_ROWS = 262_144, 2_048, 16

PEAK = """
import sys
def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def forget_peak():
    open("/proc/self/clear_refs", "w").write("5")
"""

SCORE = (
    PEAK
    + """
from pytest_divergence import load_model_pair, score_prompts
pair = load_model_pair(sys.argv[1], sys.argv[2])
score_prompts(pair, ["How do I tie a knot?"] * 8, num_continuations=1, max_new_tokens=16)
print(peak())
"""
)

LARGE = (
    PEAK
    + """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from pytest_divergence.discovery.soft_prompts.objectives import (
    SoftPromptObjective, initial_parameter,
)
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.models import output_head
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.teacher_forcing import ScoringRow, score_tokens
from tests.tiny import tiny_tokenizer
work, path, vocabulary, num_rows, length = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
if path == "plain":
    output_head.WHOLE_BYTES = 10**18
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, eos_token_id=2, pad_token_id=0,
)
pair = ModelPair.from_models(LlamaForCausalLM(config), LlamaForCausalLM(config), tiny_tokenizer())
rows = [torch.randint(20, vocabulary, (length,)) for _ in range(num_rows)]
# What reads the first few tokens once is no part of the peak: libraries load then.
score_tokens(pair, [ScoringRow((), torch.arange(20, 24), (5, 6))])
forget_peak()
before = peak()
if work == "score":
    given = [ScoringRow((), torch.arange(20, 24), tuple(row.tolist())) for row in rows]
    print(float(sum(one.forward.double().sum() for one in score_tokens(pair, given))))
else:
    settings = TrainingConfig(
        num_virtual_tokens=8, objective="log_ratio", target_ids=tuple(rows[0].tolist())
    )
    parameter = initial_parameter(pair, settings).requires_grad_(True)
    texts = [torch.arange(20, 24)] * num_rows
    SoftPromptObjective(pair, settings, parameter).values(texts).mean().backward()
    print(float(parameter.grad.double().norm()))
print(peak() - before)
"""
)

TRAIN = (
    PEAK
    + """
import time, torch
from pytest_divergence import load_model_pair
from pytest_divergence.discovery.soft_prompts.objectives import (
    SoftPromptObjective, initial_parameter,
)
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
pair = load_model_pair(sys.argv[1], sys.argv[2])
settings = TrainingConfig(gradient_checkpointing=sys.argv[3] == "on")
parameter = initial_parameter(pair, settings).requires_grad_(True)
rows = [torch.randint(20, 40_000, (128,), generator=torch.Generator().manual_seed(n))
        for n in range(4)]
forget_peak()
before, started = peak(), time.process_time()
SoftPromptObjective(pair, settings, parameter).values(rows).mean().backward()
print(float(parameter.grad.double().norm()))
print(time.process_time() - started)
print(peak() - before)
"""
)


def printed(program: str, *arguments: object) -> list[float]:
    """The numbers that a process prints; memory in it is in KiB."""
    output = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [float(line) for line in output.splitlines()]


def pair(model_1: str, adapter: str) -> None:
    printed(SCORE, model_1, model_1)  # the demo's conversion, if any, is not what is measured
    alone, both = (printed(SCORE, model_1, one)[0] / 1024 for one in (model_1, adapter))
    print(f"reference alone  {alone:7.0f} MB")
    print(f"adapter pair     {both:7.0f} MB")
    print(f"ratio            {both / alone:7.2f}")


def vocabulary() -> None:
    print("above the models      pieces      all at once   largest difference of the result")
    for work in ("score", "train"):
        sizes = VOCABULARY, NUM_ROWS, NUM_POSITIONS // NUM_ROWS
        (late, late_peak), (whole, whole_peak) = (
            printed(LARGE, work, path, *sizes) for path in ("pieces", "plain")
        )
        print(
            f"{work:12} {late_peak / 1024:12.0f} MB {whole_peak / 1024:12.0f} MB   "
            f"{abs(late / whole - 1):.1e} of it"
        )


def checkpointing(model_1: str, model_2: str) -> None:
    print("above the models   peak         CPU seconds   gradient's norm")
    for setting in ("off", "on"):
        norm, seconds, above = printed(TRAIN, model_1, model_2, setting)
        print(f"{setting:12} {above / 1024:10.0f} MB {seconds:13.1f} {norm:17.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=("pair", "vocabulary", "checkpointing"))
    parser.add_argument("models", nargs="*", metavar="MODEL", help="reference and candidate")
    given = parser.parse_args()
    works: dict[str, Callable[..., None]] = {
        "pair": pair,
        "vocabulary": vocabulary,
        "checkpointing": checkpointing,
    }
    works[given.what](*given.models)


if __name__ == "__main__":
    main()
