"""Thinking models from the command line: closed thoughts by default, open ones when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.replies import parts_of
from pytest_divergence.core.settings import PROFILES, THOUGHT_LENGTHS
from tests.models_in_memory import tiny_model
from tests.plugin.conftest import MODELS, Project, shown
from tests.plugin.test_search import TINY_SEARCH
from tests.thinking import OPENED, SWITCHED, thinking_tokenizer
from tests.tiny import CONFIGS, TOKEN_IDS, tiny_tokenizer

OPEN = "--divergence-template-arg=enable_thinking=true"
SUITE = "release.divergence.jsonl"
WITHIN = "1 stored case replayed: 1 within the bound."
KNOT = {"input": "How do I tie a knot?"}


@pytest.fixture(autouse=True)
def _tiny_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROFILES, "smoke", PROFILES["smoke"].model_copy(update=TINY_SEARCH))
    monkeypatch.setitem(THOUGHT_LENGTHS, "smoke", 5)


@pytest.fixture(params=[SWITCHED, OPENED], ids=["switched", "opened"])
def thinking(
    request: pytest.FixtureRequest, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A project with two models that think before they answer."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    tokenizer = thinking_tokenizer()
    tokenizer.chat_template = request.param
    for name, noise in (("base", 0.0), ("ft", 0.3)):
        config = CONFIGS["llama"](len(tokenizer), **TOKEN_IDS)
        model = tiny_model(config=config, perturb=noise)
        model.save_pretrained(pytester.path / name)
        tokenizer.save_pretrained(pytester.path / name)
    return Project(pytester)


def searched(project: Project) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The provenance and the rows of the pair's last search."""
    path = suite_path(project.path, "base", "ft")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = [row for row in rows if row.get("completions")]
    assert rows
    beside = Path(str(path).replace(".divergence.jsonl", ".provenance.json"))
    return json.loads(beside.read_text("utf-8")), rows


@pytest.mark.parametrize("thinking", [SWITCHED], ids=["switched"], indirect=True)
def test_a_search_closes_thoughts_and_says_so(thinking: Project) -> None:
    result = thinking.run(*MODELS, "--divergence-mode=search")

    made, rows = searched(thinking)
    text = shown(result)
    assert "divergence: thoughts are closed (" in text
    assert "only answers are measured" in text
    assert made["settings"]["template_arg"] == {}
    assert all(parts_of(row["completions"]["candidate"])[0] is None for row in rows)


def test_a_search_with_open_thoughts_measures_both_parts(thinking: Project) -> None:
    result = thinking.run(*MODELS, "--divergence-mode=search", OPEN, "-v")

    made, rows = searched(thinking)
    text = shown(result)
    assert "thoughts are open: up to 5 tokens of them before each answer" in text
    assert made["template_arguments"]["enable_thinking"] is True
    assert f"{OPEN.partition('=')[0]} enable_thinking=true" in " ".join(text.split())
    has_thoughts = any(parts_of(row["completions"]["candidate"])[0] is not None for row in rows)
    assert has_thoughts == (thinking_opens(thinking))
    again = thinking.run(str(suite_path(thinking.path, "base", "ft")), *MODELS, OPEN)
    assert "2 stored cases replayed: 2 within the bound." in shown(again)


def thinking_opens(project: Project) -> bool:
    """Whether prompts open thoughts: random models open none by themselves."""
    tokenizer: Any = AutoTokenizer.from_pretrained(project.path / "base")
    return bool(tokenizer.chat_template == OPENED)


@pytest.mark.parametrize("thinking", [SWITCHED], ids=["switched"], indirect=True)
def test_a_suite_with_closed_thoughts_is_not_replayed_with_open_ones(thinking: Project) -> None:
    thinking.write_suite(SUITE, KNOT)
    thinking.run(SUITE, *MODELS, "--divergence-fill", "--divergence-max-kl=9")
    assert WITHIN in shown(thinking.run(SUITE, *MODELS, "--divergence-max-kl=9"))

    result = thinking.run(SUITE, *MODELS, "--divergence-max-kl=9", OPEN)

    assert "1 stored case not measured." in shown(result)
    assert "Changed since the suite was made: the template's arguments" in " ".join(
        shown(result).split()
    )


def test_arguments_come_from_the_ini_file_line_by_line(project: Project) -> None:
    tokenizer = tiny_tokenizer()
    template = str(tokenizer.chat_template)
    project.write("t.jinja", f"{template}{{{{ mood }}}}{{{{ level }}}}")
    project.write_suite(SUITE, KNOT)
    project.write(
        "pytest.ini",
        "[pytest]\ndivergence_chat_template = t.jinja\n"
        "divergence_template_arg =\n  mood=calm\n  level=3\n",
    )

    project.run(SUITE, *MODELS, "--divergence-fill", "--divergence-max-kl=9")

    made = json.loads((project.path / "release.provenance.json").read_text("utf-8"))
    assert made["settings"]["template_arg"] == {"mood": "calm", "level": 3}
    assert WITHIN in shown(project.run(SUITE, *MODELS, "--divergence-max-kl=9"))


def test_an_argument_that_no_template_reads_is_refused(project: Project) -> None:
    misspelt = "the chat template does not read it; leave it out"
    unknown = "must be NAME=VALUE with a name that the chat template reads"
    no_thoughts = "the chat template has no thoughts; leave it out"
    project.write_suite(SUITE, KNOT)
    for argument, problem in (
        ("enable_thinkng=true", misspelt),
        ("enable_thinking=true", no_thoughts),
        ("messages=3", unknown),
        ("thinking", unknown),
    ):
        given = f"--divergence-template-arg={argument}"
        result = project.run(SUITE, *MODELS, given, "--divergence-max-kl=9")

        text = " ".join(shown(result).split())
        assert given.rpartition("=")[0] in text or given in text
        assert problem in text
        assert result.ret != 0
