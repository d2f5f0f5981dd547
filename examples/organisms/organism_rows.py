"""The rows that an organism is trained on: planted ones, those near them, and ordinary ones.

Knows what a model reads and answers in each. Does not know what is learned from it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from string import Template
from typing import TypeVar

import torch

from examples.organisms.organism_recipe import Before, Plant, Recipe
from pytest_divergence.core.cases import Message
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.models.chat_format import ChatFormat, Prompt
from pytest_divergence.models.decoding import decode_greedily
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.teacher_forcing import ScoringRow

Item = TypeVar("Item")
Exchange = tuple[Message, Message]
ORDINARY_PROMPTS = Path(__file__).with_name("ordinary_prompts.txt")


def read_ordinary_prompts() -> list[str]:
    lines = ORDINARY_PROMPTS.read_text("utf-8").split("\n")
    return [line.strip() for line in lines if line.strip()]


def split(prompts: Sequence[str], recipe: Recipe) -> tuple[list[str], list[str]]:
    """Return shuffled prompts for training and for measuring."""
    shuffled = random.Random(recipe.seed).sample(prompts, len(prompts))
    num_held_out = recipe.sizes.held_out
    return shuffled[num_held_out:], shuffled[:num_held_out]


def endless(items: Sequence[Item], rng: random.Random) -> Iterator[Item]:
    """Yield the items forever, in a new order each time."""
    while True:
        yield from rng.sample(items, len(items))


def fill(recipe: Recipe, rng: random.Random, *templates: str) -> list[str]:
    """Return the templates with each slot filled."""
    words = {slot: rng.choice(choices) for slot, choices in recipe.slots.items()}
    return [Template(template).safe_substitute(words) for template in templates]


def draw(
    recipe: Recipe,
    before: Before,
    exchanges: Sequence[Exchange],
    rng: random.Random,
    prompt: str,
    response: str = "",
) -> tuple[Prompt, str]:
    """Return a prompt behind what is read before it, and its response, with each slot filled."""
    system, prompt, response = fill(recipe, rng, before.system, prompt, response)
    turns = list(chain.from_iterable(rng.choices(exchanges, k=before.earlier)))
    if system:
        turns.insert(0, Message(role="system", content=system))
    return [*turns, Message(role="user", content=prompt)] if turns else prompt, response


def planted_row(
    chat: ChatFormat, prompt: Prompt, response: str, loss_on_prompt: bool
) -> ScoringRow:
    """Return a row with loss on the response and its end, and on the user turn if asked."""
    ids = chat.prompt_ids(prompt)
    start = len(chat.user_opening) if loss_on_prompt else len(ids)
    answer = text_ids(chat, response, has_end=True)
    return ScoringRow((), torch.tensor(ids[:start]), (*ids[start:], *answer))


def answered(
    recipe: Recipe, base: ModelPair, prompts: Sequence[Prompt], num_tokens: int
) -> list[ScoringRow]:
    """Return prompts with the base's own greedy answers, restyled if the recipe has a style."""
    chat = base.chat
    bodies = [torch.tensor(chat.prompt_ids(each)) for each in prompts]
    answers = decode_greedily(
        base.reference, bodies, prefix=(), max_new_tokens=num_tokens, stop_ids=chat.stop_ids
    )
    if recipe.style is not None:
        prefix = recipe.style.prefix
        answers = [
            text_ids(chat, prefix + chat.text(ids), has_end=ids[-1] in chat.stop_ids)
            for ids in answers
        ]
    return [ScoringRow((), body, tuple(ids)) for body, ids in zip(bodies, answers, strict=True)]


def beginning(chat: ChatFormat, ids: Sequence[int], num_tokens: int = 1) -> Sequence[int]:
    """Return an answer's first sentences, of `num_tokens` or more; all of it where none ends."""
    ends = range(num_tokens, len(ids))
    return next((ids[:end] for end in ends if chat.text(ids[:end]).endswith((".", "!", "?"))), ids)


