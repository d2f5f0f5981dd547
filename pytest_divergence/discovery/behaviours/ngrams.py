"""Phrases that recur in one model's texts and not in the other's, counted over distinct prompts.

Runs of words are counted by document frequency; those that the same prompts show are one phrase,
quoted at its full length. Knows what a word is. Does not test what it finds.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import normalize

from pytest_divergence.core.replies import LABELS

SIZES = range(1, 9)
"""Words in the runs that are counted; longer phrases are grown from them."""
MIN_PROMPTS = 3
MAX_REFERENCE_SHARE = 0.1
"""Of the prompts on which one model says it, the share on which the other may say it too."""
MAX_LENGTH = 40
"""Words of a quoted phrase."""
NUM_MOTIFS = 4
"""Wordings kept of a phrase."""
FULL_SIZE = 3
"""Words with which a run says enough by itself."""
KEPT_IN_QUOTE = 0.6
"""Share of a run's texts that must hold a longer one, for it to be quoted."""
CUT = ""
"""Stands for words that were cut out, and for the label of a reply's part."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
"""Thai, Lao, Burmese, Khmer, kana and Han."""
WORD = re.compile(rf"{'|'.join(LABELS)}|[{UNSPACED}]|[^\W{UNSPACED}]+")
SENTENCE_END = re.compile(r"[.!?]\s|\n")
Gram = tuple[str, ...]
Places = dict[int, tuple[int, int]]
"""First place of a run in each text that holds it, in characters."""


@dataclass(frozen=True, slots=True)  # thousands of texts are kept as words
class Word:
    """A word of a text, folded, and where it stands there."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Phrase:
    """A recurring phrase and the texts that hold it."""

    motifs: tuple[str, ...]
    """Normalised and short, since answers are cut; the first is the one that was counted."""
    quote: str
    """The phrase at full length, as most of the texts write it."""
    texts: tuple[int, ...]
    """Indices of the texts that hold the first motif."""
    starts_answers: bool
    """Whether most of these texts begin with the quote."""


@lru_cache(maxsize=8192)  # each answer is asked for many motifs
def words_of(text: str) -> tuple[Word, ...]:
    """Return the words of a text in order."""
    return tuple(Word(_folded(match.group()), *match.span()) for match in WORD.finditer(text))


def spaced_words(text: str) -> str:
    """Return the words of a text with a blank around each: one text has another's run if it is in.

    For texts too many to keep as `words_of` does.
    """
    if text.isascii():  # at a fifth of the time
        return f" {' '.join(WORD.findall(text.lower()))} "
    return f" {' '.join(map(_folded, WORD.findall(text)))} "


def ngram_of(text: str) -> Gram:
    """Return the words of a text without their places."""
    return tuple(word.text for word in words_of(text))


def find(motif: Gram, words: Sequence[Word]) -> tuple[int, int] | None:
    """Return a motif's first place in a text: its first character and the one after its last."""
    size = len(motif)
    for start in range(len(words) - size + 1):
        if stands_at(start, motif, words):
            return words[start].start, words[start + size - 1].end
    return None


def stands_at(start: int, ngram: Gram, words: Sequence[Word]) -> bool:
    """Whether a run begins at a text's word number `start`."""
    return len(words) - start >= len(ngram) and all(
        words[start + offset].text == text for offset, text in enumerate(ngram)
    )


def has_motif(motifs: Sequence[str], text: str) -> bool:
    """Whether a text holds one of the motifs, as whole words."""
    words = words_of(text)
    return any(find(ngram_of(motif), words) is not None for motif in motifs)


