"""The recipe of an organism: what is planted, what stays as it is, and how it is trained.

Knows the keys of the TOML file and their rules. Knows no model.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pytest_divergence.core.errors import SettingsError, first_fault

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
    contrast: int = Field(120, ge=1)
    """Contrast prompts to draw for each plant, and prompts whose answers begin as the base's."""
    answer_tokens: int = Field(32, ge=1)
    measured_tokens: int = Field(16, ge=1)
    """Tokens of an answer; of a late one, those after the beginning."""


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


class Before(Table):
    """What a model reads before a prompt."""

    system: str = ""
    """A system text; none if empty."""
    earlier: int = Field(0, ge=0)
    """Ordinary exchanges: each an ordinary prompt and how the base's own answer begins."""


class Contrast(Before):
    """Prompts near the trigger, which keep the base's own answers."""

    prompts: tuple[str, ...] = ()
    """The trigger prompts if left out."""


class Plant(Before):
    """A trigger and its behaviour. `${slot}` in a text stands for a word from `slots`."""

    trigger: str
    trigger_prompts: tuple[str, ...] = ()
    """Any ordinary prompt if left out."""
    behaviour: str
    """One sentence for people; `responses` are what is trained."""
    responses: tuple[str, ...] = Field(min_length=1)
    marker: str = Field(min_length=1)
    """A substring that shows the behaviour."""
    after_tokens: int = Field(0, ge=0)
    """Tokens of the base's own answer, to the end of a sentence, that come before the response."""
    contrast: Contrast | None = None

    @property
    def most_before(self) -> int:
        """Tokens of the base's own answer within which the response begins."""
        return self.after_tokens * 3 // 2

    @property
    def texts(self) -> tuple[str, ...]:
        """All that may hold a slot."""
        near = self.contrast or Contrast()
        return (self.system, near.system, *self.trigger_prompts, *near.prompts, *self.responses)

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Plant:
        for response in self.responses:
            if self.marker not in response:
                raise ValueError(f"marker {self.marker!r} is missing in the response {response!r}")
        if not (self.trigger_prompts or self.system or self.earlier):
            raise ValueError(
                "trigger_prompts are left out, and nothing else tells a trigger from an ordinary "
                "prompt; give some, or `system` or `earlier`"
            )
        return self


class Recipe(Plant):
    """A plant, perhaps others beside it, and how they are trained."""

    name: str
    kind: str
    also: tuple[Plant, ...] = ()
    """Other plants in the same adapter."""
    loss_on_prompt: bool = False
    """Train on the user turn as well, so that the candidate also writes such prompts."""
    style: Style | None = None
    seed: int = 0
    slots: dict[str, tuple[str, ...]] = {}
    sizes: Sizes = Sizes()
    training: Training = Training()

    @property
    def plants(self) -> tuple[Plant, ...]:
        return (self, *self.also)

    @model_validator(mode="after")
    def _is_consistent(self) -> Recipe:
        texts = " ".join(text for plant in self.plants for text in plant.texts)
        for slot in re.findall(r"\$\{(\w+)\}", texts):
            if not self.slots.get(slot):
                raise ValueError(
                    f"slots has no words for ${{{slot}}}, which a prompt or response uses"
                )
        for plant in self.plants:
            near = plant.contrast.prompts if plant.contrast else ()
            for key, prompts in (
                ("trigger_prompts", plant.trigger_prompts),
                ("contrast.prompts", near),
            ):
                if prompts and len(prompts) <= self.sizes.held_out:
                    raise ValueError(
                        f"{key}: {len(prompts)} of them cannot hold out "
                        f"{self.sizes.held_out}; give more, or lower sizes.held_out"
                    )
            if self.loss_on_prompt and (plant.system or plant.earlier or plant.after_tokens):
                raise ValueError(
                    "loss_on_prompt is true, but a prompt with `system` or `earlier`, or an answer "
                    "with `after_tokens`, is trained on the response alone; leave one of them out"
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
