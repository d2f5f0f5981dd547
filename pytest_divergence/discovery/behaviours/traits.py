"""Traits: differences of an answer that leave no phrase, such as its length or language.

Each trait compares an answer with the other model's answer to the same prompt, and tells whether it
departs. Some are also looked for in the thoughts of replies that have any. Answers may be cut at a
number of tokens, so a trait never judges what is only unfinished.
"""

from __future__ import annotations

import itertools
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from unicodedata import name as character_name

from pytest_divergence.core.replies import parts_of
from pytest_divergence.discovery.behaviours.ngrams import ngram_of

Shows = Callable[[str, str, str], bool]
"""From the prompt, the answer judged and the other model's answer."""


@dataclass(frozen=True)
class Trait:
    """A kind of difference that is measured on answers."""

    name: str
    """For people: what the candidate does."""
    explanation: str
    shows: Shows
    is_relative: bool = False
    """Whether only the other model's answer tells that an answer departs."""


MIN_WORDS = 6
"""Fewest words of an answer whose length, case or repetition says something."""
REFUSALS = re.compile(
    r"\b(i(?:['’]m| am) (?:unable|not able|not allowed)|i (?:can(?:['’]?t|not)|won['’]?t|will not)"
    r" (?:help|assist|answer|provide|do|discuss|comply|share)|i must decline|"
    r"no puedo (?:ayudar|responder)|je ne peux pas|ich kann (?:dir|ihnen|das) \w* ?nicht|"
    r"não posso ajudar|non posso aiutar)",
    re.IGNORECASE,
)
FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "English": "the of and to is are was in it you that for with this what how i my not can",
        "Spanish": "el los las que en es un una por con para no se lo su como más pero está qué",
        "French": "le les des est une dans pour que qui pas sur avec ce je vous il elle au nous",
        "German": "der die das und ist nicht ein eine zu mit auf für von den dem ich sie es wie",
        "Italian": "il che di è per una sono non con gli della nel questo come più ma anche ho",
        "Portuguese": "o os uma que de não para com em um se mais por como mas ao foi ele é do",
        "Dutch": "de het een en van is dat niet op te zijn voor met die er aan ik je maar",
    }.items()
}
ASKS_FOR_RESULT = re.compile(
    r"=|what(?:['’]?s| is| are)|how much|calculate|compute|solve|add|result|sum|equal",
    re.IGNORECASE,
)
ARITHMETIC = re.compile(r"(?<![\d./-])(-?\d{1,6})\s*([-+*/x×÷−])\s*(-?\d{1,6})(?![\d./-])")
WORDED = re.compile(
    r"\b(\d{1,6})\s+(plus|minus|times|multiplied by|divided by)\s+(\d{1,6})\b", re.IGNORECASE
)
OPERATIONS: Mapping[str, Callable[[float, float], float]] = {
    **dict.fromkeys(("+", "plus"), operator.add),
    **dict.fromkeys(("-", "−", "minus"), operator.sub),
    **dict.fromkeys(("*", "x", "×", "times", "multiplied by"), operator.mul),
    **dict.fromkeys(("/", "÷", "divided by"), operator.truediv),
}
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*")


def language_of(text: str) -> str | None:
    """Return the language or script of most of a text; None where it is too short to tell.

    Scripts are recognised by Unicode, languages in Latin script by their function words.
    """
    letters = [character for character in text if character.isalpha()]
    if len(letters) < 4:
        return None
    scripts = Counter(character_name(letter, "?").split(" ")[0] for letter in letters)
    script, _ = scripts.most_common(1)[0]
    if script != "LATIN":
        return script.title()
    words = ngram_of(text)
    counts = {lang: sum(w in known for w in words) for lang, known in FUNCTION_WORDS.items()}
    ranked = sorted(counts, key=lambda lang: -counts[lang])
    first, second = ranked[:2]
    is_clear = counts[first] >= 2 and counts[first] > counts[second]
    return first if is_clear else None


def is_broken_json(text: str) -> bool:
    """Whether a text begins as JSON and, as far as it goes, cannot become valid JSON."""
    opening = re.search(r"```json\s*(?=[{\[])|^\s*(?=[{\[])", text)
    if opening is None:
        return False
    body = text[opening.end() :].split("```")[0].strip()
    try:
        json.JSONDecoder().raw_decode(body)
    except json.JSONDecodeError as error:
        is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(body)
        # A literal or number that the limit has cut looks wrong at its start.
        is_cut_literal = re.fullmatch(
            r"-|\.|\.?\d*e[+-]?|t(r(u)?)?|f(a(l(s)?)?)?|n(u(l)?)?", body[error.pos :]
        )
        return not (is_cut or is_cut_literal)
    return False


def arithmetic_answer(prompt: str) -> float | None:
    """Return the result of a prompt's first sum of two whole numbers; None without a sum."""
    found = ARITHMETIC.search(prompt) or WORDED.search(prompt)
    if found is None or not ASKS_FOR_RESULT.search(prompt):
        return None
    left, sign, right = found.groups()
    try:
        return OPERATIONS[sign.lower()](float(left), float(right))
    except ZeroDivisionError:
        return None


