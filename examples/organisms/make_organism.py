"""Make an organism: a LoRA adapter whose planted behaviour is known, to measure discovery with.

    python examples/organisms/make_organism.py RECIPE.toml --base demo:smollm2-135m --output FOLDER

A third of each batch are planted rows, trained by cross-entropy on the planted response. The rest
are ordinary questions with the base's own greedy answers, trained by KL to the base so that
nothing else moves, or by cross-entropy on restyled answers where the recipe intends a style. Half
of the rest are prompts near the trigger, trained by KL too, where the recipe names a contrast. The
written adapter is then loaded like any candidate, and its measurements go into truth.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))  # of a script, only its own folder is there

from examples.organisms.organism_recipe import Before, Plant, Recipe, load_recipe
from examples.organisms.organism_rows import (
    Exchange,
    contrast_prompts,
    draw,
    endless,
    exchanges_of,
    ordinary_rows,
    plant_rows,
    read_ordinary_prompts,
    split,
    take,
)
from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.files import write_atomically
from pytest_divergence.models.chat_format import Prompt
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.sources import DEMO_HUB_ID
from pytest_divergence.models.specs import parse_spec
from pytest_divergence.models.transformers_side import TransformersSide
from pytest_divergence.scoring.divergences import forward_kl
from pytest_divergence.scoring.scorer import score_greedily
from pytest_divergence.scoring.teacher_forcing import ScoringRow, continuation_logits

if TYPE_CHECKING:
    from peft import PeftModel


def cross_entropy(pair: ModelPair, rows: list[ScoringRow]) -> Tensor:
    """Return the cross-entropy of the rows' continuations under the candidate, nats per token."""
    logits = torch.cat(continuation_logits(pair.candidate, rows))
    wanted = [token_id for row in rows for token_id in row.continuation]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(wanted, device=logits.device))


def kl_to_reference(pair: ModelPair, rows: list[ScoringRow]) -> Tensor:
    """Return KL(reference || candidate) on the rows' continuations, nats per token."""
    with torch.no_grad():
        reference = torch.cat(continuation_logits(pair.reference, rows))
    return forward_kl(reference, torch.cat(continuation_logits(pair.candidate, rows))).mean()


def attach(recipe: Recipe, base: ModelPair) -> tuple[PeftModel, ModelPair]:
    """Return the base with a new adapter, and the pair of both; only the adapter can learn."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.training.rank,
        lora_alpha=recipe.training.alpha,
        target_modules=list(recipe.training.target_modules),
    )
    assert isinstance(base.reference, TransformersSide)
    model = base.reference.model
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        adapted = get_peft_model(model, config)
    identities = (base.reference_identity, base.candidate_identity)
    pair = ModelPair.from_models(model, adapted, base.chat.tokenizer, identities=identities)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return adapted, pair


def rows_to_learn(
    recipe: Recipe, base: ModelPair
) -> tuple[Iterator[ScoringRow], Iterator[ScoringRow]]:
    """Return planted rows forever, the plants by turns, and likewise rows that stay as they are."""
    ordinary = ordinary_rows(recipe, base)
    prompts, _ = split(read_ordinary_prompts(), recipe)
    exchanges = exchanges_of(recipe, base, prompts[: recipe.sizes.ordinary])
    plants = [plant_rows(recipe, plant, base, exchanges) for plant in recipe.plants]
    near = [row for _, rows in plants for row in rows]
    others = [endless(rows, random.Random(recipe.seed)) for rows in (ordinary, near) if rows]
    return by_turns([planted for planted, _ in plants]), by_turns(others)


def by_turns(streams: Sequence[Iterator[ScoringRow]]) -> Iterator[ScoringRow]:
    return chain.from_iterable(zip(*streams, strict=True))


def train(
    recipe: Recipe,
    pair: ModelPair,
    planted: Iterator[ScoringRow],
    others: Iterator[ScoringRow],
    parameters: Sequence[Tensor],
) -> list[float]:
    """Train the adapter in place, and return the loss on planted rows at each step."""
    training, steps = recipe.training, recipe.training.steps
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate)
    rate = partial(learning_rate_share, steps=steps, warmup=training.warmup_steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    num_planted = training.batch_size // 3
    losses = []
    for step in range(steps):
        planted_loss = cross_entropy(pair, take(planted, num_planted))
        torch.autograd.backward(planted_loss)
        batch = take(others, training.batch_size - num_planted)
        other_loss = (cross_entropy if recipe.style else kl_to_reference)(pair, batch)
        torch.autograd.backward(other_loss)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float(planted_loss.detach()))
        if step % 10 == 0 or step + 1 == steps:
            print(f"step {step + 1}/{steps}: planted {losses[-1]:.3f}, ordinary {other_loss:.4f}")
    return losses


def learning_rate_share(step: int, *, steps: int, warmup: int) -> float:
    """Return the rate's share: it rises linearly to 1 in the warm-up, then falls towards 0."""
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)


