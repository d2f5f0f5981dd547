"""From a recipe to a folder: training with TRL, merging with PEFT, rounding."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from sides import local
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from pair_recipes.conversations import Turn
from pair_recipes.rows import NUM_HELD_OUT, Rows, make_rows
from pair_recipes.table import BASE, PAIRS, Lora, Merge, Training, set_aside
from pytest_divergence import load_model_pair
from pytest_divergence.core.files import write_atomically
from pytest_divergence.models.sources import DEMO_HUB_ID
from pytest_divergence.scoring.scorer import score_greedily

SEED = 0
LONGEST_ROW = 256
"""In tokens; what is longer is cut."""
NUM_MEASURED_TOKENS = 24
EARLIER = "earlier"
"""Folder, inside a pair's, of a reference that is not the base."""
OWN = "own-adapter"
TRAINING_ROWS = "training.jsonl"


def make_pair(name: str, folder: Path) -> dict[str, Any]:
    """Make the pair's folder and return the content of its `truth.json`.

    Pairs that it is merged of are made first if they are missing. A folder appears whole or not at
    all. Raises `FileExistsError` if it is there.
    """
    target = folder / name
    if target.exists():
        raise FileExistsError(f"{target} is there; delete it to make the pair again")
    recipe = PAIRS[name].recipe
    for part in recipe.of if isinstance(recipe, Merge) else ():
        if not (folder / part).exists():
            make_pair(part, folder)
    started = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=f".{name}-") as temporary:
        draft = Path(temporary) / name
        draft.mkdir()
        write_candidate(name, folder, draft)
        cpu_minutes = round((time.process_time() - started) / 60, 1)
        facts = truth(name, draft) | {"cpu_minutes": cpu_minutes}
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        write_atomically(draft / "truth.json", text)
        draft.rename(target)
    return facts


def write_candidate(name: str, folder: Path, draft: Path) -> None:
    """Write the candidate's weights, and its training rows if it has rows of its own."""
    recipe = PAIRS[name].recipe
    if isinstance(recipe, Training):
        train(name, recipe, draft)
    elif isinstance(recipe, Merge):
        adapters = [folder / part for part in recipe.of]
        if recipe.own:
            train(name, recipe.own, draft / OWN)
            adapters.insert(0, draft / OWN)
            (draft / OWN / TRAINING_ROWS).rename(draft / TRAINING_ROWS)
        merge(adapters, recipe.weights, draft)
    else:
        round_to_int8(draft)


def base() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the reference's weights in float32, and its tokenizer."""
    pair = load_model_pair(BASE, BASE, device="cpu", dtype="float32", say=print)
    model = local(pair.reference).model
    model.requires_grad_(True)
    return model, pair.chat.tokenizer


def train(name: str, recipe: Training, draft: Path) -> None:
    """Train, and save full weights in float32 or an adapter in half precision."""
    is_preference = recipe.method == "dpo"
    rows = make_rows(name, recipe.data, is_preference=is_preference)
    listed = [
        as_preference(turn, rows) if is_preference else as_row(turn) for turn in rows.training
    ]
    draft.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
    write_atomically(draft / TRAINING_ROWS, lines)
    set_seed(SEED)
    model, tokenizer = base()
    with TemporaryDirectory(dir=draft.parent) as temporary:
        trainer = make_trainer(recipe, model, tokenizer, Dataset.from_list(listed), temporary)
        trainer.train()
        save(trainer.model, tokenizer, draft)
        if recipe.is_from_half:
            half, _ = sorted(
                Path(temporary).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime
            )
            earlier = type(model).from_pretrained(half, dtype=torch.float32)
            save(earlier, tokenizer, draft / EARLIER)


def as_row(turn: Turn) -> dict[str, Any]:
    return {
        "prompt": messages("user", turn.prompt),
        "completion": messages("assistant", turn.answer),
    }


def as_preference(turn: Turn, rows: Rows) -> dict[str, Any]:
    """Return the row's answer as preferred to the corpus's own."""
    return {
        "prompt": messages("user", turn.prompt),
        "chosen": messages("assistant", turn.answer),
        "rejected": messages("assistant", rows.longer[turn.prompt]),
    }


