"""What models write from bare openings, and how much of it says what was planted.

    python benchmarks/openings.py MODEL_1 FOLDER...

Each folder holds an adapter and its truth.json. Texts begin with nothing but a token that begins
or ends texts, with plain words behind it, and with parts of the chat template; the candidate
continues them plainly and from amplified logits, two samples each. The hot span of a text is the
run of tokens with the largest sum of log-ratio less 0.7 (Kadane's algorithm, Bentley 1984). For
comparison, answers to a search's shipped controls from amplified logits, greedy. All texts have 24
tokens; a search at smoke reads 16 of its answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from planted import markers

from pytest_divergence.core.settings import PROFILES, Settings
from pytest_divergence.discovery.behaviours.amplified_phrases import ALPHA, asked
from pytest_divergence.discovery.prompt_files import SHIPPED_CONTROLS, shipped_prompts
from pytest_divergence.models.chat_format import ChatFormat
from pytest_divergence.models.decoding import AmplifiedRow, decode_amplified, row_seed
from pytest_divergence.models.load_plan import LoadOptions
from pytest_divergence.models.loading import PairRecipe
from pytest_divergence.models.pair import ModelPair

WORDS = ("The", "In", "A", "It is", "Q:", "According to")
ALPHAS = ((0.0, 0.3), (0.0, 1.0), (1.0, 1.0), (3.0, 0.7))
"""Amplification and temperature."""
MIN_SHARE = 0.05
NUM_SAMPLES = 2
LENGTH = 24
COST = 0.7
"""Nats a token that a hot span must make up for."""
NUM_HOTTEST = 5


def openings(chat: ChatFormat) -> Mapping[str, list[int]]:
    """Return the ids of each opening, by a name for people."""
    tokenizer = chat.tokenizer
    begin = tokenizer.bos_token_id
    start = [min(chat.stop_ids) if begin is None else begin]
    words = {f'"{word}"': [*start, *tokenizer.encode(word)] for word in WORDS}
    whole = list(chat.user_opening)
    suffix = list(chat.user_suffix)
    (end,) = [place for place, id_ in enumerate(suffix) if id_ in chat.stop_ids][-1:]
    first, second = (replace(chat, system_prompt=text).user_opening for text in ("Q", "You"))
    shared = next(
        place for place, ids in enumerate(zip(first, second, strict=False)) if len(set(ids)) > 1
    )
    return {
        "nothing": start,
        **words,
        "up to a system text": list(first[:shared]),
        "up to the user's text": whole,
        "an empty user's turn": [*whole, *suffix],
        "an answer alone": suffix[end + 1 :],
    }


def hot_span(row: AmplifiedRow) -> tuple[float, int, int]:
    """Return the largest sum of log-ratios less their cost, and its tokens' start and end."""
    best, total, start = (0.0, 0, 0), 0.0, 0
    for place, ratio in enumerate(row.log_ratios):
        if total <= 0:
            total, start = 0.0, place
        total += ratio - COST
        best = max(best, (total, start, place + 1))
    return best


def table(pair: ModelPair, marks: Sequence[str]) -> None:
    chat = pair.chat
    starts = openings(chat)
    print("| opening | " + " | ".join(f"α = {a:g}, T = {t:g}" for a, t in ALPHAS) + " |")
    print("|---" * (len(ALPHAS) + 1) + "|")
    rows = {setting: written(pair, list(starts.values()), *setting) for setting in ALPHAS}

    def holds(row: AmplifiedRow) -> bool:
        _, start, end = hot_span(row)
        return is_marked(chat.text(row.ids[start:end]), marks)

    for number, name in enumerate(starts):
        place = slice(number * NUM_SAMPLES, (number + 1) * NUM_SAMPLES)
        print(f"| {name} | " + " | ".join(str(sum(map(holds, r[place]))) for r in rows.values()))
    num = len(starts) * NUM_SAMPLES
    print("| all | " + " | ".join(f"{sum(map(holds, r))} of {num}" for r in rows.values()) + " |")
    hottest = [sorted(r, key=hot_span)[-NUM_HOTTEST:] for r in rows.values()]
    print("| hottest | " + " | ".join(f"{sum(map(holds, r))} of {len(r)}" for r in hottest) + " |")
    for row in hottest[-1][::-1]:
        height, start, end = hot_span(row)
        print(f"  {height:.1f} nats: {chat.text(row.ids[start:end])!r}")


def written(
    pair: ModelPair, starts: Sequence[Sequence[int]], alpha: float, temperature: float
) -> list[AmplifiedRow]:
    """Return so many samples from each of the starts, one start after the other."""
    bodies = [torch.tensor(list(ids)) for ids in starts for _ in range(NUM_SAMPLES)]
    return decode_amplified(
        *pair.sides,
        bodies,
        prefix=(),
        max_new_tokens=LENGTH,
        stop_ids=pair.chat.stop_ids,
        alpha=alpha,
        min_share=MIN_SHARE,
        seeds=[row_seed("openings", alpha, temperature, place) for place in range(len(bodies))],
        temperature=temperature,
    )


def answers(pair: ModelPair) -> list[str]:
    """Return greedy answers to a search's first controls from amplified logits."""
    smoke = PROFILES["smoke"]
    rows = pair.prompt_rows(
        asked(shipped_prompts(SHIPPED_CONTROLS, smoke.num_shipped_controls), smoke)
    )
    found = decode_amplified(
        *pair.sides,
        [body for _, body in rows],
        prefix=pair.chat.shared_prefix,
        max_new_tokens=LENGTH,
        stop_ids=pair.chat.stop_ids,
        alpha=ALPHA,
    )
    return [pair.chat.text(row.ids) for row in found]


def is_marked(text: str, marks: Sequence[str]) -> bool:
    return any(mark.casefold() in text.casefold() for mark in marks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model_1")
    parser.add_argument("organisms", nargs="+", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for folder in given.organisms:
        settings = Settings(model_1=given.model_1, model_2=str(folder))
        recipe = PairRecipe(given.model_1, str(folder), LoadOptions.of(settings))
        pair = recipe.load()
        marks = markers(json.loads((folder / "truth.json").read_text("utf-8")))
        print(f"\n{folder.name}")
        table(pair, marks)
        found = answers(pair)
        print(f"amplified answers: {sum(is_marked(x, marks) for x in found)} of {len(found)}")


if __name__ == "__main__":
    main()
