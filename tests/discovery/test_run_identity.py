"""What a search is read back for: the same run, in all that may change a number."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from pytest_divergence.core.settings import Settings
from pytest_divergence.discovery import plan
from pytest_divergence.discovery.plan import SearchPlan, identify, identify_pair
from pytest_divergence.discovery.strategies.built_in import built_in_strategies
from pytest_divergence.models.chat_format import FROZEN_ARGUMENTS
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from tests.models_in_memory import tiny_config, tiny_model
from tests.tiny import tiny_tokenizer

Change = Callable[[Path, pytest.MonkeyPatch], None]
LOADED_OTHERWISE = [
    {"dtype": "bfloat16"},
    {"model_2": "ft,dtype=bfloat16"},
    {"model_2": "ft,attn_implementation=eager"},
    {"chat_template": "none"},
    {"system_prompt": "Be brief."},
]


def by_value(changes: dict[str, str]) -> str:
    return "-".join(changes.values())


@pytest.fixture
def project(tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "ft"):
        shutil.copytree(tiny_models / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def key(**changes: str) -> str:
    settings = Settings(**{"model_1": "base", "model_2": "ft", "device": "cpu", **changes})
    return SearchPlan.of(settings, identify(settings), built_in_strategies()).key


def edit(name: str, **changes: object) -> Change:
    def change(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = project / name
        found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**found, **changes}), "utf-8")

    return change


def other_version(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "versions", lambda: {"transformers": "4.0"})


def other_template(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "base" / "chat_template.jinja").write_text("{{ messages[0].content }}", "utf-8")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(edit("base/config.json", initializer_range=0.5), id="reference"),
        pytest.param(edit("ft/config.json", initializer_range=0.5), id="candidate"),
        pytest.param(edit("base/tokenizer_config.json", note=1), id="tokenizer"),
        pytest.param(edit("ft/tokenizer_config.json", note=1), id="candidate's tokenizer"),
        pytest.param(edit("ft/special_tokens_map.json", eos_token="x"), id="special tokens"),
        pytest.param(edit("ft/generation_config.json", eos_token_id=[1]), id="end of an answer"),
        pytest.param(other_template, id="template"),
        pytest.param(other_version, id="library"),
    ],
)
def test_what_changes_a_number_makes_another_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, change: Change
) -> None:
    before = key()
    assert key() == before
    change(project, monkeypatch)
    assert key() != before


def test_so_does_an_adapters_own_template(project: Path, tiny_models: Path) -> None:
    adapter = shutil.copytree(tiny_models / "adapter", project / "adapter")
    keys = [key(model_2="adapter")]
    tiny_tokenizer().save_pretrained(adapter)
    keys.append(key(model_2="adapter"))
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}", "utf-8")
    keys.append(key(model_2="adapter"))

    assert len({*keys}) == 3


@pytest.mark.parametrize(
    "changes",
    [{"metric": "forward"}, {"seed": "1"}, {"num_cases": "1"}, *LOADED_OTHERWISE],
    ids=by_value,
)
def test_so_does_what_is_asked_for(project: Path, changes: dict[str, str]) -> None:
    assert key(**changes) != key()


@pytest.mark.parametrize("field", ["chat_template", "seeds"])
def test_so_does_what_a_file_says_that_is_named(project: Path, field: str) -> None:
    keys = set()
    for text in ("How do I tie a knot?", "Write a poem about rain."):
        (project / "named.txt").write_text(text, "utf-8")
        keys.add(key(**{field: "named.txt"}))

    assert len(keys) == 2


def test_what_judges_and_measures_nothing_does_not(project: Path) -> None:
    assert key(max_kl="0.5") == key(fail_on="any") == key()


# What a project adds: its code, and what that is given

TEMPLATE = Path(__file__).parents[2] / "conftest_templates/custom_strategy_and_metric/conftest.py"
CLIPPED = """
class Clipped:
    def __init__(self, limit):
        self.limit, self.seen = limit, {object()}

    def measure(self, reference_logits, candidate_logits):
        return (reference_logits - candidate_logits).abs().sum(-1).clip(max=self.limit)
"""
CLIPPING = """
from clipping import Clipped

def pytest_divergence_strategies():
    return {}

def pytest_divergence_metrics():
    return {"clipped": Clipped(limit=5)}
"""


def added_key(conftest: Path, metric: str) -> str:
    """The key of a search with what a conftest.py adds."""
    added = runpy.run_path(str(conftest), run_name="conftest")
    settings = Settings(model_1="base", model_2="ft", device="cpu", metric=metric)
    identity = identify(settings).with_metric(added["pytest_divergence_metrics"]()[metric])
    return SearchPlan.of(settings, identity, added["pytest_divergence_strategies"]()).key


@pytest.mark.parametrize(
    ("text", "metric", "change"),
    [
        pytest.param(
            TEMPLATE.read_text("utf-8"),
            "changed_tokens",
            ("Answer as JSON.", "Answer as YAML."),
            id="constant beside the class",
        ),
        pytest.param(CLIPPING, "clipped", ("limit=5", "limit=10"), id="parameter"),
    ],
)
def test_what_a_project_has_edited_is_searched_anew(
    project: Path, monkeypatch: pytest.MonkeyPatch, text: str, metric: str, change: tuple[str, str]
) -> None:
    monkeypatch.syspath_prepend(project)
    (project / "clipping.py").write_text(CLIPPED, "utf-8")
    conftest = project / "conftest.py"
    conftest.write_text(text, "utf-8")
    before = added_key(conftest, metric)

    assert added_key(conftest, metric) == before
    conftest.write_text(text.replace(*change), "utf-8")
    assert added_key(conftest, metric) != before


# Pairs that a program has loaded: no settings name how


def key_in_memory(pair: ModelPair) -> str:
    return SearchPlan.of(Settings(model_1="a", model_2="b"), identify_pair(pair), {}).key


def loaded(model_2: str = "ft", **options: Any) -> ModelPair:
    return load_model_pair("base", model_2, device="cpu", **options)


@pytest.mark.parametrize("changes", LOADED_OTHERWISE[1:], ids=by_value)
def test_a_pair_that_was_loaded_otherwise_is_searched_anew(
    project: Path, changes: dict[str, str]
) -> None:
    before = key_in_memory(loaded())

    assert key_in_memory(loaded()) == before
    assert key_in_memory(loaded(**changes)) != before


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": {**FROZEN_ARGUMENTS, "enable_thinking": True}},
        {"arguments": {"date_string": "24 Dec 2026"}},
        {"stop_ids": frozenset({1})},
        {"thought_length": 8},
    ],
    ids=str,
)
def test_so_is_one_with_another_chat_format(project: Path, changes: Mapping[str, Any]) -> None:
    pair = loaded()

    assert key_in_memory(replace(pair, chat=replace(pair.chat, **changes))) != key_in_memory(pair)


def test_so_is_one_whose_candidate_knows_another_token() -> None:
    """A row that was padding is a token now: the weights stay, the outcomes do not."""
    num_shared = len(tiny_tokenizer())
    config = tiny_config(LlamaConfig, vocab_size=num_shared + 8)

    def key_of(num_known: int) -> str:
        models = tiny_model(config=config), tiny_model(config=config, perturb=0.3)
        known_tokens = num_shared, num_known
        return key_in_memory(
            ModelPair.from_models(*models, tiny_tokenizer(), known_tokens=known_tokens)
        )

    assert key_of(num_shared) == key_of(num_shared)
    assert len({key_of(num_shared + added) for added in (0, 1, 2)}) == 3
