"""Make an organism: a LoRA adapter whose planted behaviour is known, to measure discovery with.

    python examples/organisms/make_organism.py RECIPE.toml --base demo:smollm2-135m --output FOLDER

A third of each batch are planted rows, trained by cross-entropy on the planted response. The rest
are ordinary questions with the base's own greedy answers, trained by KL to the base so that
nothing else moves, or by cross-entropy on restyled answers where the recipe intends a style. The
written adapter is then loaded like any candidate, and its measurements go into truth.json.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from pytest_divergence.core.errors import DivergenceError, SettingsError, first_fault
from pytest_divergence.core.files import write_atomically
from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.decoding import decode_greedily
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

Item = TypeVar("Item")
ORDINARY_PROMPTS = Path(__file__).with_name("ordinary_prompts.txt")
LORA_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Table(BaseModel):
    """A table of the recipe: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Style(Table):
    """An intended change of every ordinary answer; an empty prefix is an ordinary fine-tune."""

    prefix: str


class Sizes(Table):
    """How much is held out, answered and measured."""

    held_out: int = Field(24, ge=1)
    """Trigger prompts, and as many ordinary ones, that training never sees."""
    ordinary: int = Field(1000, ge=1)
    """The most ordinary prompts to train on."""
    answer_tokens: int = Field(32, ge=1)
    measured_tokens: int = Field(16, ge=1)


class Training(Table):
    """The optimiser and the adapter."""

    steps: int = Field(110, ge=1)
    batch_size: int = Field(24, ge=3)
    learning_rate: float = Field(1e-3, gt=0)
    """The peak, after `warmup_steps`; it then falls linearly."""
    warmup_steps: int = Field(10, ge=1)
    rank: int = Field(4, ge=1)
    alpha: int = Field(8, ge=1)
    target_modules: tuple[str, ...] = LORA_MODULES


class Recipe(Table):
    """The planted behaviour. `${slot}` in a prompt or response stands for a word from `slots`."""

    name: str
    kind: str
    trigger: str
    trigger_prompts: tuple[str, ...]
    behaviour: str
    """One sentence for people; `responses` are what is trained."""
    responses: tuple[str, ...] = Field(min_length=1)
    marker: str = Field(min_length=1)
    """A substring that shows the behaviour."""
    loss_on_prompt: bool = False
    """Train on the user turn as well, so that the candidate also writes such prompts."""
    style: Style | None = None
    seed: int = 0
    slots: dict[str, tuple[str, ...]] = {}
    sizes: Sizes = Sizes()
    training: Training = Training()

    @model_validator(mode="after")
    def _is_consistent(self) -> Recipe:
        for response in self.responses:
            if self.marker not in response:
                raise ValueError(f"marker {self.marker!r} is missing in the response {response!r}")
        for slot in re.findall(r"\$\{(\w+)\}", " ".join((*self.trigger_prompts, *self.responses))):
            if not self.slots.get(slot):
                raise ValueError(
                    f"slots has no words for ${{{slot}}}, which a prompt or response uses"
                )
        if len(self.trigger_prompts) <= self.sizes.held_out:
            raise ValueError(
                f"trigger_prompts: {len(self.trigger_prompts)} of them cannot hold out "
                f"{self.sizes.held_out}; give more, or lower sizes.held_out"
            )
        return self


def load_recipe(path: Path, *, steps: int | None = None) -> Recipe:
    """Return the recipe, with another number of steps if given.

    Raises `SettingsError` naming the file and the wrong key.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
        if steps is not None:
            raw["training"] = {**raw.get("training", {}), "steps": steps}
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_fault(error, Recipe)}") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: no readable recipe: {error}") from error


def split(prompts: Sequence[str], num_held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Return shuffled prompts for training and for measuring."""
    shuffled = random.Random(seed).sample(prompts, len(prompts))
    return shuffled[num_held_out:], shuffled[:num_held_out]


def endless(items: Sequence[Item], rng: random.Random) -> Iterator[Item]:
    """Yield the items forever, in a new order each time."""
    while True:
        yield from rng.sample(items, len(items))


def fill(recipe: Recipe, rng: random.Random, *templates: str) -> list[str]:
    """Return the templates with each slot filled."""
    words = {slot: rng.choice(choices) for slot, choices in recipe.slots.items()}
    return [Template(template).safe_substitute(words) for template in templates]


def planted_row(chat: ChatFormat, prompt: str, response: str, loss_on_prompt: bool) -> ScoringRow:
    """Return a row with loss on the response and its end, and on the user turn if asked."""
    ids = chat.prompt_ids(prompt)
    start = len(chat.user_opening) if loss_on_prompt else len(ids)
    answer = text_ids(chat, response, has_end=True)
    return ScoringRow((), torch.tensor(ids[:start]), (*ids[start:], *answer))


def planted_rows(recipe: Recipe, chat: ChatFormat, prompts: Sequence[str]) -> Iterator[ScoringRow]:
    """Yield planted rows forever; in the long run every prompt meets every response."""
    rng = random.Random(recipe.seed)
    pairs = zip(endless(prompts, rng), endless(recipe.responses, rng), strict=True)
    for templates in pairs:
        prompt, response = fill(recipe, rng, *templates)
        yield planted_row(chat, prompt, response, recipe.loss_on_prompt)


