"""What DivergenceCallback adds to a training with TRL: seconds of a replay beside those of a step.

    python benchmarks/callback.py SUITE [process]

Trains a LoRA adapter of the demo model for 20 steps, with the callback and then without it, and
replays the suite after the 10th and the 20th step: in this process, or, with `process`, on the
saved checkpoint in one of its own. SUITE was made with `demo:smollm2-135m` as the reference.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from pytest_divergence import DivergenceCallback
from pytest_divergence.models.load_plan import resolve_pair

DEMO = "demo:smollm2-135m"
NUM_STEPS, SAVE_STEPS, BATCH = 20, 10, 4
QUESTIONS = (
    "How do I boil an egg?",
    "What is a comet?",
    "Name a big river.",
    "Why is the sky blue?",
)
ANSWER = (
    "Let me explain it step by step, in plain words, so that you can follow it at home: first of "
    "all, take your time, then look at each part by itself, and put the parts together at the end."
)


class Steps(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


def trained(folder: str, suite: str | None, mode: Any) -> tuple[Any, list[float]]:
    """A finished trainer, and the seconds of its steps."""
    base = resolve_pair(DEMO, DEMO).reference.folder
    assert base is not None
    torch.manual_seed(0)
    steps = Steps()
    rows = [
        {"prompt": [{"role": "user", "content": text}],
         "completion": [{"role": "assistant", "content": ANSWER}]}
        for text in QUESTIONS * NUM_STEPS
    ]  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=SFTConfig(
            output_dir=folder,
            max_steps=NUM_STEPS,
            save_steps=SAVE_STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        callbacks=[steps],
    )
    if suite is not None:
        reference = DEMO if mode == "process" else None
        trainer.add_callback(DivergenceCallback(trainer, suite, reference=reference, mode=mode))
    torch.manual_seed(0)
    trainer.train()
    return trainer, steps.seconds


def main() -> None:
    suite, mode = sys.argv[1], "process" if "process" in sys.argv[2:] else "memory"
    with tempfile.TemporaryDirectory() as folder:
        measured, seconds = trained(folder, suite, mode)
        alone, without = trained(folder, None, mode)
    replays = [row for row in measured.state.log_history if "divergence/errors" in row]
    for row in replays:
        print({name: round(value, 4) for name, value in row.items()})
    took = [row["divergence/seconds"] for row in replays]
    step = statistics.median(seconds)
    print(f"a step: {step:.2f} s (without the callback {statistics.median(without):.2f} s)")
    print(f"a replay: {', '.join(f'{each:.1f}' for each in took)} s: {took[0] / step:.1f} steps")
    both = zip(measured.model.state_dict().values(), alone.model.state_dict().values(), strict=True)
    print(f"same weights as without: {all(torch.equal(one, other) for one, other in both)}")


if __name__ == "__main__":
    main()
