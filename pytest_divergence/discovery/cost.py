"""Cost of a search: memory before its models are loaded, minutes from what it forwards.

Estimates both, puts them into words, and refuses what is too large. Does not know what a search
does with either.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.quantities import amount, roughly
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Profile
from pytest_divergence.discovery.behaviours.hypothesis_tests import NUM_LOCAL_PROMPTS, NUM_REPEATS
from pytest_divergence.discovery.calibration import WRITTEN_UNIT
from pytest_divergence.discovery.engines.base import Spent
from pytest_divergence.discovery.generation import generate_prompts
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.models.devices import dtype_name
from pytest_divergence.models.load_plan import EVERYWHERE, LoadPlan
from pytest_divergence.models.memory import ModelSize, all_memory, available_memory, model_size
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.scoring.continuations import PROMPTS_IN_FLIGHT
from pytest_divergence.scoring.teacher_forcing import SCORING_BATCH

LONG_PROMPT = 200
"""Tokens of each prompt in the largest batch: the longest shipped ones have 240."""
PREFIX = 40
"""Tokens of a chat template before the prompt."""
MOST_LOGITS = 1_000_000_000
"""Bytes that logits, and what is made of them, take at most: `benchmarks/memory.py vocabulary`."""
MEMORY_SAID_FROM = 100_000_000
"""Bytes: models that need less are not worth a line."""
WRITING_SPEED = 0.74
"""Tokens a second while prompts are written, one token a row and pass, as a share of a whole run's.

Measured on two cores: 302 against 399 and 278 against 382 in searches of two adapters of the demo
model. Later units correct it.
"""
MEASURED_FROM = 1.0
"""Seconds of work after which a speed is known: what a device does only once is over."""
TIME_SAID_FROM = 10.0
"""Seconds: a run that takes less is not worth a line."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a search takes beyond those in use already, and bytes that are free."""

    weights: int
    """Of both models; an adapter's base counts once."""
    batch: int
    """Addition of the largest batch: caches, logits, or the activations of a training step."""
    free: int | None
    """None where the machine does not say."""
    device: str
    dtype: str
    allowed: int | None = None
    """The user's limit, which replaces `free`."""

    @property
    def needed(self) -> int:
        """The estimated peak."""
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
        verb = "is free" if self.allowed is None else f"is allowed by {setting('memory')}"
        smaller = f"{setting('dtype')}=bfloat16, " if self.dtype == "float32" else ""
        raise SettingsError(
            f"searching these models takes about {amount(self.needed)} of memory on "
            f"{self.device} ({amount(self.weights)} for weights in {self.dtype}, "
            f"{amount(self.batch)} for the largest batch), but only {amount(room)} {verb}; "
            f"use {smaller}a smaller {setting('profile')} or another {setting('device')}, or try "
            f"anyway with {setting('memory')}={_rounded_up(self.needed)}"
        )


def batch_bytes(profile: Profile, size: ModelSize, itemsize: int) -> int:
    """Estimate the bytes that the largest batch of a search takes, in floats of `itemsize` bytes.

    Scoring, and the tests of leads, hold keys and values of all prompts in flight, of both models,
    and a batch's logits; a training step holds its activations instead. The prompt cache of a
    round's proposals is smaller: they are short.
    """
    prompt = PREFIX + LONG_PROMPT
    reply = profile.thought_length + profile.continuation_length
    tested = profile.thought_length + profile.tested_length
    cached = max(
        min(num_prompts, PROMPTS_IN_FLIGHT) * (3 * prompt + num_answers * (prompt + length))
        for num_prompts, num_answers, length in (
            (PROMPTS_IN_FLIGHT, profile.num_continuations, reply),
            (profile.num_behaviour_prompts, NUM_REPEATS["triggered"], tested),
            (NUM_LOCAL_PROMPTS, NUM_REPEATS["local"], tested),
        )
    )  # of both models, and a copy to write on
    cache = cached * size.num_layers * size.cache_size * itemsize
    scored = SCORING_BATCH * max(LONG_PROMPT, 3 * reply)
    # Divergences are computed in float32, and larger ones in pieces.
    logits = min(scored * size.vocab_size * 4, MOST_LOGITS)
    row = PREFIX + profile.num_virtual_tokens + profile.max_text_tokens
    kept = size.num_layers * (7 * size.hidden_size + 3 * size.intermediate_size) * itemsize
    training = 2 * profile.batch_size * row * kept  # frozen weights keep no inputs
    return max(cache + logits, training)