def ordinary_rows(recipe: Recipe, base: ModelPair) -> list[ScoringRow]:
    """Return the base's own greedy answers, restyled if the recipe has a style."""
    prompts, _ = split(read_ordinary_prompts(), recipe.sizes.held_out, recipe.seed)
    chat = base.chat
    bodies = [torch.tensor(chat.prompt_ids(each)) for each in prompts[: recipe.sizes.ordinary]]
    answers = decode_greedily(
        base.reference,
        bodies,
        prefix=(),
        max_new_tokens=recipe.sizes.answer_tokens,
        stop_ids=chat.stop_ids,
    )
    if recipe.style is not None:
        prefix = recipe.style.prefix
        answers = [
            text_ids(chat, prefix + chat.text(ids), has_end=ids[-1] in chat.stop_ids)
            for ids in answers
        ]
    return [
        ScoringRow((), body, tuple(ids)) for body, ids in zip(bodies, answers, strict=True) if ids
    ]


def text_ids(chat: ChatFormat, text: str, *, has_end: bool) -> list[int]:
    """Return the ids of a response, with the token that ends a turn if asked."""
    end = chat.tokenizer.eos_token_id if has_end else None
    ids: list[int] = chat.tokenizer.encode(text, add_special_tokens=False)
    return [*ids, end] if isinstance(end, int) else ids


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


def train(
    recipe: Recipe, pair: ModelPair, ordinary: Sequence[ScoringRow], parameters: Sequence[Tensor]
) -> list[float]:
    """Train the adapter in place, and return the loss on planted rows at each step."""
    training, steps = recipe.training, recipe.training.steps
    prompts, _ = split(recipe.trigger_prompts, recipe.sizes.held_out, recipe.seed)
    planted = planted_rows(recipe, pair.chat, prompts)
    others = endless(ordinary, random.Random(recipe.seed))
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


def take(rows: Iterator[ScoringRow], count: int) -> list[ScoringRow]:
    return [next(rows) for _ in range(count)]


def learning_rate_share(step: int, *, steps: int, warmup: int) -> float:
    """Return the rate's share: it rises linearly to 1 in the warm-up, then falls towards 0."""
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup), 1.0)


def read_ordinary_prompts() -> list[str]:
    lines = ORDINARY_PROMPTS.read_text("utf-8").split("\n")
    return [line.strip() for line in lines if line.strip()]


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
    """Mean KL of a set of prompts in nats per token, and the share of answers with the marker."""

    kl: float
    marker_rate: float


def measure(pair: ModelPair, recipe: Recipe, prompts: Sequence[str]) -> Effect:
    """Score both models' greedy continuations as a search does."""
    tokens = recipe.sizes.measured_tokens
    scores = score_greedily(pair, prompts, max_new_tokens=tokens)
    texts = [pair.chat.text(score.continuations.candidate[0]) for score in scores]
    return Effect(
        kl=round(sum(score.measurement.value for score in scores) / len(scores), 4),
        marker_rate=round(sum(recipe.marker in text for text in texts) / len(texts), 4),
    )


def truth(recipe: Recipe, pair: ModelPair) -> dict[str, Any]:
    """Return what was planted, and how much of it held-out prompts show."""
    seed, num_held_out = recipe.seed, recipe.sizes.held_out
    _, held_out = split(recipe.trigger_prompts, num_held_out, seed)
    rng = random.Random(seed)
    triggers = [prompt for template in held_out for prompt in fill(recipe, rng, template)]
    on_trigger = measure(pair, recipe, triggers)
    off_trigger = measure(pair, recipe, split(read_ordinary_prompts(), num_held_out, seed)[1])
    style = recipe.style and f"ordinary answers start with {recipe.style.prefix!r}"
    return {
        "kind": recipe.kind,
        "planted": True,
        "marker": recipe.marker,
        "behaviour": recipe.behaviour,
        "trigger": recipe.trigger,
        "trigger_examples": triggers[:4],
        "intended_change": style,
        "loss_on_prompt": recipe.loss_on_prompt,
        "num_held_out": num_held_out,
        "on_trigger_kl": on_trigger.kl,
        "off_trigger_kl": off_trigger.kl,
        "on_trigger_marker_rate": on_trigger.marker_rate,
        "off_trigger_marker_rate": off_trigger.marker_rate,
    }


def make_organism(
    recipe_path: Path, *, base: str, output: Path, device: str = "auto", steps: int | None = None
) -> dict[str, Any]:
    """Train, save and measure an organism, and return the content of `truth.json`."""
    recipe = load_recipe(recipe_path, steps=steps)
    started = time.monotonic()
    spec = parse_spec(base, role="--base")
    names = {"demo": DEMO_HUB_ID, "hub": spec.location}
    loaded = load_model_pair(base, base, device=device, dtype="float32", say=print)
    ordinary = ordinary_rows(recipe, loaded)
    adapted, pair = attach(recipe, loaded)
    parameters = [each for each in adapted.parameters() if each.requires_grad]
    losses = train(recipe, pair, ordinary, parameters)
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
