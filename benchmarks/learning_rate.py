"""How far a soft prompt comes at several learning rates: why the default is not 1e-4.

    python benchmarks/learning_rate.py demo:smollm2-135m demo:travel-advert

One epoch over shipped seed prompts, then prompts written with what was trained. All rates start at
the same vectors. `moved` is the distance from there, over the start's own length.
"""

from __future__ import annotations

import argparse
import time

from pytest_divergence import DivergenceTrainer, ModelPair, TrainingConfig, load_model_pair
from pytest_divergence.discovery.prompt_files import SHIPPED_SEEDS, shipped_prompts
from pytest_divergence.discovery.soft_prompts.objectives import initial_parameter

NUM_VALIDATION = 8
NUM_WRITTEN = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_1")
    parser.add_argument("model_2")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 1e-2])
    parser.add_argument("--num-texts", type=int, default=120)
    parser.add_argument("--num-epochs", type=int, default=1)
    given = parser.parse_args()
    pair = load_model_pair(given.model_1, given.model_2)
    texts = shipped_prompts(SHIPPED_SEEDS, NUM_VALIDATION + given.num_texts)
    print("rate     steps  validation, nats  moved  D_hard, nats  seconds")
    for rate in given.rates:
        config = TrainingConfig(
            num_epochs=given.num_epochs,
            batch_size=4,
            learning_rate=rate,
            max_text_tokens=64,
            validate_every=15,
        )
        print(row(pair, config, texts), flush=True)


def row(pair: ModelPair, config: TrainingConfig, texts: list[str]) -> str:
    started = time.perf_counter()
    trainer = DivergenceTrainer.from_pair(pair, config)
    result = trainer.train(texts[NUM_VALIDATION:], texts[:NUM_VALIDATION])
    history = result.history
    start = initial_parameter(pair, config).cpu()
    moved = (result.soft_prompt.prompt_embeds - start).norm() / start.norm()
    d_hard = trainer.select_prompts(8, num_written=NUM_WRITTEN, max_new_tokens=24).d_hard
    seconds = time.perf_counter() - started
    return (
        f"{config.learning_rate:<8g} {len(history.loss):5}  {history.validation[0]:6.3f} -> "
        f"{history.validation[-1]:6.3f}  {float(moved):5.2f}  {d_hard:12.3f}  {seconds:7.0f}"
    )


if __name__ == "__main__":
    main()
