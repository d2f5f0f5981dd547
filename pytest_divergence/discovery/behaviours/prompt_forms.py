"""Forms of prompts, told from their text alone: a question, a sum, code, capitals."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pytest_divergence.discovery.behaviours.ngrams import ngram_of
from pytest_divergence.discovery.behaviours.traits import ARITHMETIC, WORDED

SENTENCE = re.compile(r"[^.!?？؟。]+[.!?？؟。]*")
ASKING = frozenset({"how", "what", "when", "where", "which", "who", "whose", "why"})
AUXILIARIES = frozenset([
    "am", "are", "can", "could", "did", "do", "does", "had", "has", "have", "is", "may",
    "might", "must", "shall", "should", "was", "were", "will", "would", "aren", "couldn",
    "didn", "doesn", "hadn", "hasn", "haven", "isn", "shouldn", "wasn", "weren", "won",
    "wouldn",
])  # fmt: skip
FRACTION = re.compile(r"\d+/\d+")
CODE = re.compile(
    r"```|\b(bash|code|css|html|java|javascript|python|regex|script|sql)\b", re.IGNORECASE
)


def _asks(prompt: str) -> bool:
    return re.search("[?？؟]", prompt) is not None or not ASKING.isdisjoint(ngram_of(prompt)[:1])


def _asks_yes_or_no(prompt: str) -> bool:
    """Whether its last sentence is an English question that begins with a verb, and no choice."""
    sentences = [found.group() for found in SENTENCE.finditer(prompt) if found.group().strip()]
    words = ngram_of(sentences[-1]) if sentences else ()
    is_question = bool(words) and sentences[-1].rstrip().endswith("?")
    return is_question and words[0] in AUXILIARIES and "or" not in words


def _has_sum(prompt: str) -> bool:
    """Whether it holds a sum; 7/8 alone is as often a date or a share."""
    found = (match.group() for match in ARITHMETIC.finditer(prompt))
    return not all(map(FRACTION.fullmatch, found)) or WORDED.search(prompt) is not None


FORMS: Mapping[str, Callable[[str], bool]] = {
    "that ask a question": _asks,
    "that ask a yes-or-no question": _asks_yes_or_no,
    "that hold a sum": _has_sum,
    "that hold a number": lambda prompt: re.search(r"\d", prompt) is not None,
    "that ask for code": lambda prompt: CODE.search(prompt) is not None,
    "that ask for JSON": lambda prompt: re.search(r"\bjson\b", prompt, re.IGNORECASE) is not None,
    "in capitals": str.isupper,
    "in lower case": str.islower,
    "of several lines": lambda prompt: "\n" in prompt.strip(),
}
"""Forms of prompts, by their words for people."""
SPECIAL_CASES = {
    "that ask a question": "that ask a yes-or-no question",
    "that hold a number": "that hold a sum",
}
"""Forms of which all prompts have another one too, by that other one."""
