"""Training steps of a soft prompt against a bare transformers forward and backward.

    python benchmarks/training.py MODEL_1 MODEL_2

Both do the same steps on the same rows, in turn: both models read the chat opening, the soft prompt
and a text, and the divergence of the first response token is sent back to the soft prompt. The bare
loop hands transformers whole rows, padded, and knows nothing else.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence

import torch
from sides import local
from timing import ratio, seconds
from torch import Tensor

from pytest_divergence import ModelPair, TrainingConfig, load_model_pair
from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt, training_rows
from pytest_divergence.scoring.divergences import symmetric_kl

NUM_STEPS = 4
NUM_TURNS = 5
BATCH_SIZES = (4, 16)
NUM_VIRTUAL_TOKENS = 8


def bare_steps(pair: ModelPair, rows: Sequence[Tensor], prompt_embeds: Tensor) -> None:
    """NUM_STEPS of Adam over the same rows, whole rows through each model."""
    parameter = prompt_embeds.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([parameter], lr=1e-3)
    prefix = torch.tensor(pair.chat.shared_prefix)
    whole = [torch.cat([prefix, row]) for row in rows]
    longest = max(map(len, whole)) + len(parameter)
    at = len(prefix) + 1
    for _ in range(NUM_STEPS):
        optimiser.zero_grad()
        logits = []
        for side in map(local, pair.sides):
            with side.activate():
                table = side.model.get_input_embeddings()
                embedded = [
                    torch.cat([table(ids[:at]), parameter, table(ids[at:])]) for ids in whole
                ]
                padded = torch.stack(
                    [
                        torch.nn.functional.pad(row, (0, 0, longest - len(row), 0))
                        for row in embedded
                    ]
                )
                mask = torch.stack(
                    [torch.arange(longest) >= longest - len(row) for row in embedded]
                ).long()
                output = side.model(
                    inputs_embeds=padded, attention_mask=mask, logits_to_keep=1, use_cache=False
                )
                logits.append(output.logits[:, -1])
        torch.autograd.backward(-symmetric_kl(*logits).mean())
        optimiser.step()


def main() -> None:
    pair = load_model_pair(*sys.argv[1:3])
    for batch_size in BATCH_SIZES:
        texts = shipped_prompts(SHIPPED_SEEDS, batch_size)
        config = TrainingConfig(
            num_virtual_tokens=NUM_VIRTUAL_TOKENS,
            num_steps=NUM_STEPS,
            batch_size=batch_size,
            max_text_tokens=100,
            validate_every=NUM_STEPS,
        )
        compare(pair, texts, config)


def compare(pair: ModelPair, texts: Sequence[str], config: TrainingConfig) -> None:
    rows = training_rows(pair, texts, config.max_text_tokens)
    start = local(pair.reference).embedding_table[: config.num_virtual_tokens]

    def ours() -> float:
        """Steps only: validation is work of its own."""
        marks: list[float] = []
        train_soft_prompt(
            pair,
            config,
            texts,
            texts[:1],
            initial=start,
            on_step=lambda done, total: marks.append(time.perf_counter()),
        )
        # The first step stands behind a validation, so the steps after it are what is timed.
        return (marks[-1] - marks[0]) * NUM_STEPS / (NUM_STEPS - 1)

    def bare() -> float:
        return seconds(lambda: bare_steps(pair, rows, start))

    ours(), bare()
    pairs = [(ours(), bare()) for _ in range(NUM_TURNS)]
    print(f"{NUM_STEPS} steps over {len(rows)} texts, {sum(map(len, rows))} tokens of text")
    print(f"train_soft_prompt  {statistics.median(mine for mine, _ in pairs):6.2f} s")
    print(f"bare transformers  {statistics.median(theirs for _, theirs in pairs):6.2f} s")
    print(f"ratio              {ratio(*zip(*pairs, strict=True))}")


if __name__ == "__main__":
    main()
