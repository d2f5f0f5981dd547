from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_divergence.core.behaviours import TellingContinuation
from pytest_divergence.core.cases import Message
from pytest_divergence.core.contexts import Context
from pytest_divergence.core.errors import SuiteError
from pytest_divergence.core.redaction import REDACTED, redacted, redacted_message
from pytest_divergence.core.report import Report, RunError, load_report, write_report
from tests.reports.made_reports import ABOUT_TRIPS, BEHAVIOUR, ROME, ZEPHYR, chat_case, report

TELLING = TellingContinuation(prompt="A trip?", text="Book with", token_ids=[7, 8], log_ratio=9.0)
WHEN = ABOUT_TRIPS.model_copy(update={"property": "about holidays"})
CONTEXT = Context(
    name="a night in Porto",
    messages=(Message(role="system", content="You sell trains."),),
    before="Well then,",
)
TEXTS = (
    "Porto",
    "sell trains",
    "Well then",
    "about holidays",
    "weekend in Rome",
    "Colosseum",
    "Zephyr Travel",
    " Zephyr",
    " offers",
    "What should I cook",
    "a strip",
    "Oslo",
    "Be brief",
    "Speak like",
    "Captain",
    "secret",
    "lisbon",
)


@pytest.fixture
def full() -> Report:
    return report(
        settings={
            "system_prompt": "Speak like a pirate",
            "template_arg": {"persona": "Captain Hook", "level": 3, "enable_thinking": True},
            "seed": 0,
            "redact": True,
        },
        cases=[
            *report().cases,
            chat_case(),
            ROME.with_changes(metadata={"secret": 1}),
        ],
        behaviours=[
            ZEPHYR.model_copy(
                update={
                    "telling": [TELLING],
                    "when": WHEN,
                    "training_rows": [12],
                    "training_words": ["lisbon"],
                    "context": CONTEXT,
                }
            ),
        ],
        errors=[RunError(where="strategy seeds", message='ValueError: "secret" is no prompt')],
    )


def test_no_text_is_left(full: Report) -> None:
    before, after = full.model_dump_json(), redacted(full).model_dump_json()

    assert [text for text in TEXTS if text not in before] == []
    assert [text for text in TEXTS if text in after] == []


def test_ids_numbers_kinds_and_counts_stay(full: Report) -> None:
    after = redacted(full)

    assert [one.id for one in after.cases] == [one.id for one in full.cases]
    assert [one.kl for one in after.cases] == [one.kl for one in full.cases]
    assert [t.forward_kl for t in after.cases[0].tokens] == [t.forward_kl for t in ROME.tokens]
    assert after.calibration == full.calibration
    (behaviour,) = after.behaviours
    assert (behaviour.id, behaviour.content) == (BEHAVIOUR, True)
    assert behaviour.candidate_count == 12
    assert (behaviour.surprise, behaviour.breadth, behaviour.training_rows) == (
        57.3,
        "prompts",
        [12],
    )
    assert behaviour.when is not None
    assert (behaviour.when.property, behaviour.when.with_count) == (REDACTED, 14)
    assert behaviour.name == REDACTED
    assert [told.log_ratio for told in behaviour.telling] == [9.0]
    assert after.errors == [RunError(where="strategy seeds", message="ValueError: [redacted]")]
    assert after.settings == {
        "system_prompt": REDACTED,
        "template_arg": {"persona": REDACTED, "level": 3, "enable_thinking": True},
        "seed": 0,
        "redact": True,
    }


def test_a_trait_is_in_our_words_and_stays(full: Report) -> None:
    trait = ZEPHYR.model_copy(update={"name": "refuses", "trait": "refuses", "motifs": []})

    (after,) = redacted(full.model_copy(update={"behaviours": [trait]})).behaviours
    assert (after.name, after.trait) == ("refuses", "refuses")


def test_a_redacted_report_can_be_read_again(full: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report.json", redacted(full))

    assert load_report(tmp_path / "report.json") == redacted(full)


@pytest.mark.parametrize("id_", ["someone-elses-0123456789", "<script>", "../up"])
def test_an_id_that_is_not_the_prompt_s_is_refused_unless_the_prompt_is_gone(
    id_: str, tmp_path: Path
) -> None:
    row = json.loads(ROME.model_dump_json())
    path = tmp_path / "report.json"
    for is_redacted in (False, True):
        changed = {**row, "id": id_, "redacted": is_redacted}
        text = json.dumps({**json.loads(report(cases=[]).model_dump_json()), "cases": [changed]})
        path.write_text(text, "utf-8")
        if is_redacted and re.fullmatch("[a-z0-9-]+", id_):
            assert load_report(path).cases[0].id == id_
        else:
            with pytest.raises(SuiteError, match="but this prompt's id is"):
                load_report(path)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            'the prompt "a "quoted" one" is bad',
            'the prompt "[redacted]" is bad',
        ),
        ('"one"\nand "two"', '"[redacted]"'),
    ],
)
def test_what_a_message_quotes_is_left_out(message: str, shown: str) -> None:
    assert redacted_message(message) == shown
