from __future__ import annotations

import re
from unicodedata import category

from pytest_divergence.core.report import Run
from pytest_divergence.core.safe_text import HIDDEN
from pytest_divergence.reports.markdown import render_markdown
from tests.reports.made_reports import (
    JUDGED,
    ROME,
    SUSPECT,
    YES,
    ZEPHYR,
    case,
    hostile_report,
    report,
)


def test_the_page_opens_with_the_verdict() -> None:
    assert render_markdown(report()).startswith("""\
# pytest-divergence

**The models behave differently.** The candidate shows 1 new behaviour. 4 of 5 prompts found by \
the search show more divergence than the bound, 0.310 nats/token. Exit code 1 means that \
differences were found, not that the tool broke.

- reference: `demo:smollm2-135m`
- candidate: `examples/adapters/zephyr-travel`
- cases: 4 failed, 1 passed, 1 set apart (unnatural text, not tested)
- effort: 312 prompts scored, 149,760 tokens forwarded, 92 s
""")


def test_style_and_suspects_have_sections_of_their_own() -> None:
    text = render_markdown(report(behaviours=[SUSPECT, YES, ZEPHYR]))
    sections = re.findall("^##+ (.*)", text, re.MULTILINE)
    assert sections[:6] == [
        "Behaviours of the candidate",
        ZEPHYR.id,
        "How it answers",
        YES.id,
        "Suspects, not confirmed",
        SUSPECT.id,
    ]
    assert "\n1 style change put aside.\n" in text
    assert '\n| begins with "Yes," on 16% more of ordinary prompts\n' in text


def test_it_says_how_leads_were_judged() -> None:
    assert (
        "\n- 30 leads watched; 4 tested together at 5%: 1 confirmed; the mirror image of the "
        "search confirmed 0\n- of the leads that 5%, "
    ) in render_markdown(report(**JUDGED))


def test_what_stopped_a_run_is_no_error() -> None:
    run = Run(id="run", mode="search", status="incomplete", reason="the user interrupted it")
    text = render_markdown(report(run=run))
    assert "\n- why it stopped: `the user interrupted it`\n" in text
    assert "## Errors" not in text


def test_a_failed_case_is_shown_with_both_answers() -> None:
    text = render_markdown(report(), suite="s.divergence.jsonl")
    assert f"|`{ROME.id}`|3.742|0.310|failed|" in text
    assert (
        f"""
### {ROME.id}

Prompt (user):

```text
| Plan me a weekend in Rome
```
"""
        in text
    )
    assert f"Run it again: `pytest s.divergence.jsonl::{ROME.id} --model-1" in text


def test_many_failed_cases_are_named_and_the_first_twenty_shown() -> None:
    cases = [case(f"prompt {i}", 1 + i / 10) for i in range(25)]
    text = render_markdown(report(cases=cases))
    assert text.count("|failed|") == 25
    assert text.count("Prompt (user):") == 20
    assert "5 more failed cases are in report.html." in text


def test_hostile_text_stays_inside_its_fences_and_spans() -> None:
    text = render_markdown(hostile_report())
    assert not {c for c in text if category(c) in HIDDEN} - {"\n"}
    outside = []
    for number, part in enumerate(re.split("^```(?:text)?$", text, flags=re.MULTILINE)):
        if number % 2:
            lines = part.strip("\n").split("\n")
            assert all(line.startswith(("|", "[cut: ", "(empty)")) for line in lines)
        else:
            outside.append(re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", part))
    prose = "".join(outside)
    assert not re.search("<script|<img|<b>|example.org|::error", prose)
    assert not re.search("^ *::|##\\[", text, re.MULTILINE)