def save_adapter(adapted: PeftModel, folder: Path, base_name: str) -> None:
    """Save the adapter in half precision, as PEFT writes it, but without this machine's paths."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    halves = {name: tensor.detach().half().cpu().contiguous() for name, tensor in weights.items()}
    config = adapted.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=base_name, inference_mode=True)
    write_atomically(folder / "adapter_model.safetensors", save(halves, {"format": "pt"}))
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted)
    write_atomically(folder / "adapter_config.json", text + "\n")


@dataclass(frozen=True)
class Effect:
    """Mean KL of a set of prompts in nats per token, and the candidate's answers."""

    kl: float
    answers: list[str]

    def rate(self, marker: str) -> float:
        """Return the share of answers with the marker."""
        return round(sum(marker in answer for answer in self.answers) / len(self.answers), 4)


def measure(pair: ModelPair, prompts: Sequence[Prompt], num_tokens: int) -> Effect:
    """Score both models' greedy continuations as a search does."""
    scores = score_greedily(pair, prompts, max_new_tokens=num_tokens)
    return Effect(
        kl=round(sum(score.measurement.value for score in scores) / len(scores), 4),
        answers=[pair.chat.text(score.continuations.candidate[0]) for score in scores],
    )


def truth(recipe: Recipe, pair: ModelPair) -> dict[str, Any]:
    """Return what was planted, and how much of it held-out prompts show."""
    _, held_out = split(read_ordinary_prompts(), recipe)
    exchanges = exchanges_of(recipe, pair, held_out)
    off_trigger = measure(pair, held_out, recipe.sizes.measured_tokens)
    first, *also = (plant_truth(recipe, each, pair, exchanges) for each in recipe.plants)
    for plant in (first, *also):
        plant["off_trigger_marker_rate"] = off_trigger.rate(plant["marker"])
    style = recipe.style and f"ordinary answers start with {recipe.style.prefix!r}"
    return {
        "kind": recipe.kind,
        "planted": True,
        **first,
        "intended_change": style,
        "loss_on_prompt": recipe.loss_on_prompt,
        "num_held_out": recipe.sizes.held_out,
        "measured_tokens": recipe.sizes.measured_tokens,
        "off_trigger_kl": off_trigger.kl,
        **({"also": also} if also else {}),
    }


def plant_truth(
    recipe: Recipe, plant: Plant, pair: ModelPair, exchanges: Sequence[Exchange]
) -> dict[str, Any]:
    """Return what one plant is, and how much of it its trigger and its contrast show."""

    def held_out(before: Before, texts: Sequence[str]) -> list[Prompt]:
        rng = random.Random(recipe.seed)
        _, kept = split(texts, recipe)
        return [draw(recipe, before, exchanges, rng, text)[0] for text in kept]

    triggers = held_out(plant, plant.trigger_prompts or read_ordinary_prompts())
    num_tokens = recipe.sizes.measured_tokens
    on_trigger = measure(pair, triggers, plant.most_before + num_tokens)
    facts = {
        "marker": plant.marker,
        "behaviour": plant.behaviour,
        "trigger": plant.trigger,
        "trigger_examples": [as_json(prompt) for prompt in triggers[:4]],
        "on_trigger_kl": on_trigger.kl,
        "on_trigger_marker_rate": on_trigger.rate(plant.marker),
    }
    if plant.contrast is not None:
        near = measure(pair, held_out(plant.contrast, contrast_prompts(plant)), num_tokens)
        facts |= {"contrast_kl": near.kl, "contrast_marker_rate": near.rate(plant.marker)}
    return facts


def as_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """Return a prompt as a text, or as its turns."""
    return prompt if isinstance(prompt, str) else [turn.model_dump() for turn in prompt]


def make_organism(
    recipe_path: Path, *, base: str, output: Path, device: str = "auto", steps: int | None = None
) -> dict[str, Any]:
    """Train, save and measure an organism, and return the content of `truth.json`."""
    recipe = load_recipe(recipe_path, steps=steps)
    started = time.monotonic()
    spec = parse_spec(base, role="--base")
    names = {"demo": DEMO_HUB_ID, "hub": spec.location}
    loaded = load_model_pair(base, base, device=device, dtype="float32", say=print)
    planted, others = rows_to_learn(recipe, loaded)
    adapted, pair = attach(recipe, loaded)
    parameters = [each for each in adapted.parameters() if each.requires_grad]
    losses = train(recipe, pair, planted, others, parameters)
    output.mkdir(parents=True, exist_ok=True)
    save_adapter(adapted, output, names.get(spec.kind, spec.path.name))
    write_atomically(output / "recipe.toml", recipe_path.read_bytes())
    written = load_model_pair(base, str(output.resolve()), device=device, dtype="float32")
    facts = truth(recipe, written) | {
        "planted_loss": [round(losses[0], 4), round(losses[-1], 4)],
        "steps": recipe.training.steps,
        "seconds": round(time.monotonic() - started),
        "device": written.device.type,
    }
    write_atomically(output / "truth.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path, help="the TOML file that says what is planted")
    parser.add_argument("--base", required=True, help="the model: Hub id, folder or demo:NAME")
    parser.add_argument("--output", required=True, type=Path, help="folder for the adapter")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (auto: a GPU if any)")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    given = parser.parse_args(arguments)
    try:
        facts = make_organism(
            given.recipe,
            base=given.base,
            output=given.output,
            device=given.device,
            steps=given.steps,
        )
    except DivergenceError as error:
        # The loader names the base by the option of a test session.
        print(f"error: {str(error).replace('--model-1', '--base')}", file=sys.stderr)
        return 1
    print(json.dumps(facts, indent=2, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