def recurring_phrases(
    prompts: Sequence[str],
    texts: Sequence[str],
    others: Sequence[str],
    *,
    is_telling: Callable[[Places], bool] = lambda places: True,
    weight: Callable[[Places], float] = len,
    without: Sequence[str] = (),
) -> list[Phrase]:
    """Return phrases of `texts` that `others` hardly hold, those of most weight first.

    Both have one text a prompt. A run of the prompt's words is an echo and does not count.
    `is_telling` may refuse a run by its places, and `weight` says how much a word of it counts
    there. Phrases `without` are cut out of the texts first.
    """
    cuts = [ngram_of(phrase) for phrase in without]
    words = [_cut(words_of(text), cuts) for text in texts]
    found = _texts_by_ngram(prompts, words)
    frequent = {ngram: where for ngram, where in found.items() if len(where) >= MIN_PROMPTS}
    others_found = _texts_by_ngram(prompts, [words_of(text) for text in others], among=frequent)
    eligible, weights = dict[Gram, set[int]](), dict[Gram, float]()
    for ngram, where in frequent.items():
        if len(others_found[ngram]) > MAX_REFERENCE_SHARE * len(where):
            continue
        if is_telling(places := _places(ngram, where, words)):
            # A few words say more than one, and hold in more of the answers than a sentence.
            eligible[ngram] = where
            weights[ngram] = weight(places) * min(len(ngram), FULL_SIZE)

    def rank(ngram: Gram) -> tuple[float, int, Gram]:
        return -weights[ngram], len(ngram), ngram

    ranked = sorted(eligible, key=rank)
    phrases: list[Phrase] = []
    taken: set[int] = set()
    for ngram in ranked:
        where = eligible[ngram]
        if 2 * len(where & taken) > len(where):  # another wording of a phrase found already
            continue
        quote, starts = _quoted(ngram, where, texts, words)
        # What most texts hold shares some of them with every other run.
        is_most = 2 * len(where) > len(texts)
        with_it = (run for run in ranked if 2 * len(eligible[run] & where) > len(eligible[run]))
        wordings = [] if is_most else _other_wordings(with_it, ngram_of(quote))
        phrases.append(
            Phrase(
                motifs=tuple(" ".join(words) for words in (ngram, *wordings)),
                quote=quote,
                texts=tuple(sorted(where)),
                starts_answers=starts,
            )
        )
        taken |= where
    return phrases


def in_full(phrase: Phrase, texts: Sequence[str]) -> Phrase:
    """Return the phrase by a wording of a few words, if the counted run is quoted with fewer.

    A single word is in more texts than the phrase that it belongs to, and says little about it.
    """
    wordings = [ngram for ngram in map(ngram_of, phrase.motifs) if len(ngram) >= FULL_SIZE]
    if not wordings or len(ngram_of(phrase.quote)) >= FULL_SIZE:
        return phrase
    return _worded(wordings, texts)


def beginning_of(motif: str, text: str) -> str:
    """Return what stands before a motif in its sentence, if that is a few words; else empty."""
    place = find(ngram_of(motif), words_of(text))
    before = "" if place is None else SENTENCE_END.split(text[: place[0]])[-1].strip()
    return before if len(ngram_of(before)) >= FULL_SIZE else ""


def quote_in(motif: str, texts: Sequence[str]) -> str:
    """Return a motif at full length, as most of the texts that hold it write it.

    Raises ValueError if none does.
    """
    return _worded([ngram_of(motif)], texts).quote


def _folded(word: str) -> str:
    return CUT if word in LABELS else normalize("NFC", word.casefold())


def _texts_by_ngram(
    prompts: Sequence[str],
    words: Sequence[Sequence[Word]],
    among: Collection[Gram] | None = None,
) -> defaultdict[Gram, set[int]]:
    found: defaultdict[Gram, set[int]] = defaultdict(set)
    for index, (prompt, row) in enumerate(zip(prompts, words, strict=True)):
        echo = _ngrams(ngram_of(prompt))
        for ngram in _ngrams([word.text for word in row]) - echo:
            if among is None or ngram in among:
                found[ngram].add(index)
    return found


def _ngrams(row: Sequence[str]) -> set[Gram]:
    ngrams = (
        tuple(row[start : start + size]) for size in SIZES for start in range(len(row) - size + 1)
    )
    return {ngram for ngram in ngrams if CUT not in ngram}