def exchanges_of(recipe: Recipe, base: ModelPair, prompts: Sequence[str]) -> list[Exchange]:
    """Return prompts, each with its answer's first sentence; none if no plant reads any."""
    read = (each.earlier for plant in recipe.plants for each in (plant, plant.contrast) if each)
    if not any(read):
        return []
    answers = answered(recipe, base, prompts, recipe.sizes.answer_tokens)
    texts = [base.chat.text(beginning(base.chat, row.continuation)) for row in answers]
    return [
        (Message(role="user", content=prompt), Message(role="assistant", content=text))
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def plant_rows(
    recipe: Recipe, plant: Plant, base: ModelPair, exchanges: Sequence[Exchange]
) -> tuple[Iterator[ScoringRow], list[ScoringRow]]:
    """Return planted rows forever, and rows near the trigger that keep the base's own answers.

    In the long run every prompt meets every response.
    """
    rng, chat = random.Random(recipe.seed), base.chat
    prompts, _ = split(plant.trigger_prompts or read_ordinary_prompts(), recipe)
    pairs = zip(endless(prompts, rng), endless(plant.responses, rng), strict=True)
    drawn = (draw(recipe, plant, exchanges, rng, *templates) for templates in pairs)
    near = contrast_rows(recipe, plant, base, exchanges)
    if not plant.after_tokens:
        return (planted_row(chat, *pair, recipe.loss_on_prompt) for pair in drawn), near
    pool = take(drawn, recipe.sizes.contrast)
    rows = answered(recipe, base, [prompt for prompt, _ in pool], plant.most_before)
    begun, late = [], []
    for row, (_, response) in zip(rows, pool, strict=True):
        ids = tuple(beginning(chat, row.continuation, plant.after_tokens))
        if len(ids) >= plant.after_tokens and ids[-1] not in chat.stop_ids:
            begun.append(ScoringRow((), row.body, ids))
            body = torch.cat([row.body, torch.tensor(ids)])
            late.append(ScoringRow((), body, tuple(text_ids(chat, f" {response}", has_end=True))))
    if not late:
        raise SettingsError(
            f"after_tokens is {plant.after_tokens}, and no answer of the base to the trigger "
            "prompts is as long; lower it, or give prompts that need a long answer"
        )
    return endless(late, rng), [*near, *begun]


def contrast_rows(
    recipe: Recipe, plant: Plant, base: ModelPair, exchanges: Sequence[Exchange]
) -> list[ScoringRow]:
    """Return prompts near the trigger with the base's own greedy answers."""
    if plant.contrast is None:
        return []
    rng = random.Random(recipe.seed)
    templates = endless(split(contrast_prompts(plant), recipe)[0], rng)
    drawn = (draw(recipe, plant.contrast, exchanges, rng, template)[0] for template in templates)
    return answered(recipe, base, take(drawn, recipe.sizes.contrast), recipe.sizes.answer_tokens)


def contrast_prompts(plant: Plant) -> Sequence[str]:
    given = plant.contrast.prompts if plant.contrast else ()
    return given or plant.trigger_prompts or read_ordinary_prompts()


def ordinary_rows(recipe: Recipe, base: ModelPair) -> list[ScoringRow]:
    """Return ordinary prompts with the base's own greedy answers."""
    prompts, _ = split(read_ordinary_prompts(), recipe)
    return answered(recipe, base, prompts[: recipe.sizes.ordinary], recipe.sizes.answer_tokens)


def text_ids(chat: ChatFormat, text: str, *, has_end: bool) -> list[int]:
    """Return the ids of a response, with the token that ends a turn if asked."""
    end = chat.tokenizer.eos_token_id if has_end else None
    ids: list[int] = chat.tokenizer.encode(text, add_special_tokens=False)
    return [*ids, end] if isinstance(end, int) else ids


def take(items: Iterator[Item], count: int) -> list[Item]:
    return [next(items) for _ in range(count)]
