"""`pytest-divergence damage`: what a set of items can find, and what a candidate has lost."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase

import pytest

from pytest_divergence.cli import main
from pytest_divergence.core.damage_record import KnownAnswer
from pytest_divergence.core.errors import SettingsError
from pytest_divergence.discovery.damage_test import read_items
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.scoring.known_answers import answer_margins
from tests.plugin.conftest import MODELS, Project
from tests.tiny import save_tiny_model

PROMPTS = [f"What is {number} + {number}?" for number in range(40)]
CHOICES = [
    (ascii_lowercase[number % 26], ascii_lowercase[(7 * number + 3) % 26]) for number in range(40)
]
PLAN = """\
40 items. The fewest losses that can be shown are 6, with none won: 15 points of
accuracy. The smallest loss that is found in 80 % of such tests:
  none, if 1 % of the answers change
  none, if 3 % of the answers change
  none, if 10 % of the answers change

"""


@pytest.fixture(scope="module")
def rows(tiny_models: Path) -> str:
    """Items to which `base` knows all answers: those that it prefers."""
    pair = load_model_pair(str(tiny_models / "base"), str(tiny_models / "base"))
    asked = [
        KnownAnswer(input=prompt, answer=choices[0], choices=choices)
        for prompt, choices in zip(PROMPTS, CHOICES, strict=True)
    ]
    rows = [
        {"input": item.input, "answer": choices[item.reference_margin < 0], "choices": choices}
        for item, choices in zip(answer_margins(pair, asked), CHOICES, strict=True)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def items(project: Project, rows: str) -> None:
    project.write("items.jsonl", rows)


@pytest.mark.usefixtures("items")
def test_a_ruined_candidate_is_worse_and_json_holds_every_item(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model(project.path / "worse", perturb=1.0)

    assert main(["damage", "items.jsonl", "--model-1=base", "--model-2=worse"]) == 1

    shown = capsys.readouterr().out
    assert shown.startswith(f"{PLAN}reference  base\ncandidate  worse\n\nreference right ")
    assert "won                   0 of 40  (0.0 %)\n" in shown
    assert "Worse: more answers are lost than won and right answers are less sure, by more" in shown
    assert "margins  lost answer           prompt\n" in shown
    assert not (project.path / ".divergence").exists()

    assert main(["damage", "items.jsonl", "--model-1=base", "--model-2=worse", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    lost = [one for one in report["items"] if one["candidate_margin"] <= 0]
    assert [one["input"] for one in report["items"]] == PROMPTS
    assert all(one["reference_margin"] > 0 for one in report["items"])
    assert (report["num_reference_right"], report["num_lost"]) == (40, len(lost))
    assert report["verdict"] == "worse"


@pytest.mark.usefixtures("items")
def test_an_unchanged_candidate_is_not_worse_within_what_the_items_can_tell(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ("--model-1=base", "--model-2=base")

    assert main(["damage", "items.jsonl", *same]) == 0
    strict = capsys.readouterr().out
    assert main(["damage", "items.jsonl", *same, "--tolerance=0.1"]) == 0
    loose = capsys.readouterr().out

    assert "accuracy  +0.000 points [-6.335, +6.335], p = 1.00 (exact McNemar test)\n" in strict
    assert "margin    +0.000 nats [+0.000, +0.000], p = 1.00 (t test)\n" in strict
    assert strict.endswith(
        "Undecided: neither a loss is shown, nor is one of 1 point ruled out; give more\nitems.\n"
    )
    assert max(map(len, strict.splitlines())) <= 80
    assert loose.endswith(
        "Not worse: a loss of accuracy of 10 points is ruled out at 95 % confidence.\n"
    )


def test_nothing_known_is_nothing_to_lose(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f'"{prompt}",Never said\n' for prompt in PROMPTS)
    project.write("items.csv", f"prompt,answer\n{rows}")

    assert main(["damage", "items.csv", "--model-1=base", "--model-2=base", "--tolerance=0.5"]) == 0
    assert capsys.readouterr().out.endswith(
        "Undecided: the reference knows 0 of the answers, and a verdict needs 32; give\nitems that "
        "it knows.\n"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"input": "Hi"}\n', ":1: an item is an object with `input` or `prompt`, `answer`, and,"),
        ("\n[1]\n", ":2: an item is an object"),
        ("{\n", ":1: not valid JSON: "),
        (
            '{"input": "Hi", "answer": "a", "choices": ["b", "c"]}\n',
            ":1: `choices` must hold `answer`, and another one",
        ),
        (2 * '{"prompt": "Hi", "answer": "a"}\n', ":2: this item is there already"),
        ("", " has no items; an item is"),
    ],
)
def test_a_wrong_item_is_named(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(text, "utf-8")

    with pytest.raises(SettingsError) as caught:
        read_items(path)
    assert str(caught.value).startswith(f"{path}{reason}")


def test_a_table_holds_the_items_of_json_lines(tmp_path: Path) -> None:
    """The blank of an answer is a part of it: ` Paris` is another token than `Paris`."""
    opening = "The capital of France is"
    texts = {
        "items.jsonl": json.dumps(
            {
                "input": "Which is it?",
                "opening": opening,
                "answer": " Paris",
                "choices": [" Paris", " Rome"],
            }
        ),
        "items.csv": "input, opening, answer, choices\n"
        f'Which is it?,{opening}, Paris," ["" Paris"", "" Rome""]"\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, "utf-8")

    lines, table = (read_items(tmp_path / name).items for name in texts)

    assert table == lines
    assert table[0].opening + table[0].answer == "The capital of France is Paris"


@pytest.mark.usefixtures("project")
def test_items_are_read_before_models_are_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["damage", "items.jsonl", *MODELS]) == 1
    shown = capsys.readouterr()
    assert shown.err == "error: ITEMS=items.jsonl cannot be read: No such file or directory\n"
    assert shown.out == ""
    with pytest.raises(SystemExit):
        main(["damage", "items.jsonl", *MODELS, "--tolerance=5"])
    assert "--tolerance: 5 must be above 0 and below 1" in capsys.readouterr().err
