"""What a user of the page sees and does, in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from pytest_divergence.reports.cards import report_frame
from pytest_divergence.reports.html import render_html
from tests.reports.browser import DESKTOP, PHONE, View, browser, view
from tests.reports.made_reports import (
    BEHAVIOUR,
    HOSTILE,
    HOSTILE_CASES,
    ROME,
    SUITE,
    hostile_report,
    report,
)

ROWS = ".cases[aria-label=Cases] tbody:not([hidden]) .row"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "usual.html").write_text(render_html(report(), suite=SUITE), "utf-8")
    (folder / "hostile.html").write_text(render_html(hostile_report(), suite=SUITE), "utf-8")
    return folder


@pytest.fixture
def usual(chromium: Browser, pages: Path) -> Iterator[View]:
    with view(chromium, (pages / "usual.html").as_uri()) as shown:
        yield shown
        assert shown.complaints == []


def prompts(shown: View) -> list[str]:
    return shown.page.locator(f"{ROWS} .prompt").all_inner_texts()


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [("usual", DESKTOP, "dark"), ("usual", PHONE, "light"), ("hostile", PHONE, "dark")],
)
def test_nothing_complains_nothing_leaves_and_nothing_sticks_out(
    chromium: Browser, pages: Path, name: str, size: dict[str, int], scheme: str
) -> None:
    path = pages / f"{name}.html"
    with view(chromium, path.as_uri(), size=size, scheme=scheme) as shown:
        for link in shown.page.locator(f"{ROWS} a").all():
            if link.get_attribute("aria-expanded") == "false":
                link.click()
        width = shown.page.evaluate("document.documentElement.scrollWidth")
        colour = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")

    assert shown.complaints == []
    assert shown.requests == [path.as_uri()]
    assert width == size["width"]
    assert (colour == "rgb(19, 20, 22)") == (scheme == "dark")


def test_hostile_text_is_text(chromium: Browser, pages: Path) -> None:
    with view(chromium, (pages / "hostile.html").as_uri()) as shown:
        first = shown.page.locator(f"#case-{HOSTILE_CASES[0].id}")
        assert shown.page.evaluate("document.images.length + document.scripts.length") == 1
        assert "<script>alert(1)</script>" in first.inner_text()
        assert r"\u{202e}txet desrever\u{202c} \u{0}" in first.inner_text()
        token = first.locator(".t").first
        token.hover()
        inspected = first.locator(".inspector .where").inner_text()
        first.locator(".copy").first.click()
        first.locator(".copy").first.filter(has_text="Copied").wait_for()
        copied = shown.page.evaluate("navigator.clipboard.readText()")

    assert inspected.startswith("token 1\n<script>alert(1)</script>")
    # The system's clipboard ends a text at its first NUL, and all before it must be exact.
    assert copied.split("\0")[0] == HOSTILE.split("\0")[0]
    assert "\u202e" in copied


def test_without_script_all_can_be_read(chromium: Browser, pages: Path) -> None:
    with view(chromium, (pages / "usual.html").as_uri(), has_script=False) as shown:
        shown.page.locator(".more summary").nth(1).click()
        heat = shown.page.locator(".more .heat").nth(1)
        heat.locator(".t").nth(4).hover()
        tip = heat.locator(".t").nth(4)
        assert heat.is_visible()
        assert not shown.page.locator(".filters").is_visible()
        assert not shown.page.locator(".copy").first.is_visible()
        # What a browser shows of generated content, no script can read; that it is there, it can.
        assert tip.evaluate("one => getComputedStyle(one, '::after').content").startswith(
            '"token 5'
        )


def test_a_page_that_comes_slowly_is_whole_in_the_end(chromium: Browser, pages: Path) -> None:
    inspector = '<div class="inspector"'
    first, rest = (pages / "usual.html").read_text("utf-8").split(inspector, 1)
    with view(chromium, "about:blank") as shown:
        shown.page.evaluate("html => { document.open(); document.write(html) }", first)
        tokens = shown.page.locator(".heat .t")
        tokens.first.hover()
        tokens.first.click()
        shown.page.evaluate("html => { document.write(html); document.close() }", inspector + rest)

        assert shown.page.locator(".inspector .where span").first.is_visible()
        assert shown.complaints == []


def test_a_row_opens_by_mouse_by_key_and_by_link(usual: View) -> None:
    links = usual.page.locator(f"{ROWS} a")
    inside = usual.page.locator(".cases[aria-label=Cases] .inside")
    opened = [one.is_visible() for one in inside.all()]
    assert opened == [True, False, False, False, False]

    usual.page.locator(ROWS).nth(1).click()
    links.nth(2).focus()
    usual.page.keyboard.press("Enter")
    links.nth(3).focus()
    usual.page.keyboard.press("Space")
    assert [one.is_visible() for one in inside.all()] == [True, True, True, True, False]
    expect(links.nth(1)).to_have_attribute("aria-expanded", "true")
    usual.page.keyboard.press("Space")
    expect(links.nth(3)).to_have_attribute("aria-expanded", "false")

    links.nth(0).click()
    assert not inside.nth(0).is_visible()
    usual.page.locator(f'#{BEHAVIOUR} a[href="#case-{ROME.id}"]').click()
    inside.nth(0).wait_for(state="visible")


def test_sorting_says_how_it_is_sorted(usual: View) -> None:
    heads = usual.page.locator(".cases[aria-label=Cases] th[data-sort]")
    before = prompts(usual)

    heads.nth(1).get_by_role("button").click()
    assert prompts(usual) == before[::-1]
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    assert usual.text("#said") == "Sorted by KL, ascending"

    heads.nth(0).get_by_role("button").focus()
    usual.page.keyboard.press("Enter")
    assert prompts(usual) == sorted(before, key=lambda text: ("¿PWق".find(text[0]), text))
    assert heads.nth(1).get_attribute("aria-sort") is None


def test_cases_are_filtered_by_words_verdict_and_behaviour(usual: View) -> None:
    search = usual.page.get_by_role("searchbox", name="Search")
    count = usual.page.locator("output")
    verdict = usual.page.get_by_label("Verdict")

    verdict.select_option("passed")
    assert prompts(usual) == ["Write a haiku about rain"]
    assert count.inner_text() == "1 of 5 cases"

    verdict.select_option("")
    search.fill("LISBOA  días")
    assert prompts(usual) == ["¿Qué puedo visitar en Lisboa en dos días?"]

    search.fill("no such words")
    assert prompts(usual) == []
    assert usual.page.get_by_text("No case matches these filters.").is_visible()

    search.fill("")
    usual.page.get_by_label("Behaviour").select_option(BEHAVIOUR)
    assert prompts(usual) == [ROME.text]


def test_tokens_show_what_both_models_would_have_said_by_mouse_and_by_key(usual: View) -> None:
    place = usual.page.locator(f"#case-{ROME.id}")
    shown = place.locator(".inspector")
    assert shown.locator("q").first.inner_text().strip("“”") == " Zephyr"  # the oddest one

    place.locator(".t").nth(2).hover()
    assert shown.locator(".where").inner_text() == "token 3\n Book\nKL forward 7.029\nreverse 8.591"
    sides = [side.inner_text().split("\n") for side in shown.locator("ol").all()]
    assert sides[0] == [" has", "0.42", " is", "0.20", " offers", "0.08"]
    assert sides[1] == [" Book", "0.97", " has", "0.01"]
    widths = (
        shown.locator("ol").nth(0).locator("i").evaluate_all("all => all.map(i => i.style.width)")
    )
    assert widths == ["42%", "20%", "8%"]

    place.locator(".t").nth(6).click()
    assert shown.locator(".where span").first.inner_text() == "token 7"

    # Tokens are one stop of the tab key, and arrows go on.
    assert place.locator(".t[tabindex='0']").count() == 1

    place.locator(".t[tabindex='0']").focus()
    usual.page.keyboard.press("ArrowRight")
    assert place.locator(".t:focus").inner_text() == " Travel"
    usual.page.keyboard.press("Home")
    assert place.locator(".inspector .where span").first.inner_text() == "token 1"
    usual.page.keyboard.press("ArrowLeft")
    assert place.locator(".t:focus").inner_text() == "Sure"


def test_the_hotter_a_token_the_stronger_its_colour(usual: View) -> None:
    strengths = usual.page.locator(f"#case-{ROME.id} .t").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
        ".map(colour => colour.startsWith('rgb(') ? 1 : Number(colour.match(/[0-9.]+(?=\\)$)/)[0]))"
    )
    divergences = [token.forward_kl for token in ROME.tokens]
    ranked = [strength for _, strength in sorted(zip(divergences, strengths, strict=True))]
    assert ranked == sorted(ranked)
    assert len(set(ranked)) == 8


def test_prompt_and_commands_are_copied(usual: View) -> None:
    place = usual.page.locator(f"#case-{ROME.id}")
    for name, start in (
        ("Copy the prompt", ROME.text),
        ("Copy the command", f"pytest {SUITE}::{ROME.id} --model-1 demo:smollm2-135m"),
    ):
        button = place.get_by_role("button", name=name)
        button.click()
        button.filter(has_text="Copied").wait_for()
        assert usual.page.evaluate("navigator.clipboard.readText()").startswith(start)
        assert usual.text("#said") == "Copied"
    usual.page.get_by_role("button", name="Copy the accept command").click()
    usual.page.locator(f"#{BEHAVIOUR}").get_by_text("Copied").wait_for()
    assert usual.page.evaluate("navigator.clipboard.readText()") == (
        f"pytest-divergence accept {BEHAVIOUR} {SUITE}"
    )


def test_everything_that_can_be_used_has_a_name(usual: View) -> None:
    unnamed = usual.page.evaluate(
        "[...document.querySelectorAll("
        "'button, a[href], input, select, [role=img], [role=region]')]"
        ".filter(one => one.tabIndex >= 0 || one.getAttribute('role'))"
        ".filter(one => !(one.textContent.trim() || one.ariaLabel || one.labels?.length"
        " || one.getAttribute('aria-labelledby'))).map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_print_shows_all_and_no_controls(usual: View) -> None:
    usual.page.emulate_media(media="print")
    inside = usual.page.locator(".cases[aria-label=Cases] .inside")
    assert [one.is_visible() for one in inside.all()] == [True] * 5
    assert not usual.page.locator(".filters").is_visible()
    assert not usual.page.locator(".copy").first.is_visible()
    assert not usual.page.locator("nav").is_visible()


def test_in_a_notebook_a_link_stays_in_the_frame(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "notebook.html").write_text(report_frame(report()), "utf-8")
    with view(chromium, (tmp_path / "notebook.html").as_uri()) as shown:
        frame = shown.page.frame_locator("iframe")
        link = frame.locator(".note a[href^='#case-']").first
        place = frame.locator(f"[id='{(link.get_attribute('href') or '')[1:]}']")
        link.click()

        expect(place).to_be_in_viewport()
        expect(frame.locator("h1")).to_have_count(1)
        assert shown.complaints == []
