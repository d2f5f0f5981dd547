"""What becomes of a family: it works, works by a slower path, or is refused for a reason.

Knows how a pair is measured and what it must equal, not which outcome is expected of whom.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from safetensors.torch import save_file
from transformers import PreTrainedConfig, PreTrainedModel

from pytest_divergence.core.errors import DivergenceError, ModelLoadError
from pytest_divergence.core.setting_names import spelled_by
from pytest_divergence.discovery.soft_prompts.training import train_soft_prompt
from pytest_divergence.discovery.soft_prompts.training_config import TrainingConfig
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.transformers_log import quiet_transformers
from pytest_divergence.scoring.scorer import PromptScore, score_greedily, score_prompts
from tests.tiny import tiny_tokenizer
from tests.zoo.overrides import DEVIATIONS
from tests.zoo.plain_passes import PADDING, is_causal, is_greedy, plain_values
from tests.zoo.shrunken import perturbed, shrunken_config, shrunken_model

WORKS, SLOWER, REFUSED = "works", "slower path", "refused"
PROMPTS = ("Hi", "How do I tie a knot?", "Name three rivers and say where each of them ends.")
"""Of unlike length: shorter than a window, and longer."""
MAX_DEVIATION = 1e-5
"""Nats per token; more only where plain passes with other padding part as well."""
MAX_PADDING_DEVIATION = 1e-3
MIN_KL = 0.01
"""Nats per token: a pair below it proves nothing."""
PERTURB = 0.2


@dataclass
class Outcome:
    """What became of a family, and what was measured on the way."""

    kind: str = WORKS
    reason: str = ""
    """Why it is refused, or slower."""
    architecture: str = ""
    """Its class; empty where transformers builds no model of it."""
    without_soft_prompts: str = ""
    """Why none can be trained, where that is so."""
    deviations: list[float] = field(default_factory=list)
    """From plain passes, nats per token, of each prompt."""
    paddings: list[float] = field(default_factory=list)
    """Of plain passes from plain passes with tokens behind the row."""
    divergences: list[float] = field(default_factory=list)
    texts: list[tuple[tuple[int, ...], bool]] = field(default_factory=list)
    """Each greedy text, and whether plain passes write it too."""

    @property
    def limit(self) -> float:
        """How far numbers may lie from those of plain passes."""
        return max(MAX_DEVIATION, min(MAX_PADDING_DEVIATION, 10 * max(self.paddings)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let libraries say nothing of models this small, and messages name settings by their fields.

    A test's session would have them name options.
    """
    with spelled_by(str), quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@_quiet()
def outcome_of(family: str) -> Outcome:
    """Measure a family, shrunk. Anything that is no `DivergenceError` is raised as it comes."""
    config = shrunken_config(family)
    try:
        reference = shrunken_model(config)
    except Exception:
        if not config.is_encoder_decoder:
            raise
        return _refusal(lambda: _load_from_folder(family, config))  # no class of transformers' fits
    candidate = perturbed(reference, PERTURB)
    if getattr(config, "is_decoder", False):
        _check_encoder_is_refused(family)
    said: list[str] = []
    try:
        pair = ModelPair.from_models(reference, candidate, tiny_tokenizer(), say=said.append)
    except ModelLoadError as error:
        return Outcome(REFUSED, str(error), type(reference).__name__)
    found = Outcome(SLOWER if said else WORKS, "".join(said[:1]), type(reference).__name__)
    models = (reference, candidate)
    with pair.reuse_prompts():
        score_greedily(pair, PROMPTS[:2], max_new_tokens=6)  # now two of three prompts are kept
        _compare(found, models, score_greedily(pair, PROMPTS[::-1], max_new_tokens=6))
        sampled = score_prompts(pair, PROMPTS[::-1], max_new_tokens=4, num_continuations=2)
        _compare(found, models, sampled, are_greedy=False)
    bare = pair.with_template(None)
    _compare(found, models, score_greedily(bare, PROMPTS, max_new_tokens=6))
    _train(found, pair)
    return found


def check(family: str, found: Outcome) -> None:
    """Assert that numbers, texts and gradients are right, and prove something."""
    if found.kind == REFUSED:
        assert found.reason
        assert found.architecture in found.reason
        return
    worst = max(found.deviations)
    if worst > MAX_DEVIATION:
        print(f"{family}: parts by {worst:.1e}, plain passes by {max(found.paddings):.1e}")
    limit = max(found.limit, DEVIATIONS.get(family, 0.0))
    assert worst <= limit, f"{worst:.1e} nats from plain passes, not {limit:.1e}"
    assert all(is_same for _, is_same in found.texts), "not the greedy text of plain passes"
    assert min(found.divergences) >= MIN_KL
    assert any(len(set(text)) > 1 for text, _ in found.texts), "one repeated token"


def _compare(
    found: Outcome,
    models: tuple[PreTrainedModel, PreTrainedModel],
    scores: Sequence[PromptScore],
    *,
    are_greedy: bool = True,
) -> None:
    """Add how far the scores lie from those of plain passes."""
    for score in scores:
        prompt = score.prompt_ids
        written = score.continuations.reference, score.continuations.candidate
        plain = plain_values(models, prompt, written)
        found.deviations.append(plain.deviation(score.measurement))
        found.divergences.append((plain.forward + plain.reverse) / 2)
        if are_greedy:
            padded = plain_values(models, prompt, written, padding=PADDING)
            found.paddings.append(plain.deviation(padded))
            found.texts += [
                (text, is_greedy(model, prompt, text))
                for model, (text,) in zip(models, written, strict=True)
            ]


def _train(found: Outcome, pair: ModelPair) -> None:
    config = TrainingConfig(num_virtual_tokens=2, num_steps=2, batch_size=2)
    try:
        history = train_soft_prompt(pair, config, PROMPTS[:2]).history
    except DivergenceError as error:
        found.without_soft_prompts = str(error)
        return
    assert all(math.isfinite(norm) and norm > 0 for norm in history.gradient_norms)


def _check_encoder_is_refused(family: str) -> None:
    """Assert that a model that reads what comes later too is not measured."""
    try:
        encoder = shrunken_model(shrunken_config(family, is_decoder=False))
    except AssertionError:  # transformers refuses it
        return
    if not is_causal(encoder):
        refusal = _refusal(lambda: ModelPair.from_models(encoder, encoder, tiny_tokenizer()))
        assert type(encoder).__name__ in refusal.reason


def _refusal(attempt: Callable[[], object]) -> Outcome:
    """Return the refusal that an attempt ends in; raise `AssertionError` where it succeeds."""
    try:
        attempt()
    except ModelLoadError as error:
        return Outcome(REFUSED, str(error))
    raise AssertionError("not refused")


def _load_from_folder(family: str, config: PreTrainedConfig) -> ModelPair:
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        config.save_pretrained(family)
        tiny_tokenizer().save_pretrained(family)
        save_file({"nothing": torch.zeros(1)}, f"{family}/model.safetensors")
        return load_model_pair(f"./{family}", f"./{family}")
