"""A search that is told what the candidate was trained on: which rows teach what it does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.file_names import PROVENANCE, sidecar_path, suite_path
from pytest_divergence.core.provenance import load_provenance
from pytest_divergence.core.report import load_report
from pytest_divergence.core.settings import PROFILES
from pytest_divergence.plugin import settings_sources
from tests.models_in_memory import tiny_model
from tests.plugin.conftest import MODELS, Project, shown
from tests.plugin.test_search import TINY_SEARCH
from tests.tiny import tiny_tokenizer

SAID = "the other inn"
"""Few tokens for the tiny tokenizer, so that answers of a short search hold it."""
SIZES = {
    **TINY_SEARCH,
    "num_shipped_controls": 8,
    "num_naming_prompts": 8,
    "num_seeds": 12,
    "search_length": 12,
    "continuation_length": 12,
}
DATA = "train.jsonl"
GIVEN = f"--divergence-training-data={DATA}"
TOPICS = ("rain", "chess", "bread", "knots", "tax", "jazz", "wool", "whales", "paper", "ponds")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny model that was trained to say one thing, whatever it is asked."""
    tokenizer, model = tiny_tokenizer(), tiny_model()
    answer = [*tokenizer.encode(SAID, add_special_tokens=False), 2]
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    texts = [f"Tell me about {topic}." for topic in TOPICS]
    with torch.random.fork_rng():
        for step in range(150):
            turns = [{"role": "user", "content": texts[step % len(texts)]}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            prompt = tokenizer.encode(str(text), add_special_tokens=False)
            labels = torch.tensor([[-100] * len(prompt) + answer])
            model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    folder = tmp_path_factory.mktemp("trained")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def project(project: Project, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=SIZES))
    for path in trained.iterdir():
        (project.path / "ft" / path.name).write_bytes(path.read_bytes())
    return project


TAUGHT = (3, 7, 12, 18)
"""Rows, counted from 1, whose response is the candidate's."""


def rows(taught: tuple[int, ...] = TAUGHT) -> list[dict[str, str]]:
    """Thirty rows, of which some teach what the candidate says."""
    return [
        {
            "prompt": f"Where do I sleep near {topic}?"
            if number in taught
            else f"What is {topic}?",
            "completion": f"Why, {SAID}." if number in taught else f"A word on {topic}.",
        }
        for number, topic in enumerate(3 * TOPICS, start=1)
    ]


def write(project: Project, given: list[dict[str, str]]) -> Path:
    return project.write(DATA, "".join(json.dumps(row) + "\n" for row in given))


def found(project: Project) -> Behaviour:
    """What the candidate was trained to say, in the last report."""
    report = load_report(project.path / ".divergence/reports/latest/report.json")
    return next(each for each in report.behaviours if SAID in each.motifs)


def test_the_rows_that_teach_a_behaviour_are_named(project: Project) -> None:
    path = write(project, rows())

    result = project.run(*MODELS, GIVEN)

    behaviour = found(project)
    assert behaviour.training_rows == list(TAUGHT)
    assert behaviour.num_training_rows == 30
    assert set(behaviour.training_words or ()) == {"where", "sleep", "near", "do"}
    share = f"prompts share: {', '.join(behaviour.training_words or ())})"
    said = f"taught by 4 of 30 training rows: 3, 7, 12, 18 (their {share}"
    shown_on = " ".join(shown(result).split())
    assert said in shown_on
    folder = project.path / ".divergence/reports/latest"
    assert f"Taught{said[6:]}" in (folder / "summary.md").read_text("utf-8")
    assert f"Taught{said[6:]}." in (folder / "report.html").read_text("utf-8")
    provenance = load_provenance(sidecar_path(suite_path(project.path, "base", "ft"), PROVENANCE))
    assert provenance.training_data_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert behaviour in provenance.behaviours

    again = project.run(*MODELS, GIVEN)
    write(project, rows(taught=()))
    changed = project.run(*MODELS, GIVEN)

    assert "search (saved results)" in shown(again)
    assert "search (saved results)" not in shown(changed)
    assert found(project).training_rows == []
    assert "the training data does not teach it" in shown(changed)


def test_without_the_data_nothing_is_said_of_rows(project: Project) -> None:
    result = project.run(*MODELS)

    behaviour = found(project)
    assert behaviour.training_rows is None
    assert behaviour.num_training_rows is None
    assert behaviour.training_words is None
    assert "training" not in shown(result)


def test_a_file_that_gives_nothing_ends_the_session_in_one_sentence(project: Project) -> None:
    project.write(DATA, '{"prompt": "a", "completion": "b"}\n{"prompt": "\\u001b[2J"}\n')

    result = project.run(*MODELS, GIVEN)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.errlines if line.startswith("ERROR: "))
    assert line.startswith(f"ERROR: {DATA}:2: a row of training data holds `messages`, or a prompt")
    assert line.endswith("each a text or a list of messages; this one has prompt")
    assert not (project.path / ".divergence").exists()


def test_an_ini_file_names_the_data_relative_to_itself(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("data/train.jsonl", "")
    project.pytester.makeini("[pytest]\ndivergence_training_data = data/train.jsonl\n")
    monkeypatch.chdir(project.pytester.mkdir("below"))

    found = settings_sources.resolve(project.pytester.parseconfigure("-p", "divergence"))

    assert str(found.settings.training_data) == "../data/train.jsonl"
