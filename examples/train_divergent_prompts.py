"""Train a soft prompt that drives two models apart, and keep a dataset of divergent prompts.

    python examples/train_divergent_prompts.py \
        --model-1 demo:smollm2-135m --model-2 demo:travel-advert \
        --train-file train.jsonl --val-file val.txt --output-dir divergent-prompts \
        --num-epochs 10 --num-soft-prompt-tokens 8 --batch-size 4

This is `pytest-divergence train`; `--help` explains every option. Only the models and the output
folder are required. The defaults are 8 tokens, batches of 4 and 10 epochs. The learning rate is
0.01, not the 0.0001 usual for fine-tuning a whole model: Adam moves each number of a vector by
about the learning rate per step, and the vectors must move a long way from where they start.

The same in Python, on models in memory:

    trainer = DivergenceTrainer(model_1, model_2, tokenizer, TrainingConfig(num_epochs=10))
    trainer.train(texts, validation_texts)
    trainer.generate_divergent_dataset(output_file="divergent_dataset.pt")
    print(ModelEvaluator(model_1, model_2, prompts, tokenizer).run_evaluation())
"""

from __future__ import annotations

import sys

from pytest_divergence.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
