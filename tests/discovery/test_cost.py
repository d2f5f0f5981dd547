"""What a search will cost: memory from its models' files, minutes from its own speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.quantities import amount, roughly
from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.cost import (
    Forecast,
    Memory,
    batch_bytes,
    estimate_seconds,
    measure_speed,
    search_memory,
    within_memory,
)
from pytest_divergence.discovery.engines.base import Spent
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.models.load_plan import LoadOptions, resolve_pair
from pytest_divergence.models.memory import ModelSize, model_size, weights_bytes
from pytest_divergence.models.pair import ModelPair
from tests.models_in_memory import tiny_pair

CPU = LoadOptions(device="cpu")
SMOKE, DEFAULT = PROFILES["smoke"], PROFILES["default"]
SEVEN_B = ModelSize(
    num_layers=32, hidden_size=4096, intermediate_size=11008, cache_size=8192, vocab_size=32000
)
LARGE = Memory(
    weights=54_000_000_000,
    batch=9_400_000_000,
    free=22_000_000_000,
    device="cpu",
    dtype="float32",
)


class Notes(Silence):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.expected: list[float] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def expect(self, seconds: float) -> None:
        self.expected.append(seconds)


# Memory


def memory_of(folder: Path, candidate: str, **settings: str) -> Memory:
    given = Settings(device="cpu", **settings)
    options = LoadOptions.of(given)
    plan = resolve_pair(str(folder / "base"), str(folder / candidate), options)
    profile = given.resolved_profile(plan.device.type)
    found = search_memory(plan, profile, allowed=given.memory_bytes)
    assert found is not None
    return found


def test_two_models_take_their_weights_twice_and_an_adapters_base_counts_once(
    tiny_models: Path,
) -> None:
    base = weights_bytes(tiny_models / "base", 4)
    adapter = weights_bytes(tiny_models / "adapter", 4)
    assert memory_of(tiny_models, "ft").weights == 2 * base
    assert memory_of(tiny_models, "adapter").weights == base + adapter
    assert memory_of(tiny_models, "base").weights == base


def test_the_larger_model_has_the_largest_batch(tiny_models: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_models / "base")
    model.config.num_hidden_layers = 20
    type(model)(model.config).save_pretrained(tmp_path / "large")
    small, large = str(tiny_models / "base"), str(tmp_path / "large")

    batches = []
    for pair in ((small, small), (small, large), (large, small), (large, large)):
        memory = search_memory(resolve_pair(*pair, CPU), SMOKE, allowed=None)
        assert memory is not None
        batches.append(memory.batch)

    assert 2 * batches[0] < batches[1] == batches[2] == batches[3]


def test_narrower_numbers_and_smaller_profiles_take_less(tiny_models: Path) -> None:
    narrow, wide = (memory_of(tiny_models, "ft", dtype=one) for one in ("bfloat16", "float32"))
    assert narrow.weights * 2 == wide.weights
    assert narrow.batch < wide.batch
    assert (narrow.dtype, wide.dtype, wide.device) == ("bfloat16", "float32", "cpu")
    size = model_size(AutoConfig.from_pretrained(tiny_models / "base"))
    smoke = batch_bytes(SMOKE, size, 4)
    assert smoke < batch_bytes(DEFAULT, size, 4)
    # A test samples several answers to each prompt: more rows than scoring one continuation.
    tested, further = (
        SMOKE.model_copy(update={"num_behaviour_prompts": number}) for number in (32, 64)
    )
    assert smoke < batch_bytes(tested, size, 4) == batch_bytes(further, size, 4)
    assert smoke < batch_bytes(SMOKE, replace(size, vocab_size=10_000), 4)
    assert 1e9 < batch_bytes(DEFAULT, SEVEN_B, 2) < 60e9
    large, larger = (replace(SEVEN_B, vocab_size=number) for number in (262_144, 1_000_000))
    assert batch_bytes(DEFAULT, large, 2) == batch_bytes(DEFAULT, larger, 2)


def test_of_files_that_cannot_be_read_nothing_is_said(tiny_models: Path, tmp_path: Path) -> None:
    plan = resolve_pair(str(tiny_models / "base"), str(tiny_models / "ft"), CPU)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    broken = replace(plan, candidate=replace(plan.candidate, folder=tmp_path))
    assert search_memory(broken, SMOKE, allowed=None) is None


def test_a_model_counts_on_the_device_that_it_is_on(tiny_models: Path) -> None:
    base, ft = str(tiny_models / "base"), str(tiny_models / "ft")
    size = weights_bytes(tiny_models / "base", 4)

    def found(model_1: str, model_2: str) -> Memory:
        memory = search_memory(resolve_pair(model_1, model_2, CPU), SMOKE, allowed=None)
        assert memory is not None
        return memory

    apart = found(f"{base},device=meta", ft)
    assert apart.weights == size
    spread = found(f"{base},device_map=auto", f"{ft},device_map=auto")
    assert (spread.device, spread.weights) == ("all devices", 2 * size)
    assert str(spread).endswith("free on all devices")


def test_what_does_not_fit_is_refused_with_what_would_allow_it() -> None:
    with pytest.raises(SettingsError) as error:
        LARGE.check()
    assert str(error.value) == (
        "searching these models takes about 63 GB of memory on cpu (54 GB for weights in "
        "float32, 9.4 GB for the largest batch), but only 22 GB is free; use "
        "--divergence-dtype=bfloat16, a smaller --divergence-profile or another "
        "--divergence-device, or try anyway with --divergence-memory=64GB"
    )
    replace(LARGE, allowed=Settings(memory="64GB").memory_bytes).check()
    with pytest.raises(SettingsError, match="only 63 GB is allowed by --divergence-memory; use"):
        replace(LARGE, allowed=Settings(memory="63GB").memory_bytes).check()
    small = replace(LARGE, weights=10**9, batch=10**9, dtype="bfloat16", allowed=500_000_000)
    with pytest.raises(SettingsError, match=r"but only 500 MB is allowed by .*; use a smaller"):
        small.check()
    with pytest.raises(SettingsError, match="is free"):
        within_memory(_never_loaded, lambda: LARGE, Silence())()


def _never_loaded() -> ModelPair:
    raise AssertionError("loaded")


def test_where_nothing_tells_what_is_free_nothing_is_refused() -> None:
    unknown = replace(LARGE, free=None)
    unknown.check()
    assert str(unknown) == "about 63 GB of memory"


def test_it_is_said_once_and_before_anything_is_loaded() -> None:
    notes, pair = Notes(), tiny_pair()
    said_when_loading: list[int] = []

    def load() -> ModelPair:
        said_when_loading.append(len(notes.said))
        return pair

    loaded = within_memory(load, lambda: replace(LARGE, free=10**11), notes)
    assert loaded() is loaded() is pair
    assert notes.said == ["loading the models: about 63 GB of memory, of 100 GB free on cpu"]
    assert said_when_loading == [1, 1]


def test_a_small_pair_is_not_worth_a_line(tiny_models: Path) -> None:
    notes = Notes()
    memory = replace(memory_of(tiny_models, "ft"), weights=10**7, batch=10**7)
    within_memory(tiny_pair, lambda: memory, notes)()
    within_memory(tiny_pair, lambda: None, notes)()  # a plugin's model, say
    assert notes.said == []


# Minutes


def test_a_run_takes_its_budget_at_its_speed() -> None:
    assert estimate_seconds(SMOKE, 200.0) == SMOKE.budget_tokens / 200
    half = SMOKE.budget_tokens // 2
    assert estimate_seconds(SMOKE, 200.0, tokens_forwarded=half) == half / 200
    assert estimate_seconds(SMOKE, 200.0, tokens_forwarded=2 * SMOKE.budget_tokens) == 0


def test_the_tests_of_leads_are_part_of_what_is_reserved() -> None:
    """At 200 tokens a second those of smoke take most of a minute."""
    fewer = SMOKE.model_copy(update={"num_tested_leads": SMOKE.num_tested_leads - 1})
    most = SMOKE.num_tested_leads
    saved = SMOKE.judging_tokens(most) - SMOKE.judging_tokens(most - 1)
    assert SMOKE.reserved_tokens - fewer.reserved_tokens == saved
    assert SMOKE.judging_tokens(most + 1) == SMOKE.judging_tokens(most)
    assert SMOKE.reserved_for(most) - SMOKE.reserved_for(1) == (most - 1) * saved
    assert estimate_seconds(SMOKE, 200.0, budget_seconds=10) - estimate_seconds(
        fewer, 200.0, budget_seconds=10
    ) == pytest.approx(saved / 200)


def test_a_budget_in_seconds_bounds_the_search_alone() -> None:
    around = (DEFAULT.calibration_tokens + DEFAULT.reserved_tokens) / 1000
    assert estimate_seconds(DEFAULT, 1000.0, budget_seconds=60) == 60 + around
    assert estimate_seconds(DEFAULT, 1e9, budget_seconds=60) == DEFAULT.budget_tokens / 1e9


def test_a_pair_in_memory_has_a_speed() -> None:
    assert 1 < measure_speed(tiny_pair(), SMOKE) < 1e9


def forecast(notes: Notes, spent: Spent, **changes: float) -> Forecast:
    return Forecast(SMOKE, changes.get("budget_seconds"), spent, notes)


def test_the_first_unit_that_forwards_tokens_tells_how_long_it_will_take() -> None:
    notes, spent = Notes(), Spent()
    one = forecast(notes, spent)
    one.take("pair", 0, 0.1)
    assert notes.said == []
    spent.tokens_forwarded = 384
    one.take("controls/written", 384, 1.3)
    assert notes.said == ["about 2 min left: 49,616 tokens of the budget, 399 a second"]
    spent.tokens_forwarded = SMOKE.budget_tokens - 20_000
    one.take("search/seeds/0", 19_616, 196.16)
    assert len(notes.said) == 1
    assert notes.expected[-1] == pytest.approx(20_000 / 101, rel=0.02)


def test_units_of_an_earlier_session_count_for_the_budget_and_not_for_the_speed() -> None:
    notes, spent = Notes(), Spent(tokens_forwarded=SMOKE.budget_tokens - 20_000)
    one = forecast(notes, spent)
    one.take("controls/written", 48, 0.15)  # most of it is what a device does once
    assert notes.expected == []
    one.take("search/seeds/0", 1_000, 10.0)
    assert notes.expected == [pytest.approx(200.0, rel=0.05)]


def test_a_short_run_is_not_worth_a_line() -> None:
    notes = Notes()
    forecast(notes, Spent()).take("controls/score/0", 40_000, 1.2)
    assert notes.said == []
    assert notes.expected == [pytest.approx(SMOKE.budget_tokens * 1.2 / 40_000)]


def test_under_a_budget_in_seconds_the_clock_goes_on_by_itself() -> None:
    notes = Notes()
    one = forecast(notes, Spent(), budget_seconds=30.0)
    for _ in range(3):
        one.take("controls/score/0", 100, 1.0)
    assert len(notes.expected) == 1


def test_amounts_and_times_have_no_more_digits_than_an_estimate() -> None:
    sizes = (40_000, 40_000_000, 949_000_000, 1_340_000_000, 9_960_000_000, 22_400_000_000)
    assert [amount(one) for one in sizes] == [
        *("1 MB", "40 MB", "949 MB"),
        *("1.3 GB", "10 GB", "22 GB"),
    ]
    times = (3, 84, 96, 600, 5_600, 9_000)
    assert [roughly(one) for one in times] == ["10 s", "80 s", "2 min", "10 min", "93 min", "2.5 h"]
