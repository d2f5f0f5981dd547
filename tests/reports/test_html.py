from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from unicodedata import category

import pytest

from pytest_divergence.core.report import Calibration, Report, Run
from pytest_divergence.core.safe_text import HIDDEN
from pytest_divergence.reports.html import marked, render_html
from pytest_divergence.reports.report_files import write_reports
from tests.reports.made_reports import (
    BEHAVIOUR,
    ESCAPES,
    HOSTILE,
    JUDGED,
    ROME,
    SCRIPT,
    SUSPECT,
    YES,
    ZEPHYR,
    case,
    chat_case,
    hostile_report,
    report,
)

VOID = {"meta", "input"}


class Page(HTMLParser):
    """What a browser would make of the page: elements, attributes, text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


REPORTS = {
    "usual": report(),
    "hostile": hostile_report(),
    "bare": report(
        cases=[],
        behaviours=[],
        strategies=[],
        training=[],
        search_curve=[],
        settings={},
        calibration=Calibration(),
    ),
    "odd": report(
        run=Run(id="run", mode="replay", status="incomplete", reason=HOSTILE),
        cases=[
            chat_case(),
            case("no limit", 1.0, max_kl=None),
            case("unmeasured", None, verdict="error", verdict_reason="logits are NaN"),
            case("nothing at all", None, completions=None, origin=None, prompt_nll=None),
        ],
    ),
}


@pytest.fixture(params=list(REPORTS))
def any_report(request: pytest.FixtureRequest) -> Report:
    return REPORTS[request.param]


def test_the_page_is_well_formed_and_self_contained(any_report: Report) -> None:
    page = Page(render_html(any_report))
    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {
        *("img", "iframe", "link", "object", "embed", "form", "base", "b1")
    }
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"style", "src", "srcset", "action", "formaction", "xlink:href"}


def test_the_page_says_how_leads_were_judged_and_what_it_took() -> None:
    text = Page(render_html(report(**JUDGED))).text
    assert "30 leads watched; 4 tested together at 5%: 1 confirmed; the mirror image" in text
    assert "Of the leads that 5%, 10%, 20%, 50%, 100% of answers show, tests confirm 2%" in text
    assert "Tokens by kind of work noise floor 3,480, search: soft_prompt 146,280" in text


def test_every_link_leads_to_a_place_in_the_page(any_report: Report) -> None:
    page = Page(render_html(any_report))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    known = {f"#{name}" for name in ids}
    missing = set(page.values("href")) - known
    # A behaviour or case may be named that this report does not hold.
    assert all(re.fullmatch("#(case-|behaviour-)[a-z0-9-]+", link) for link in missing)
    if any_report is REPORTS["usual"]:
        assert not missing


def test_nothing_hidden_reaches_the_page(any_report: Report) -> None:
    source = render_html(any_report)
    assert not {c for c in source if category(c) in HIDDEN} - {"\n", "\t"}


def test_the_policy_allows_the_page_s_own_style_and_script_and_nothing_else() -> None:
    source = render_html(hostile_report())
    digests = {}
    for name in ("style", "script"):
        (text,) = re.findall(f"<{name}>(.*?)</{name}>", source, re.DOTALL)
        digests[name] = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert not re.search(r"url\(|@import|innerHTML|insertAdjacent|eval\(|fetch\(", text)
    page = Page(source)
    (policy,) = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digests['style']}'; "
        f"script-src 'sha256-{digests['script']}'; base-uri 'none'; form-action 'none'"
    )


def test_the_verdict_comes_first() -> None:
    text = Page(render_html(report())).text
    assert text.startswith(
        "The models behave differently. – pytest-divergence pytest-divergence: how two models "
        "differ The models behave differently. The candidate shows 1 new behaviour. 4 of 5 "
        "prompts found by the search show more divergence than the bound, 0.310 nats/token. "
        "Exit code 1 means that differences were found"
    )


def test_what_stopped_a_run_stands_beside_the_verdict() -> None:
    run = Run(id="run", mode="search", status="incomplete", reason="the user interrupted it")
    text = Page(render_html(report(run=run))).text
    assert "Why it stopped: the user interrupted it. Reference demo" in text
    assert "What went wrong" not in text


def test_a_case_shows_both_answers_and_where_they_part() -> None:
    source = render_html(report(), suite="s.divergence.jsonl")
    page = Page(source)
    for words in (
        "Reference answers Rome has so much to see.",
        "Candidate answers Sure! Book with Zephyr Travel.",
        "KL 3.742 nats/token > max_kl 0.310",
        f"pytest s.divergence.jsonl::{ROME.id} --model-1 demo:smollm2-135m",
    ):
        assert words in page.text
    tips = page.values("aria-description")
    assert (
        "token 3\t“ Book”\n"
        "KL forward 7.029\treverse 8.591\n"
        "reference\tp = 0.0004\t0.42  has\t0.20  is\t0.08  offers\n"
        "candidate\tp = 0.97\t0.97  Book\t0.01  has"
    ) in tips
    assert '<span class="t h6" tabindex="0"' in source
    assert "<mark>Book with Zephyr Travel</mark>" in source
    assert f'<div class="inside" id="case-{ROME.id}">' in source


def test_the_page_has_a_place_for_everything_in_the_report() -> None:
    page = Page(render_html(report()))
    headings = [
        i for i in page.values("id") if not i.startswith(("case-", "behaviour-", "tokens-"))
    ]
    assert headings == [
        "behaviours",
        "distribution",
        "cases",
        "apart",
        "search",
        "bound",
        "provenance",
        "method",
        "said",
    ]
    assert BEHAVIOUR in page.values("id")
    assert page.values("aria-label")[-5:] == [
        "Largest KL found so far by each strategy, against forwarded tokens",
        "Divergent prompts found so far by each strategy, against forwarded tokens",
        "Strategies",
        "Objective of a soft prompt's training, and validation, over steps",
        "Objective of a soft prompt's training, and validation, over steps",
    ]
    assert "KL of 64 controls and 5 cases; 4 over the bound" in page.values("aria-label")
    assert "D_soft 6.100 D_hard 2.200" in page.text


def test_content_style_and_suspects_stand_apart() -> None:
    page = render_html(report(behaviours=[SUSPECT, YES, ZEPHYR]))

    places = [page.index(f'id="{name}"') for name in ("behaviours", BEHAVIOUR, "style", YES.id)]
    places += [page.index(f'id="{name}"') for name in ("suspects", SUSPECT.id, "distribution")]
    assert places == sorted(places)
    text = Page(page).text
    assert "begins with Yes, on 16% more of ordinary prompts" in text
    assert "1 style change put aside. Style is how things are said." in text
    assert "1 style change put aside; see How it answers." in text
    assert "only some prompts cause it; the reference is 57 nats from saying it anywhere" in text
    assert page.count("Accept it and it no longer fails") == 1


def test_a_style_that_fails_can_be_accepted() -> None:
    page = render_html(report(behaviours=[YES], settings={"fail_on": "any"}))
    assert page.count("Accept it and it no longer fails") == 1
    assert "1 style change fails. Style is" in page
    text = Page(page).text
    assert "0 new behaviours 1 style change fails" in text


def test_hostile_text_shows_as_text_and_a_cut_is_counted() -> None:
    page = Page(render_html(hostile_report()))
    assert SCRIPT in page.text
    assert r"\u{1b}[2J\u{1b}]0;owned\u{7} \u{202e}txet desrever\u{202c} \u{0} \u{200b}" in page.text
    assert "Cut here: 96,000 more characters in report.json." in page.text
    assert ESCAPES not in page.text
    assert max(len(word) for word in page.text.split()) <= 4000


def test_two_hundred_cases_stay_a_small_file() -> None:
    cases = [
        case(f"A prompt of usual length, {i}", 3.0, tokens=ROME.tokens * 3) for i in range(200)
    ]
    assert len(render_html(report(cases=cases)).encode()) < 3_000_000


def test_the_files_are_written_beside_the_report(tmp_path: Path) -> None:
    paths = write_reports(report(), tmp_path, suite="s.divergence.jsonl")
    assert paths == [tmp_path / "report.html", tmp_path / "summary.md"]
    assert sorted(tmp_path.iterdir()) == paths
    assert (tmp_path / "report.html").read_text("utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("text", "motifs", "parts"),
    [
        ("Sure! book  with\nus.", ["Book with us"], ["Sure! ", "book  with\nus", "."]),
        ("a.b and axb", ["a.b"], ["", "a.b", " and axb"]),
        ("Zephyr Travel", ["Zephyr", "Zephyr Travel"], ["", "Zephyr Travel", ""]),
    ],
)
def test_motifs_are_found_whatever_their_case_and_spacing(
    text: str, motifs: list[str], parts: list[str]
) -> None:
    found = marked(text, motifs)
    assert found == [(part, i % 2 == 1) for i, part in enumerate(parts) if part]
    assert "".join(part for part, _ in found) == text


@pytest.mark.parametrize("motifs", [[], ["", "  "], ["absent"]])
def test_a_text_without_motifs_stays_whole(motifs: list[str]) -> None:
    assert marked("as it is", motifs) == [("as it is", False)]
    assert marked("", motifs) == []
