"""Gradient ascent on the divergence: it climbs, changes no model, and goes on where it stopped."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from pytest_divergence.core.errors import NoGradientError, SettingsError, StoreError
from pytest_divergence.discovery.generation import generate_prompts
from pytest_divergence.discovery.soft_prompts.objectives import (
    SoftPromptObjective,
    initial_parameter,
)
from pytest_divergence.discovery.soft_prompts.training import (
    TrainingResult,
    train_soft_prompt,
    training_rows,
)
from pytest_divergence.discovery.soft_prompts.training_config import Kind, Position, TrainingConfig
from pytest_divergence.discovery.soft_prompts.virtual_tokens import (
    SoftPrompt,
    artefact_folder,
    insert,
    load_soft_prompts,
)
from pytest_divergence.models.decoding import decode_sampled, row_seed
from pytest_divergence.models.forward import fast_matmul
from pytest_divergence.models.pair import ModelPair
from tests.models_in_memory import local, pair_of_two_widths, tiny_config, tiny_model, tiny_pair
from tests.tiny import CHATML, tiny_tokenizer

TEXTS = ["How do I tie a knot?", "Write a poem.", "2 + 2 =", "Name a river.", "Hi", "Why?"]
CONFIG = TrainingConfig(
    num_virtual_tokens=3,
    num_steps=8,
    batch_size=3,
    learning_rate=0.1,
    validate_every=3,
    checkpoint_every=2,
)
KINDS: list[Kind] = ["free", "simplex"]
PRICED = replace(CONFIG, kind="simplex", entropy_weight=0.5)


@pytest.fixture(scope="module")
def pair() -> ModelPair:
    return tiny_pair()


@pytest.fixture(scope="module")
def trained(pair: ModelPair) -> TrainingResult:
    return train_soft_prompt(pair, CONFIG, TEXTS[:4], TEXTS[4:])


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("simplex", "llama"), ("free", "gpt_neox"), ("simplex", "gpt2"), ("free", "gemma")],
)
def test_training_raises_the_divergence(kind: Kind, architecture: str) -> None:
    config = replace(CONFIG, kind=kind, num_steps=25, validate_every=25, learning_rate=None)
    if kind == "free":
        config = replace(config, learning_rate=0.1)

    history = train_soft_prompt(tiny_pair(architecture), config, TEXTS).history

    first, last = history.validation
    assert last > 1.2 * first > 0
    assert all(norm > 0 and math.isfinite(norm) for norm in history.gradient_norms)


def test_history_has_a_loss_a_step_and_a_validation_curve(trained: TrainingResult) -> None:
    history = trained.history

    assert len(history.loss) == CONFIG.num_steps
    assert len(history.validation) == 3 + 1  # before steps 1, 4 and 7, and of the finished one
    assert all(loss < 0 for loss in history.loss)
    assert trained.d_soft == history.validation[-1]
    assert not trained.soft_prompt.prompt_embeds.requires_grad


def test_the_step_that_has_grown_enough_is_the_last_one(
    pair: ModelPair, trained: TrainingResult
) -> None:
    """It ends as a training of that many steps does, bit for bit."""
    values = [-loss for loss in trained.history.loss]
    growth = max(values[1:4]) - values[0]  # reached by the fourth step at the latest
    last = next(step for step, value in enumerate(values, 1) if value - values[0] >= growth)

    stopped = train_soft_prompt(
        pair, replace(CONFIG, stop_after_growth=growth), TEXTS[:4], TEXTS[4:]
    )

    short = train_soft_prompt(pair, replace(CONFIG, num_steps=last), TEXTS[:4], TEXTS[4:])
    assert 1 < last <= 4
    assert_bit_identical(stopped, short)


def test_a_training_is_reproducible_and_growth_that_is_not_reached_changes_nothing(
    pair: ModelPair, trained: TrainingResult
) -> None:
    config = replace(CONFIG, stop_after_growth=1e3)

    assert_bit_identical(train_soft_prompt(pair, config, TEXTS[:4], TEXTS[4:]), trained)


def test_a_training_that_has_grown_enough_takes_no_step_when_it_goes_on(
    pair: ModelPair, tmp_path: Path
) -> None:
    config = replace(CONFIG, stop_after_growth=1e-9, checkpoint_every=1)
    checkpoint, steps = tmp_path / "training.checkpoint.safetensors", []

    def train() -> TrainingResult:
        return train_soft_prompt(
            pair,
            config,
            TEXTS,
            checkpoint=checkpoint,
            on_step=lambda done, total: steps.append(done),
        )

    first = train()
    num_steps = len(steps)
    assert_bit_identical(train(), first)
    assert num_steps == len(steps) < 8


def assert_bit_identical(left: TrainingResult, right: TrainingResult) -> None:
    assert torch.equal(left.soft_prompt.prompt_embeds, right.soft_prompt.prompt_embeds)
    assert asdict(left.history) == asdict(right.history)


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_stay_as_they_were(kind: Kind) -> None:
    pair = tiny_pair()
    before = [{k: v.clone() for k, v in local(s).model.state_dict().items()} for s in pair.sides]

    train_soft_prompt(pair, replace(CONFIG, kind=kind), TEXTS)

    for side, weights in zip(pair.sides, before, strict=True):
        assert all(torch.equal(v, weights[k]) for k, v in local(side).model.state_dict().items())
        assert all(weight.grad is None for weight in local(side).model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_embeds_its_own_tokens_alone(kind: Kind) -> None:
    """A copy of all embeddings takes gigabytes where a vocabulary is large."""
    pair = tiny_pair()
    table: Any = local(pair.reference).model.get_input_embeddings()
    embedded: list[torch.Tensor] = []
    hook = table.register_forward_hook(lambda _, given, __: embedded.append(*given))
    start = initial_parameter(pair, replace(CONFIG, kind=kind))
    hook.remove()

    chosen = embedded[-1]
    assert chosen.shape == (CONFIG.num_virtual_tokens,)
    if kind == "free":
        assert torch.equal(start, table.weight[chosen])
    else:
        assert torch.equal(start.argmax(-1), chosen)


def test_the_gradient_is_that_of_finite_differences() -> None:
    """The soft prompt is where it should be, for both models at once."""
    pair = tiny_pair()
    for side in pair.sides:
        any_model: Any = local(side).model
        any_model.double()
    config = replace(CONFIG, num_steps=1, learning_rate=1e-12, batch_size=6)
    result = train_soft_prompt(pair, config, TEXTS)
    start = result.soft_prompt.prompt_embeds.double().requires_grad_(True)
    divergence(pair, start).backward()  # type: ignore[no-untyped-call]
    assert start.grad is not None

    for place in [(0, 0), (1, 7), (2, 31)]:
        step = torch.zeros_like(start)
        step[place] = 1e-2  # the models' norms compute in float32
        with torch.no_grad():
            up, down = divergence(pair, start + step), divergence(pair, start - step)
        assert float(start.grad[place]) == pytest.approx(float(up - down) / 2e-2, rel=1e-2)
    assert result.history.loss[0] == pytest.approx(
        -float(divergence(pair, start.detach())), rel=1e-4
    )
    assert result.history.gradient_norms[0] == pytest.approx(float(start.grad.norm()), rel=1e-3)


def divergence(
    pair: ModelPair, prompt_embeds: torch.Tensor, position: str = "before"
) -> torch.Tensor:
    """Symmetric KL of the first response token, written without the package's own parts."""
    total = torch.zeros((), dtype=torch.float64)
    for text in TEXTS:
        ids = torch.tensor(pair.chat.prompt_ids(text))
        num_text = len(pair.chat.tokenizer.encode(text, add_special_tokens=False))
        num_before = {"before": 0, "inside": num_text // 2, "after": num_text}[position]
        opening = len(pair.chat.user_opening) + num_before
        log_probs = []
        for side in pair.sides:
            table = local(side).model.get_input_embeddings().weight
            assert isinstance(table, torch.Tensor)
            soft = prompt_embeds.to(table.dtype)
            rows = torch.cat([table[ids[:opening]], soft, table[ids[opening:]]])[None]
            log_probs.append(local(side).model(inputs_embeds=rows).logits[0, -1].log_softmax(-1))
        log_p, log_q = log_probs
        total = total + ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum() / 2
    return total / len(TEXTS)


@pytest.mark.parametrize(
    ("position", "num_virtual_tokens"), [("before", 1), ("inside", 3), ("after", 70)]
)
def test_a_soft_prompt_of_any_length_stands_where_the_config_says(
    position: Position, num_virtual_tokens: int
) -> None:
    pair = tiny_pair()
    config = replace(
        CONFIG,
        num_virtual_tokens=num_virtual_tokens,
        position=position,
        num_steps=1,
        batch_size=6,
        learning_rate=1e-12,
    )

    result = train_soft_prompt(pair, config, TEXTS)

    embeds = result.soft_prompt.prompt_embeds
    assert embeds.shape == (num_virtual_tokens, 32)
    expected = float(divergence(pair, embeds, position))
    assert result.history.loss == [pytest.approx(-expected, rel=1e-4)]
    assert result.soft_prompt.settings["position"] == position


def test_an_epoch_sees_each_text_once(pair: ModelPair) -> None:
    """Six texts in batches of four: the steps' losses, weighted, are that of all texts."""
    config = replace(CONFIG, num_steps=None, num_epochs=2, batch_size=4, learning_rate=1e-12)

    history = train_soft_prompt(pair, config, TEXTS).history

    assert len(history.loss) == 2 * math.ceil(6 / 4)
    for epoch in (history.loss[:2], history.loss[2:]):
        weighted = (4 * epoch[0] + 2 * epoch[1]) / 6
        assert weighted == pytest.approx(-history.validation[0], rel=1e-5)
    assert history.loss[:2] != history.loss[2:]  # in another order


def test_without_a_length_a_training_has_sixty_steps() -> None:
    assert TrainingConfig().total_steps(7) == 60
    assert TrainingConfig(num_epochs=10, batch_size=4).total_steps(9) == 30
    assert TrainingConfig(num_steps=5, batch_size=4).total_steps(9) == 5


class Deaf(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    """Cuts its inputs off, as some quantised models do."""

    def forward(self, *args: Any, inputs_embeds: torch.Tensor | None = None, **rest: Any) -> Any:
        if inputs_embeds is not None:
            inputs_embeds = inputs_embeds.detach()
        return super().forward(*args, inputs_embeds=inputs_embeds, **rest)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_is_an_error_at_the_first_step(kind: Kind) -> None:
    config: Any = tiny_config(LlamaConfig)
    pair = ModelPair.from_models(Deaf(config), Deaf(config), tiny_tokenizer())

    with pytest.raises(
        NoGradientError, match=r"^at step 1 the soft prompt's gradient has norm 0\.0"
    ):
        train_soft_prompt(pair, replace(CONFIG, kind=kind), TEXTS)


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    pair = tiny_pair()
    with torch.no_grad():
        any_model: Any = local(pair.candidate).model
        any_model.lm_head.weight[5] = torch.nan

    with pytest.raises(NoGradientError, match="at step 1 the soft prompt's gradient has norm nan"):
        train_soft_prompt(pair, CONFIG, TEXTS)


class Interrupt:
    """Raises when the given step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, done: int, total: int) -> None:
        if done == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("config", "step"),
    [
        (CONFIG, 1),
        (CONFIG, 8),
        (PRICED, 5),
        (replace(CONFIG, num_steps=None, num_epochs=4, position="inside"), 3),
    ],
    ids=["before a checkpoint", "finished", "priced", "within an epoch"],
)
def test_an_interrupted_training_ends_like_an_unbroken_one(
    pair: ModelPair, tmp_path: Path, config: TrainingConfig, step: int
) -> None:
    before = pair.tokens_forwarded
    unbroken = train_soft_prompt(pair, config, TEXTS[:4], TEXTS[4:])
    spent = pair.tokens_forwarded - before
    checkpoint = tmp_path / "training.checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_soft_prompt(
            pair, config, TEXTS[:4], TEXTS[4:], checkpoint=checkpoint, on_step=Interrupt(step)
        )

    before, steps = pair.tokens_forwarded, []
    resumed = train_soft_prompt(
        pair,
        config,
        TEXTS[:4],
        TEXTS[4:],
        checkpoint=checkpoint,
        on_step=lambda done, total: steps.append(done),
    )

    assert_bit_identical(resumed, unbroken)
    assert steps == list(range(step // 2 * 2 + 1, 9))  # at most two steps are done again
    assert pair.tokens_forwarded - before == spent  # so that a budget ends at the same place


@pytest.mark.parametrize("change", ["config", "texts", "validation", "models", "template"])
def test_a_checkpoint_of_another_training_is_left_alone(
    pair: ModelPair, tmp_path: Path, change: str
) -> None:
    checkpoint = tmp_path / "training.checkpoint.safetensors"
    train_soft_prompt(pair, CONFIG, TEXTS[:4], TEXTS[4:], checkpoint=checkpoint)
    config, texts, validation, other = CONFIG, TEXTS[:4], TEXTS[4:], pair
    if change == "config":
        config = replace(CONFIG, learning_rate=0.2)
    elif change == "texts":
        texts = TEXTS[:3]
    elif change == "validation":
        validation = TEXTS[:2]
    elif change == "models":
        other = tiny_pair(perturb=0.5)
    else:
        other = pair.with_template("{% for m in messages %}Q {{ m.content }} A{% endfor %}")

    steps: list[int] = []
    train_soft_prompt(
        other,
        config,
        texts,
        validation,
        checkpoint=checkpoint,
        on_step=lambda done, total: steps.append(done),
    )

    assert steps == list(range(1, 9))


@pytest.mark.parametrize("content", [b"", b"\xff" * 100])
def test_a_damaged_checkpoint_is_left_alone(
    pair: ModelPair, tmp_path: Path, trained: TrainingResult, content: bytes
) -> None:
    checkpoint = tmp_path / "training.checkpoint.safetensors"
    checkpoint.write_bytes(content)

    again = train_soft_prompt(pair, CONFIG, TEXTS[:4], TEXTS[4:], checkpoint=checkpoint)

    assert_bit_identical(again, trained)


def test_the_entropy_is_the_mean_of_the_mixtures_in_nats(pair: ModelPair) -> None:
    def entropy_of(mixtures: torch.Tensor) -> float:
        return float(SoftPromptObjective(pair, PRICED, mixtures).entropy())

    vocab_size = pair.reference.vocab_size
    mixtures = torch.zeros(2, vocab_size)
    mixtures[0, 5] = mixtures[1, 20] = mixtures[1, 21] = 1e4  # one token, and two alike

    assert PRICED.entropy_price(0, 1) == 0.0, "one step is the first one"
    assert entropy_of(mixtures) == pytest.approx(math.log(2) / 2)
    assert entropy_of(torch.full((3, vocab_size), 7.0)) == pytest.approx(math.log(vocab_size))


def test_a_simplex_starts_at_mixtures_of_half_a_token(pair: ModelPair) -> None:
    """One token has weight V / (2 V - 1), each other one 1 / (2 V - 1)."""
    size = pair.reference.vocab_size
    weights = [size / (2 * size - 1)] + [1 / (2 * size - 1)] * (size - 1)

    history = train_soft_prompt(pair, replace(CONFIG, kind="simplex"), TEXTS).history

    assert history.entropies[0] == pytest.approx(-sum(one * math.log(one) for one in weights))
    assert len(history.entropies) == len(history.loss)


def test_a_free_soft_prompt_has_no_entropy(pair: ModelPair, trained: TrainingResult) -> None:
    assert trained.history.entropies == []
    with pytest.raises(SettingsError, match=r"^kind='free' has no mixtures, so no entropy; use "):
        SoftPromptObjective(pair, CONFIG, trained.soft_prompt.prompt_embeds).entropy()


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_step_minimises_the_loss_and_the_price_of_entropy(pair: ModelPair, weight: float) -> None:
    """Bit for bit a loop written here; without a weight no entropy stands in it."""
    config = replace(PRICED, entropy_weight=weight)
    mixtures = initial_parameter(pair, config).requires_grad_(True)
    objective = SoftPromptObjective(pair, config, mixtures)
    optimiser = torch.optim.Adam([mixtures], lr=0.1)
    rows, norms = training_rows(pair, TEXTS, 32), []
    for step in range(8):
        generator = torch.Generator().manual_seed(row_seed(0, "batch", step))
        chosen = torch.randperm(6, generator=generator)[:3].tolist()
        optimiser.zero_grad()
        loss = -objective.values([rows[index] for index in chosen]).mean()
        if weight:
            probabilities = mixtures.softmax(-1)
            entropy = torch.special.entr(probabilities).sum(-1).mean()
            loss = loss + weight * step / 7 * entropy
        with fast_matmul():
            loss.backward()  # type: ignore[no-untyped-call]
        assert mixtures.grad is not None
        norms.append(float(mixtures.grad.norm()))
        optimiser.step()

    result = train_soft_prompt(pair, config, TEXTS)

    expected = (mixtures.softmax(-1) @ local(pair.reference).embedding_table).detach()
    if weight:  # two ways to write an entropy round differently
        assert result.history.gradient_norms == pytest.approx(norms, rel=1e-3)
        assert torch.allclose(result.soft_prompt.prompt_embeds, expected, atol=1e-4)
    else:
        assert result.history.gradient_norms == norms
        assert torch.equal(result.soft_prompt.prompt_embeds, expected)


def test_a_model_that_scales_its_embeddings_starts_at_real_ones() -> None:
    config = tiny_config(Gemma3TextConfig)
    models = tiny_model(config=config), tiny_model(config=config, perturb=0.3)
    pair = ModelPair.from_models(*models, tiny_tokenizer())

    start = train_soft_prompt(
        pair, replace(CONFIG, num_steps=1, learning_rate=1e-12), TEXTS
    ).soft_prompt.prompt_embeds

    real = local(pair.reference).embed(torch.arange(pair.reference.vocab_size))
    distances = (start[:, None] - real).norm(dim=-1)
    assert distances.min(dim=1).values.max() < 1e-5


def test_training_texts_must_be_short_user_turns(pair: ModelPair) -> None:
    with pytest.raises(SettingsError) as caught:
        train_soft_prompt(pair, replace(CONFIG, max_text_tokens=3), TEXTS)
    assert str(caught.value) == (
        "none of 6 texts can be trained on: each must be a single user turn of at most "
        "max_text_tokens=3 tokens"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps=0 must be at least 1"),
        (
            {"num_epochs": 2, "num_steps": 9},
            "num_steps=9 and num_epochs=2 both set the length of the training; give only one",
        ),
        ({"batch_size": 2.5}, "batch_size=2.5 must be a whole number"),
        ({"num_steps": True}, "num_steps=True must be a whole number"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1' must be a number"),
        ({"gradient_checkpointing": "no"}, "gradient_checkpointing='no' must be True or False"),
        (
            {"position": "after", "objective": "likelihood"},
            "objective='likelihood' fits the text after the soft prompt, and with "
            "position='after' there is none; use position='before' or 'inside'",
        ),
        ({"kind": "round"}, "kind='round' must be one of free, simplex"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be positive and finite"),
        ({"stop_after_growth": math.nan}, "stop_after_growth=nan must be positive and finite"),
        ({"entropy_weight": -0.1}, "entropy_weight=-0.1 must be 0 or more and finite"),
        (
            {"kind": "simplex", "entropy_weight": math.inf},
            "entropy_weight=inf must be 0 or more and finite",
        ),
        (
            {"entropy_weight": 0.1},
            "entropy_weight=0.1 needs kind='simplex', because kind='free' has no mixtures; use "
            "kind='simplex', or entropy_weight=0",
        ),
        ({"objective": "fame"}, "objective='fame' must be one of first_token, continuation"),
        ({"objective": "log_ratio"}, "target_ids and objective='log_ratio' go together"),
        ({"target_ids": (1,)}, "target_ids and objective='log_ratio' go together"),
    ],
)
def test_a_config_cannot_be_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        TrainingConfig(**changes)
    assert str(caught.value).startswith(message)
    assert TrainingConfig(learning_rate=1).learning_rate == 1, "a whole number is a number"


def test_a_soft_prompt_survives_its_file_which_is_the_same_each_time(
    trained: TrainingResult, tmp_path: Path
) -> None:
    path = tmp_path / "soft.safetensors"
    contents = set()
    for _ in range(20):
        trained.soft_prompt.save(path)
        contents.add(path.read_bytes())

    loaded = SoftPrompt.load(path)

    assert len(contents) == 1
    assert loaded.name == trained.soft_prompt.name
    assert loaded.settings == {**trained.soft_prompt.settings, "target_ids": []}  # JSON's
    assert torch.equal(loaded.prompt_embeds, trained.soft_prompt.prompt_embeds)
    assert loaded.num_virtual_tokens == 3


def test_a_foreign_file_is_no_soft_prompt(tiny_models: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")

    for path in (tmp_path / "text", tmp_path / "missing", tiny_models / "base/model.safetensors"):
        with pytest.raises(StoreError, match="is not a soft prompt of this plugin"):
            SoftPrompt.load(path)


def test_finished_soft_prompts_of_a_run_are_found_by_its_key(trained: TrainingResult) -> None:
    folder = artefact_folder("some-run-and-more-of-its-key")
    trained.soft_prompt.save(folder / "restart-1-free.safetensors")
    trained.soft_prompt.save(folder / "restart-2-free.checkpoint.safetensors")

    found = load_soft_prompts("some-run-and-more-of-its-key")

    assert [one.name for one in found] == ["soft-prompt"]
    assert load_soft_prompts("another-run") == []


def test_generated_prompts_depend_on_the_soft_prompt_and_the_seed(pair: ModelPair) -> None:
    far = torch.randn(3, 32, generator=torch.Generator().manual_seed(0)) * 3
    options: Any = {"num_prompts": 7, "max_new_tokens": 6}

    bare, again, other_seed, soft = (
        generate_prompts(pair, embeds, seed=seed, **options)
        for embeds, seed in ((None, 0), (None, 0), (None, 1), (far, 0))
    )

    assert bare == again
    assert 0 < len(bare) <= 7
    assert all(text == text.strip() != "" for text in bare)
    assert set(bare).isdisjoint(other_seed)
    assert set(bare).isdisjoint(soft)


@pytest.mark.parametrize(("position", "template"), [("after", None), ("inside", CHATML)])
def test_what_is_written_goes_on_where_the_soft_prompt_stands(
    position: Position, template: str | None
) -> None:
    """A soft prompt of real tokens writes what those tokens do, in their place."""
    pair = tiny_pair(chat_template=template)
    tokenizer = pair.chat.tokenizer
    text = "How do I tie" if position == "after" else "How do a river"
    hidden = torch.tensor(tokenizer.encode(" the or", add_special_tokens=False))
    embeds = local(pair.reference).embedding_table[hidden]

    (written,) = generate_prompts(
        pair,
        embeds,
        num_prompts=1,
        max_new_tokens=6,
        seed=0,
        writers=(pair.reference,),
        position=position,
        texts=[text],
    )

    num_before = len(pair.chat.user_opening) - len(pair.chat.shared_prefix)
    own = tokenizer.encode(text, add_special_tokens=False)
    own = own if position == "after" else own[: len(own) // 2]
    ids = [*pair.chat.user_opening[-1:], *own]
    (expected,) = decode_sampled(
        pair.reference,
        [torch.cat([torch.tensor(ids), hidden])],
        prefix=pair.chat.shared_prefix,
        max_new_tokens=6,
        stop_ids=pair.chat.stop_ids,
        seeds=[row_seed(0, "reference", 0)],
    )
    assert num_before == 1
    assert written == pair.chat.text([*own, *expected]).strip()
    assert written.startswith(pair.chat.text(own))


def test_a_soft_prompt_behind_a_text_needs_texts(pair: ModelPair) -> None:
    with pytest.raises(SettingsError, match=r"^a soft prompt with position='after' continues"):
        generate_prompts(
            pair, torch.zeros(3, 32), num_prompts=1, max_new_tokens=6, seed=0, position="after"
        )


def test_both_models_share_out_the_writing_unless_told(pair: ModelPair) -> None:
    both = generate_prompts(pair, None, num_prompts=4, max_new_tokens=6, seed=0)
    first = generate_prompts(
        pair, None, num_prompts=2, max_new_tokens=6, seed=0, writers=(pair.reference,)
    )

    assert both[: len(first)] == first
    assert len(both) > len(first)


@pytest.mark.parametrize(
    "objective",
    [
        {"objective": "likelihood", "position": "inside"},
        {"objective": "continuation", "continuation_length": 3, "position": "after"},
        {"objective": "log_ratio", "target_ids": (20, 21, 22), "position": "inside"},
    ],
)
def test_every_objective_rises(pair: ModelPair, objective: dict[str, Any]) -> None:
    config = replace(CONFIG, num_steps=12, learning_rate=0.05, **objective)

    result = train_soft_prompt(pair, config, TEXTS[:4], TEXTS[:4])

    assert result.history.validation[-1] > result.history.validation[0]
    assert (result.d_soft is None) == (objective["objective"] == "likelihood")


def test_a_continuation_of_one_token_is_the_first_token(pair: ModelPair) -> None:
    config = replace(CONFIG, num_steps=1)

    first = train_soft_prompt(pair, config, TEXTS)
    short = train_soft_prompt(
        pair, replace(config, objective="continuation", continuation_length=1), TEXTS
    )

    assert short.history.loss == pytest.approx(first.history.loss, rel=1e-5)


def test_the_log_ratio_is_that_of_the_wanted_answer(pair: ModelPair) -> None:
    """Against teacher forcing of the same rows, with the soft prompt's own embeddings."""
    target = (20, 21, 22)
    config = replace(
        CONFIG, num_steps=1, learning_rate=1e-12, objective="log_ratio", target_ids=target
    )
    result = train_soft_prompt(pair, config, TEXTS[:1])
    soft = result.soft_prompt.prompt_embeds
    ((prefix, body),) = pair.prompt_rows(TEXTS[:1])
    logps = []
    for side in pair.sides:
        embedded = insert(local(side), soft, torch.cat([body, torch.tensor(target[:-1])]))
        logits = side.logits([embedded], prefix=prefix, num_logits=3)[0].detach()
        logps.append(logits.log_softmax(-1)[range(3), list(target)])

    assert -result.history.loss[0] == pytest.approx(float((logps[1] - logps[0]).mean()), abs=1e-4)


def test_a_training_goes_on_from_given_vectors(pair: ModelPair, trained: TrainingResult) -> None:
    start = trained.soft_prompt.prompt_embeds
    config = replace(CONFIG, num_steps=1, learning_rate=1e-12)

    again = train_soft_prompt(pair, config, TEXTS, initial=start)

    assert torch.allclose(again.soft_prompt.prompt_embeds, start, atol=1e-6)


def test_models_of_two_widths_are_refused() -> None:
    """A pruned or distilled candidate may be narrower than its teacher."""
    with pytest.raises(SettingsError) as caught:
        train_soft_prompt(pair_of_two_widths(), CONFIG, TEXTS)

    assert str(caught.value) == (
        "the reference's embeddings have 32 values, the candidate's 64, and a soft prompt must fit "
        "both; search without training: the other strategies need no soft prompt"
    )
