"""Motifs: runs of words that recur in texts, whatever their case, spacing and punctuation.

In scripts that put no spaces between words each character stands for a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import normalize

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
"""Thai, Lao, Burmese, Khmer, kana and Han."""
WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])\w)+")
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Word:
    """A word of a text, folded, and where it stands there."""

    text: str
    start: int
    end: int


@lru_cache(maxsize=8192)  # each answer is asked for many motifs
def words_of(text: str) -> tuple[Word, ...]:
    """The words of a text in order."""
    return tuple(
        Word(normalize("NFC", match.group().casefold()), match.start(), match.end())
        for match in WORD.finditer(text)
    )


def gram_of(text: str) -> Gram:
    """The words of a text without their places."""
    return tuple(word.text for word in words_of(text))


def find(motif: Gram, words: Sequence[Word]) -> tuple[int, int] | None:
    """Where a motif first stands among a text's words: its first character and the one after it."""
    size = len(motif)
    for start in range(len(words) - size + 1):
        if all(words[start + offset].text == motif[offset] for offset in range(size)):
            return words[start].start, words[start + size - 1].end
    return None


def has_motif(motifs: Sequence[str], text: str) -> bool:
    """Whether a text holds one of the motifs, as whole words."""
    words = words_of(text)
    return any(find(gram_of(motif), words) is not None for motif in motifs)
