from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from unicodedata import category

import pytest

from pytest_divergence.core.report import Calibration, Run
from pytest_divergence.core.safe_text import HIDDEN
from pytest_divergence.reports.html import marked, render_html
from pytest_divergence.reports.report_files import write_reports
from tests.reports.made_reports import (
    ESCAPES,
    HOSTILE,
    ROME,
    SCRIPT,
    case,
    hostile_report,
    report,
)
from tests.reports.made_runs import replay, search, stopped

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
    "search": search(),
    "replay": replay(),
    "stopped": stopped(),
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
            case("no limit", 1.0, max_kl=None),
            case("nothing at all", None, completions=None, origin=None, prompt_nll=None),
        ],
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_page_is_well_formed_and_self_contained_and_hides_nothing(name: str) -> None:
    source = render_html(REPORTS[name])
    assert not {c for c in source if category(c) in HIDDEN} - {"\n", "\t"}
    page = Page(source)
    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {
        *("img", "iframe", "link", "object", "embed", "form", "base", "b1")
    }
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")}
    assert not names & {"style", "src", "srcset", "action", "formaction", "xlink:href"}

    ids = page.values("id")
    assert len(ids) == len(set(ids))
    missing = set(page.values("href")) - {f"#{id_}" for id_ in ids}
    # A behaviour or case may be named that this report does not hold.
    assert all(re.fullmatch("#(case-|behaviour-)[a-z0-9-]+", link) for link in missing)
    assert not (missing and name == "search")


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
        ("as it is", ["", "  ", "absent"], ["as it is"]),
        ("", [], []),
    ],
)
def test_motifs_are_found_whatever_their_case_and_spacing(
    text: str, motifs: list[str], parts: list[str]
) -> None:
    found = marked(text, motifs)
    assert found == [(part, i % 2 == 1) for i, part in enumerate(parts) if part]
    assert "".join(part for part, _ in found) == text