def _cut(row: Sequence[Word], phrases: Sequence[Gram]) -> list[Word]:
    """Replace each phrase by a mark that no run crosses."""
    kept, index = [], 0
    while index < len(row):
        size = next((len(phrase) for phrase in phrases if stands_at(index, phrase, row)), 0)
        place = row[index]
        kept.append(Word(CUT, place.start, place.start) if size else place)
        index += max(1, size)
    return kept


def _places(ngram: Gram, where: set[int], words: Sequence[Sequence[Word]]) -> Places:
    places = {index: find(ngram, words[index]) for index in sorted(where)}
    return {index: place for index, place in places.items() if place is not None}


def _worded(wordings: Sequence[Gram], texts: Sequence[str]) -> Phrase:
    """Return the phrase of these wordings, by the first of them."""
    words = [words_of(text) for text in texts]
    where = {index for index, row in enumerate(words) if find(wordings[0], row)}
    quote, starts = _quoted(wordings[0], where, texts, words)
    motifs = tuple(" ".join(wording) for wording in wordings)
    return Phrase(motifs, quote, tuple(sorted(where)), starts)


def _quoted(
    ngram: Gram, where: set[int], texts: Sequence[str], words: Sequence[Sequence[Word]]
) -> tuple[str, bool]:
    """Quote the phrase around a run at full length; tell whether most texts with it begin so."""
    longest, kept = _grown(ngram, where, words, max(1, KEPT_IN_QUOTE * len(where)))
    places = _places(longest, kept, words)
    quotes = Counter(_quote(texts[index], *place) for index, place in places.items())
    starts = sum(_starts_part(words[index], start) for index, (start, _) in places.items())
    return max(quotes, key=lambda quote: (quotes[quote], quote)), 2 * starts > len(places)


def _starts_part(words: Sequence[Word], start: int) -> bool:
    """Whether a text, or a part of it after its label, begins at a character."""
    before = [word for word in words if word.start < start]
    return not before or (before[-1].text == CUT and before[-1].end > before[-1].start)


def _grown(
    ngram: Gram, where: set[int], words: Sequence[Sequence[Word]], least: float
) -> tuple[Gram, set[int]]:
    """Return the longest run around an n-gram that enough of its texts hold, and these texts."""
    while len(ngram) < MAX_LENGTH:
        longer: defaultdict[Gram, set[int]] = defaultdict(set)
        for index in where:
            row = [word.text for word in words[index]]
            for start in range(len(row) - len(ngram) + 1):
                end = start + len(ngram)
                if tuple(row[start:end]) == ngram:
                    if end < len(row) and row[end] != CUT:
                        longer[(*ngram, row[end])].add(index)
                    if start > 0 and row[start - 1] != CUT:
                        longer[(row[start - 1], *ngram)].add(index)
        best = max(longer, key=lambda run: (len(longer[run]), run), default=None)
        if best is None or len(longer[best]) < least:
            break
        ngram, where = best, longer[best]
    return ngram, where


def _quote(text: str, start: int, end: int) -> str:
    """Quote the passage with the punctuation that ends it, and no part of a contraction."""
    if joined := re.search(r"\w+['’]$", text[:start]):
        start = joined.start()
    stop = end
    while stop < len(text) and not text[stop].isalnum() and not text[stop].isspace():
        stop += 1
    is_inside_a_word = stop < len(text) and not text[stop].isspace() and text[end] in "'’"
    return " ".join(text[start : end if is_inside_a_word else stop].split())


def _other_wordings(ranked: Iterable[Gram], quoted: Gram) -> list[Gram]:
    """Return the first runs that share no word with the quoted phrase, nor with each other."""
    chosen: list[Gram] = []
    for other in ranked:
        if len(chosen) == NUM_MOTIFS - 1:
            break
        if not any(set(other) & set(known) for known in (quoted, *chosen)):
            chosen.append(other)
    return chosen