def search_memory(plan: LoadPlan, profile: Profile, *, allowed: int | None) -> Memory | None:
    """Estimate the memory of a search; None for a plugin's model and for unreadable files.

    `allowed` is the user's limit in bytes; None: what is free.
    Of two devices, the result is about the one with less room. Models that accelerate spreads are
    compared with the memory of all devices together. Errors in files are left to the loader.
    """
    # These raise for what is impossible, whatever the files hold.
    dtypes, _ = plan.dtypes, plan.placements
    if not plan.is_here:
        return None
    with suppress(Exception):  # strange files may raise anything
        batch = max(
            batch_bytes(profile, model_size(side.full_model.config), dtype.itemsize)
            for side, dtype in zip(plan.sides, dtypes, strict=True)
        )
        return min(
            (
                Memory(
                    weights=weights,
                    batch=batch,
                    free=all_memory() if where == EVERYWHERE else available_memory(where),
                    device=where,
                    dtype=dtype_name(dtypes[0]),
                    allowed=allowed,
                )
                for where, weights in plan.weights.items()
            ),
            key=lambda use: math.inf if use.free is None else use.free - use.needed,
        )
    return None


def within_memory(
    load_pair: Callable[[], ModelPair],
    memory: Callable[[], Memory | None],
    listener: Listener,
) -> Callable[[], ModelPair]:
    """Wrap `load_pair`: its first call tells the listener what it takes, or refuses to load.

    The wrapped function raises `SettingsError` where the models cannot fit, before it loads them.
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
    """Estimate the seconds of a search at this speed, or those left after `tokens_forwarded`.

    A search spends its budget of tokens, or ends earlier where its strategies have nothing more to
    offer. A budget in seconds limits the time between calibration and confirmation.
    """
    tokens = max(0, profile.budget_tokens - tokens_forwarded)
    if budget_seconds is None:
        return tokens / tokens_per_second
    calibration = max(0, profile.calibration_tokens - tokens_forwarded)
    fixed = (calibration + profile.context_tokens + profile.reserved_tokens) / tokens_per_second
    return min(tokens / tokens_per_second, fixed + budget_seconds)


def measure_speed(pair: ModelPair, profile: Profile) -> float:
    """Estimate the tokens that a search of this pair forwards a second; takes some seconds."""

    def write(num_prompts: int) -> None:
        generate_prompts(
            pair,
            None,
            num_prompts=num_prompts,
            max_new_tokens=profile.prompt_length,
            seed=0,
            writers=(pair.reference,),
        )

    write(1)  # what a device does only once does not count
    started, before = time.monotonic(), pair.tokens_forwarded
    write(16)
    return (pair.tokens_forwarded - before) / (time.monotonic() - started) / WRITING_SPEED


@dataclass
class Forecast:
    """Estimates when a run will end, from the speed of the units done so far."""

    profile: Profile
    budget_seconds: float | None
    spent: Spent
    """All that counts against the budget, earlier sessions' units too."""
    listener: Listener
    is_parallel: bool = False
    """Whether units are computed at the same time, so that only the clock tells the speed."""
    _tokens: int = 0
    _seconds: float = 0.0
    _is_said: bool = False
    _started: float = field(default_factory=time.monotonic)

    def take(self, unit: str, tokens: int, seconds: float) -> None:
        """Take a unit's speed into account, and tell the listener."""
        if tokens == 0 or seconds <= 0:  # tells nothing about speed
            return
        self._tokens += tokens
        self._seconds += seconds * (WRITING_SPEED if unit == WRITTEN_UNIT else 1.0)
        is_known = self._is_said and self.budget_seconds is not None  # a clock ends it, not tokens
        if self._seconds < MEASURED_FROM * WRITING_SPEED or is_known:
            return
        passed = time.monotonic() - self._started
        speed = self._tokens / (passed if self.is_parallel else self._seconds)
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
                f"about {roughly(left)} left: {budget:,} tokens of the budget, "
                f"{speed:,.0f} a second"
            )
        self._is_said = True


def _rounded_up(num_bytes: int) -> str:
    """Format bytes as the option takes them, such as `2GB`."""
    unit, size = ("GB", 10**9) if num_bytes >= 10**9 else ("MB", 10**6)
    return f"{-(-num_bytes // size)}{unit}"
