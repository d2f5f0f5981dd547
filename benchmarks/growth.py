"""How the time of scoring and of training grows, one size at a time.

    python benchmarks/growth.py [PICTURE.svg]

Random Llamas on the CPU. One size grows and the rest stays: prompts; tokens of a continuation (for
training, of a text); vocabulary; layers. A straight line through the times is fitted, and R2 says
how much of them it explains. The picture needs matplotlib.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from timing import seconds
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pytest_divergence import ModelPair, TrainingConfig, score_prompts
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt
from pytest_divergence.scoring.continuations import Continuations

NUM_TURNS = 3
WORDS = ("tell", "me", "how", "the", "sea", "looks", "when", "night", "comes", "home")


@dataclass(frozen=True)
class Sizes:
    """What is held while one of them grows."""

    prompts: int = 16
    tokens: int = 16
    vocabulary: int = 8_192
    layers: int = 4


GROWTH = {
    "prompts": (16, 32, 64, 128, 256),
    "tokens": (16, 32, 64, 128, 256),
    "vocabulary": (4_096, 16_384, 32_768, 65_536, 131_072),
    "layers": (2, 4, 8, 16, 24),
}


def main() -> None:
    found: dict[str, dict[str, list[float]]] = {}
    for name, values in GROWTH.items():
        sizes = [Sizes(**{name: value}) for value in values]
        found[name] = {
            "scoring": [median_seconds(scoring(one)) for one in sizes],
            "a training step": [median_seconds(training(one)) for one in sizes],
        }
        for work, times in found[name].items():
            line = fit(values, times)
            print(
                f"{work:16} {name:11} "
                + "  ".join(f"{x:,}: {y:.3f} s" for x, y in zip(values, times, strict=True))
                + f"   line {line.start:.3f} s + {line.slope:.2e} s each, R2 {line.r_squared:.4f}"
            )
    if len(sys.argv) > 1:
        draw(found, sys.argv[1])


def scoring(sizes: Sizes) -> Callable[[], object]:
    """Given continuations through both models: nothing in it depends on where texts end."""
    pair, prompts = pair_of(sizes), texts(sizes.prompts)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, sizes.vocabulary, (sizes.prompts, 2, sizes.tokens), generator=generator)
    stored = [Continuations(*((tuple(one),) for one in both)) for both in ids.tolist()]
    return lambda: score_prompts(pair, prompts, continuations=stored)


def training(sizes: Sizes) -> Callable[[], object]:
    """One step over `prompts` texts of `tokens` tokens."""
    pair, prompts = pair_of(sizes), texts(sizes.prompts, sizes.tokens)
    config = TrainingConfig(
        num_steps=1, batch_size=sizes.prompts, max_text_tokens=2 * sizes.tokens, validate_every=1
    )
    return lambda: train_soft_prompt(pair, config, prompts, prompts[:1])


def pair_of(sizes: Sizes) -> ModelPair:
    words = {word: index for index, word in enumerate(("[UNK]", "[EOS]", *WORDS))}
    core = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, unk_token="[UNK]", eos_token="[EOS]"
    )
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=sizes.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1_024,
        )
        models.append(LlamaForCausalLM(config))
    reference, candidate = models
    return ModelPair.from_models(reference, candidate, tokenizer)


def texts(count: int, length: int = 8) -> list[str]:
    """Distinct texts of `length` words."""
    return [
        " ".join(WORDS[(index // 10 ** (place % 8)) % 10] for place in range(length))
        for index in range(count)
    ]


def median_seconds(work: Callable[[], object]) -> float:
    work()
    return statistics.median(seconds(work) for _ in range(NUM_TURNS))


@dataclass(frozen=True)
class Line:
    """A straight line by least squares."""

    start: float
    slope: float
    r_squared: float


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> Line:
    slope, start = statistics.linear_regression(sizes, seconds)
    return Line(start, slope, statistics.correlation(sizes, seconds) ** 2)


def draw(found: dict[str, dict[str, list[float]]], path: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(3 * len(found), 3), sharey=False)
    for panel, (name, works) in zip(panels, found.items(), strict=True):
        sizes = GROWTH[name]
        for work, times in works.items():
            (points,) = panel.plot(sizes, times, "o", label=work)
            line = fit(sizes, times)
            panel.plot(
                sizes, [line.start + line.slope * x for x in sizes], color=points.get_color()
            )
        panel.set_xlabel(name)
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("seconds")
    panels[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
