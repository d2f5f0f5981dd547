"""What a search costs: memory before its models are loaded, minutes from what it forwards.

Estimates and words for them; what is too large is refused here. Does not know what a search does
with either.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.quantities import amount, roughly
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.calibration import WRITTEN_UNIT
from pytest_divergence.discovery.engines.base import Spent
from pytest_divergence.discovery.generation import generate_prompts
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.load_plan import EVERYWHERE, LoadPlan
from pytest_divergence.models.memory import ModelSize, all_memory, available_memory, model_size
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import PROMPTS_IN_FLIGHT
from pytest_divergence.scoring.teacher_forcing import SCORING_BATCH

LONG_PROMPT = 200
"""Tokens of the longest prompts that a batch is full of: the longest shipped ones have 240."""
PREFIX = 40
"""Tokens of a chat template before the prompt."""
MOST_LOGITS = 1_000_000_000
"""Bytes that logits, and what is made of them, take at most: `benchmarks/memory.py vocabulary`."""
MEMORY_SAID_FROM = 100_000_000
"""Bytes: models that need less are not worth a line."""
WRITING_SPEED = 0.74
"""Tokens a second while prompts are written, one token a row and pass, as a share of a whole run's.

Measured on two cores: 302 against 399 and 278 against 382 in searches of two adapters of the demo
model. What follows corrects it.
"""
MEASURED_FROM = 1.0
"""Seconds of work that tell a speed: what a device does once has passed by then."""
TIME_SAID_FROM = 10.0
"""Seconds: a run that takes less is not worth a line."""


@dataclass(frozen=True)
class Memory:
    """What a search takes beyond what is in use already, and what there is; in bytes."""

    weights: int
    """Of both models; an adapter's base counts once."""
    batch: int
    """What the largest batch adds: caches, logits, or the activations of a training step."""
    free: int | None
    """None where the machine does not say."""
    device: str
    dtype: str
    allowed: int | None = None
    """What counts in place of `free`, where a user says so."""

    @property
    def needed(self) -> int:
        """The peak, about."""
        return self.weights + self.batch

    def __str__(self) -> str:
        """`about 1.3 GB of memory, of 22 GB free on cpu`."""
        there = "" if self.free is None else f", of {amount(self.free)} free on {self.device}"
        return f"about {amount(self.needed)} of memory{there}"

    def check(self) -> None:
        """Raise `SettingsError` where more is needed than is free, or than is allowed."""
        room = self.free if self.allowed is None else self.allowed
        if room is None or self.needed <= room:
            return
        verb = "free" if self.allowed is None else f"allowed by {setting('memory')}"
        smaller = f"{setting('dtype')}=bfloat16, " if self.dtype == "float32" else ""
        raise SettingsError(
            f"a search of these models needs about {amount(self.needed)} of memory on "
            f"{self.device} ({amount(self.weights)} for weights in {self.dtype}, "
            f"{amount(self.batch)} for the largest batch), and {amount(room)} are {verb}; "
            f"use {smaller}a smaller {setting('profile')} or another {setting('device')}, or try "
            f"it all the same with {setting('memory')}={_rounded_up(self.needed)}"
        )


def batch_bytes(profile: Profile, size: ModelSize, itemsize: int) -> int:
    """Bytes that the largest batch of a search takes, in floats of `itemsize` bytes.

    Scoring holds keys and values of all prompts in flight, of both models; beside them stand either
    the logits of a batch, or nothing but the activations of one training step. What is kept of a
    round's proposals, to read them once, is less: they are short.
    """
    prompt = PREFIX + LONG_PROMPT
    written = profile.num_continuations * (prompt + profile.continuation_length)
    cached = PROMPTS_IN_FLIGHT * (3 * prompt + written)  # of both models, and a copy to write on
    cache = cached * size.num_layers * size.cache_size * itemsize
    scored = SCORING_BATCH * max(LONG_PROMPT, 3 * profile.continuation_length)
    # Divergences are computed in float32, and what is larger is measured in pieces.
    logits = min(scored * size.vocab_size * 4, MOST_LOGITS)
    row = PREFIX + profile.num_virtual_tokens + profile.max_text_tokens
    kept = size.num_layers * (7 * size.hidden_size + 3 * size.intermediate_size) * itemsize
    training = 2 * profile.batch_size * row * kept  # frozen weights keep no inputs of theirs
    return max(cache + logits, training)


