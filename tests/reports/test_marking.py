from __future__ import annotations

import pytest

from pytest_divergence.reports.html import marked


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