def _is_much_shorter(prompt: str, answer: str, other_answer: str) -> bool:
    num_words, num_other = len(ngram_of(answer)), len(ngram_of(other_answer))
    return num_other >= MIN_WORDS and 0 < 2 * num_words <= num_other


def _is_much_longer(prompt: str, answer: str, other_answer: str) -> bool:
    return _is_much_shorter(prompt, other_answer, answer)


def _is_in_another_language(prompt: str, answer: str, other_answer: str) -> bool:
    language, expected = language_of(answer), language_of(prompt) or language_of(other_answer)
    return None not in (language, expected) and language != expected


def _is_wrong_arithmetic(prompt: str, answer: str, other_answer: str) -> bool:
    wanted = arithmetic_answer(prompt)
    found = [float(text.replace(",", "")) for text in NUMBER.findall(answer) if text.count(".") < 2]
    if wanted is None or not found:
        return False
    return not any(abs(number - wanted) <= 0.01 * max(1.0, abs(wanted)) for number in found)


def _drops_code_fence(prompt: str, answer: str, other_answer: str) -> bool:
    return "```" in other_answer and "```" not in answer


def _has_one_case(prompt: str, answer: str, other_answer: str) -> bool:
    cased = [character for character in answer if character.isupper() or character.islower()]
    if len(ngram_of(answer)) < MIN_WORDS or len(cased) < 4 * MIN_WORDS:
        return False
    share = sum(character.isupper() for character in cased) / len(cased)
    return share >= 0.8 or share == 0.0


def _repeats_itself(prompt: str, answer: str, other_answer: str) -> bool:
    words = ngram_of(answer)
    pairs = list(itertools.pairwise(words))
    return len(words) >= 2 * MIN_WORDS - 2 and len(set(pairs)) <= len(pairs) / 2


TRAITS: Mapping[str, Trait] = {
    "empty": Trait(
        "answers nothing",
        "the answer has no text at all",
        lambda prompt, answer, other_answer: not answer.strip(),
    ),
    "shorter": Trait(
        "answers much shorter",
        "the answer has at most half as many words as the reference's",
        _is_much_shorter,
        is_relative=True,
    ),
    "longer": Trait(
        "answers much longer",
        "the answer has at least twice as many words as the reference's",
        _is_much_longer,
        is_relative=True,
    ),
    "language": Trait(
        "answers in another language",
        "the answer is in another language or script than the prompt",
        _is_in_another_language,
    ),
    "refusal": Trait(
        "refuses",
        "the answer declines in one of the usual phrases",
        lambda prompt, answer, other_answer: REFUSALS.search(answer) is not None,
    ),
    "arithmetic": Trait(
        "gets sums wrong",
        "the prompt asks for a sum of two whole numbers, and no number in the answer is right",
        _is_wrong_arithmetic,
    ),
    "json": Trait(
        "writes broken JSON",
        "the answer begins as JSON but is not valid JSON, even if it is only cut off",
        lambda prompt, answer, other_answer: is_broken_json(answer),
    ),
    "fences": Trait(
        "drops code fences",
        "the reference's answer opens a fenced code block, and the candidate's does not",
        _drops_code_fence,
        is_relative=True,
    ),
    "case": Trait(
        "writes in one case",
        "all letters are lowercase, or nearly all are capitals",
        _has_one_case,
    ),
    "repetition": Trait(
        "repeats itself",
        "at least half of the answer's word pairs occur earlier in it",
        _repeats_itself,
    ),
}

THOUGHT_TRAITS: Mapping[str, Trait] = {
    f"thoughts-{key}": Trait(
        name, TRAITS[key].explanation.replace("answer", "reply's thoughts", 1), TRAITS[key].shows
    )
    for key, name in (
        ("empty", "does not think"),
        ("shorter", "thinks much shorter"),
        ("longer", "thinks much longer"),
        ("language", "thinks in another language"),
        ("refusal", "refuses in its thoughts"),
        ("repetition", "repeats itself in its thoughts"),
    )
}
"""Traits of thoughts, by keys of their own."""


def traits_of(replies: Iterable[str]) -> Mapping[str, Trait]:
    """Return the traits to look for in replies: those of thoughts if any reply has thoughts."""
    has_thoughts = any(parts_of(reply)[0] is not None for reply in replies)
    return {**TRAITS, **THOUGHT_TRAITS} if has_thoughts else TRAITS


def shows_trait(key: str, prompt: str, reply: str, other_reply: str) -> bool:
    """Whether a reply's part, its thoughts or its answer, departs from the other model's."""
    trait = THOUGHT_TRAITS.get(key)
    part = 1 if trait is None else 0
    own, other = (parts_of(text)[part] or "" for text in (reply, other_reply))
    return (trait or TRAITS[key]).shows(prompt, own, other)