def search_memory(plan: LoadPlan, profile: Profile, *, allowed: int | None) -> Memory | None:
    """What a search of two models takes; None for a plugin's model and for unreadable files.

    `allowed` is what the user allows it, in bytes; None: what is free.
    Of two devices it is the one that it is tightest on. Models that accelerate spreads are compared
    with the memory of all devices together. What is wrong with such files is the loader's to say.
    """
    dtype = plan.dtypes[0]
    _ = plan.placements  # what cannot be is said, whatever the files hold
    if not plan.is_here:
        return None
    with suppress(Exception):  # strange files may raise anything
        size = model_size(plan.reference.full_model.config)
        batch = batch_bytes(profile, size, dtype.itemsize)
        return min(
            (
                Memory(
                    weights=weights,
                    batch=batch,
                    free=all_memory() if where == EVERYWHERE else available_memory(where),
                    device=where,
                    dtype=str(dtype).removeprefix("torch."),
                    allowed=allowed,
                )
                for where, weights in plan.weights.items()
            ),
            key=lambda one: math.inf if one.free is None else one.free - one.needed,
        )
    return None


def within_memory(
    load_pair: Callable[[], ModelPair],
    memory: Callable[[], Memory | None],
    listener: Listener,
) -> Callable[[], ModelPair]:
    """`load_pair`, but the first time it says what that takes, and refuses what cannot fit.

    What it returns raises `SettingsError` then, before anything is loaded.
    """
    is_checked = False

    def load() -> ModelPair:
        nonlocal is_checked
        if is_checked:
            return load_pair()
        if (needed := memory()) is not None:
            needed.check()
            if needed.needed >= MEMORY_SAID_FROM:
                listener.say(f"loading the models: {needed}")
        listener.progress("load the models", 0, 1)
        is_checked = True
        return load_pair()

    return load


def estimate_seconds(
    profile: Profile,
    tokens_per_second: float,
    *,
    tokens_forwarded: int = 0,
    budget_seconds: float | None = None,
) -> float:
    """Seconds that a search of that speed takes, or what is left of it after `tokens_forwarded`.

    A search spends its budget of tokens; it ends before where its strategies have nothing more to
    offer. A budget in seconds bounds what lies between calibration and confirmation.
    """
    tokens = max(0, profile.budget_tokens - tokens_forwarded)
    if budget_seconds is None:
        return tokens / tokens_per_second
    calibration = max(0, profile.calibration_tokens - tokens_forwarded)
    fixed = (calibration + profile.reserved_tokens) / tokens_per_second
    return min(tokens / tokens_per_second, fixed + budget_seconds)


def measure_speed(pair: ModelPair, profile: Profile) -> float:
    """Forwarded tokens per second of a search of this pair, about: it writes for some seconds."""

    def write(num_prompts: int) -> None:
        generate_prompts(
            pair,
            None,
            num_prompts=num_prompts,
            max_new_tokens=profile.prompt_length,
            seed=0,
            writers=(pair.reference,),
        )

    write(1)  # what a device does once is no part of its speed
    started, before = time.monotonic(), pair.tokens_forwarded
    write(16)
    return (pair.tokens_forwarded - before) / (time.monotonic() - started) / WRITING_SPEED


@dataclass
class Forecast:
    """Estimates when a run will end, from the speed of the units that it has done."""

    profile: Profile
    budget_seconds: float | None
    spent: Spent
    """All that the budget is counted by, earlier sessions' units too."""
    listener: Listener
    _tokens: int = 0
    _seconds: float = 0.0
    _is_said: bool = False

    def take(self, unit: str, tokens: int, seconds: float) -> None:
        """Take a unit's speed into account, and tell the listener."""
        if tokens == 0 or seconds <= 0:  # tells nothing about speed
            return
        self._tokens += tokens
        self._seconds += seconds * (WRITING_SPEED if unit == WRITTEN_UNIT else 1.0)
        is_known = self._is_said and self.budget_seconds is not None  # a clock ends it, not tokens
        if self._seconds < MEASURED_FROM * WRITING_SPEED or is_known:
            return
        speed = self._tokens / self._seconds
        left = estimate_seconds(
            self.profile,
            speed,
            tokens_forwarded=self.spent.tokens_forwarded,
            budget_seconds=self.budget_seconds,
        )
        self.listener.expect(left)
        if not self._is_said and left >= TIME_SAID_FROM:
            budget = max(0, self.profile.budget_tokens - self.spent.tokens_forwarded)
            self.listener.say(
                f"about {roughly(left)} to go: {budget:,} tokens of the budget are left, "
                f"{speed:,.0f} a second"
            )
        self._is_said = True


def _rounded_up(num_bytes: int) -> str:
    """As the option takes it."""
    unit, size = ("GB", 10**9) if num_bytes >= 10**9 else ("MB", 10**6)
    return f"{-(-num_bytes // size)}{unit}"