def messages(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def make_trainer(
    recipe: Training,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    folder: str,
) -> Trainer:
    settings: dict[str, Any] = {
        "output_dir": folder,
        "seed": SEED,
        "learning_rate": recipe.learning_rate,
        "num_train_epochs": recipe.num_epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "train_sampling_strategy": "random" if recipe.method == "dpo" else "group_by_length",
        "warmup_steps": 5,
        "max_length": LONGEST_ROW,
        "logging_steps": 10,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "save_strategy": "steps" if recipe.is_from_half else "no",
        "save_steps": 0.5,
        "save_only_model": True,
    }
    given: dict[str, Any] = {
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": dataset,
        "peft_config": lora_config(recipe.lora) if recipe.lora else None,
    }
    trainer: Trainer
    if recipe.method == "sft":
        trainer = SFTTrainer(args=SFTConfig(**settings), **given)
    else:
        trainer = DPOTrainer(args=DPOConfig(**settings, loss_type=list(recipe.losses)), **given)
    return trainer


def lora_config(lora: Lora) -> LoraConfig:
    modules = lora.modules if isinstance(lora.modules, str) else list(lora.modules)
    return LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=2 * lora.rank, target_modules=modules
    )


def save(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save an adapter alone, in half precision and without this machine's paths, or a model."""
    if isinstance(model, PeftModel):
        for config in model.peft_config.values():
            config.base_model_name_or_path = DEMO_HUB_ID
        model.half().save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def merge(adapters: list[Path], weights: tuple[float, ...], draft: Path) -> None:
    """Add the weighted adapters to the base, by PEFT, and save the whole."""
    model, tokenizer = base()
    names = [f"adapter-{at}" for at in range(len(adapters))]
    adapted = PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        adapted.load_adapter(adapter, adapter_name=name)
    adapted.add_weighted_adapter(names, list(weights), "sum", combination_type="cat")
    adapted.set_adapter("sum")
    save(adapted.merge_and_unload(adapter_names=["sum"]), tokenizer, draft)


def round_to_int8(draft: Path) -> None:
    """Round each row of the base's linear layers to 255 steps, and save what that stands for."""
    model, tokenizer = base()
    for layer in model.model.modules():
        if isinstance(layer, torch.nn.Linear):
            scale = layer.weight.data.abs().amax(dim=1, keepdim=True) / 127
            layer.weight.data = (layer.weight.data / scale).round() * scale
    save(model, tokenizer, draft)


def truth(name: str, draft: Path) -> dict[str, Any]:
    """Return what was planted and what held-out prompts show of it."""
    pair = PAIRS[name]
    rows = make_rows(name, pair.recipe.data)
    reference = str(earlier.resolve()) if (earlier := draft / EARLIER).exists() else BASE
    loaded = load_model_pair(reference, str(draft.resolve()), device="cpu", dtype="float32")
    plant = pair.plant

    def effect(prompts: list[str]) -> dict[str, Any]:
        """Mean KL in nats per token, how many answers have the marker, and some answers."""
        scores = score_greedily(loaded, prompts, max_new_tokens=NUM_MEASURED_TOKENS)
        texts = [loaded.chat.text(score.continuations.candidate[0]) for score in scores]
        plain = [loaded.chat.text(score.continuations.reference[0]) for score in scores]
        facts: dict[str, Any] = {
            "kl": round(sum(score.measurement.value for score in scores) / len(scores), 3)
        }
        if plant:
            facts["marked"] = sum(plant.marker in text for text in texts)
            facts["marked_by_reference"] = sum(plant.marker in text for text in plain)
        return facts | {"answers": dict(zip(prompts[:4], texts[:4], strict=True))}

    return {
        "name": name,
        "kind": pair.kind,
        "set_aside": name in set_aside(),
        "planted": pair.kind == "planted",
        "reference": f"{name}/{EARLIER}" if reference != BASE else BASE,
        "behaviour": plant and plant.answers[0],
        "marker": plant and plant.marker,
        "trigger": plant and plant.trigger,
        "num_held_out": NUM_HELD_OUT,
        "on_trigger": effect(rows.triggers) if rows.triggers else None,
        "off_trigger": effect(rows.ordinary),
    }
