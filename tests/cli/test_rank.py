"""`pytest-divergence rank`: the order of a user's prompts, and the suite that is made of it."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pytest_divergence.cli import main
from pytest_divergence.discovery import prompt_ranks
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from tests.plugin.conftest import KNOT, MODELS, POEM, Project

SUITE = "tests/mine.divergence.jsonl"
LEGEND = """\
leap: how much likelier, in nats, the candidate writes the last token of what
its answer begins with; prompts of equal leap stand in the order of the first
token's divergence. controls: ordinary prompts that stand as high. expected: how
many of 4 ordinary prompts would, at most, on average. limit: no more would,
with a probability of 95 %. This is an order, no verdict: 9 controls cannot
carry one.
"""
MINE = [KNOT, POEM, "Why is the sky blue?", "为什么天空是蓝色的？"]


@pytest.fixture(autouse=True)
def _sure_models(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are likely, as those of trained models are; few controls."""
    monkeypatch.setattr(prompt_ranks, "NUM_CONTROLS", 9)
    for name in ("base", "ft"):
        path = project.path / name / "model.safetensors"
        weights = load_file(path)
        weights["lm_head.weight"] *= 8
        save_file(weights, path, metadata={"format": "pt"})
    project.write("mine.txt", "\n".join([*MINE, KNOT, "z" * 3000]))


def ranked(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    """The rows that the command prints as JSON Lines."""
    assert main(["rank", *words, *MODELS, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_table_shows_the_most_affected_first(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ranked(capsys, "mine.txt")
    assert main(["rank", "mine.txt", *MODELS, "--top=3"]) == 0

    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[:5] == [
        "reference  base",
        "candidate  ft",
        "4 prompts, 9 controls, left out as repeated: 1, over 2,044 tokens: 1",
        "",
        "   leap controls expected limit  begins              prompt",
    ]
    for line, row in zip(lines[5:8], rows, strict=False):
        counts = f"{row['controls_above']:9}{row['expected_above']:9.1f}{row['limit_above']:6}"
        assert line.startswith(f"{row['leap']:7.2f}{counts}  ")
        assert line.endswith(f'"{row["input"]}"')
    assert lines[8] == ""
    assert shown.out.endswith(LEGEND)
    assert shown.err.startswith("divergence: loading the models\n")
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert {row["input"] for row in rows} == {*MINE}
    assert all(first["leap"] >= then["leap"] for first, then in pairwise(rows))
    assert not (project.path / ".divergence").exists()


def test_a_control_stands_where_controls_stand(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write("ordinary.txt", "\n".join(shipped_prompts(SHIPPED_CONTROLS, 9)))

    rows = ranked(capsys, "ordinary.txt")

    assert [row["controls_above"] for row in rows] == [row["rank"] for row in rows]
    assert [row["expected_above"] for row in rows] == pytest.approx(
        [9 * (rank + 1) / 10 for rank in range(1, 10)]
    )
    assert [row["limit_above"] for row in rows] == [5, 6, 7, 8, 8, 9, 9, 9, 9]
    assert rows[0]["leap"] > 1
    assert all(bool(row["opening"]) == (row["leap"] > 0) for row in rows)


@pytest.mark.slow
def test_the_top_becomes_a_suite_that_can_be_filled(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ranked(capsys, "mine.txt", "--top=2", f"--to-suite={SUITE}")
    suite = project.path / SUITE
    written = [json.loads(line) for line in suite.read_text("utf-8").splitlines()]

    assert {row["input"] for row in written} == {row["input"] for row in rows[:2]}
    assert [row["metadata"]["leap"] for row in sorted(written, key=lambda row: row["input"])] == [
        round(row["leap"], 3) for row in sorted(rows[:2], key=lambda row: str(row["input"]))
    ]
    project.run(SUITE, *MODELS, "--divergence-fill").assert_outcomes(passed=2)

    assert main(["rank", "mine.txt", *MODELS, f"--to-suite={SUITE}"]) == 1
    assert capsys.readouterr().err.endswith(
        f"error: {SUITE} exists already; add to it with --add, or name another file\n"
    )
    suite.unlink()
    assert main(["rank", "mine.txt", *MODELS, f"--to-suite={SUITE}"]) == 0
    assert capsys.readouterr().out.endswith(
        f"{LEGEND}"
        f"wrote 4 prompts to {SUITE}, not measured yet\n"
        "measure them:\n"
        f"  pytest {SUITE} --model-1 base --model-2 ft \\\n"
        "    --divergence-fill\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere.txt",), "PROMPTS=nowhere.txt cannot be read: No such file or directory"),
        (("long.txt",), "every prompt is longer than 2,044 tokens, so none is ranked; shorten"),
        (("mine.txt", "--to-suite=a.jsonl"), "a.jsonl cannot name a suite: the name must end in"),
        (("mine.txt", "--model-2=./no"), "--model-2: no folder './no' here, and it is not"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    project: Project, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    project.write("long.txt", "z" * 3000)
    models = MODELS[:1] if any("--model-2" in word for word in words) else MODELS

    assert main(["rank", *words, *models]) == 1

    shown = capsys.readouterr()
    assert re.search(rf"^error: {re.escape(message)}", shown.err, re.MULTILINE)
    assert not shown.out
    assert not Path("a.jsonl").exists()


def test_a_served_model_is_refused_in_one_sentence(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    served = "--model-2=llamacpp:http://127.0.0.1:9,tokenizer=base"

    assert main(["rank", "mine.txt", "--model-1=base", served]) == 1

    refused = capsys.readouterr().err
    assert "tells less of its distributions than this command needs; " in refused
