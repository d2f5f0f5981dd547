"""Tiny real models, saved to a folder: what every test of models, scoring and sessions runs on.

Random weights and a byte-level tokenizer with a ChatML template. Knows nothing of the package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging as transformers_logging

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "i n", "e r", "a n", "o n", "r e", "a t", "e n", "o r", "o u", "i s")
"""A few, so that a token is not always one byte."""
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HIDDEN_SIZE = 32
NUM_LAYERS = 2
NUM_HEADS = 2
NUM_POSITIONS = 2048
TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}


def tiny_tokenizer(*, chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """Bytes, a few merges and three special tokens; any text survives encoding and decoding."""
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(merge.split(" ")) for merge in MERGES]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *pieces])}
    raw = Tokenizer(BPE(vocab=vocabulary, merges=[(left, right) for left, right in merges]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=raw,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        additional_special_tokens=[SPECIAL[1]],
        model_max_length=NUM_POSITIONS,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def save_tiny_model(
    folder: Path,
    *,
    architecture: str = "llama",
    seed: int = 0,
    perturb: float = 0.0,
    chat_template: str | None = CHATML,
) -> Path:
    """Save model and tokenizer to `folder`; the same arguments give the same weights.

    `perturb` adds noise of that standard deviation, relative to each weight matrix's own: a second
    model that differs a little from the one with the same seed.
    """
    tokenizer = tiny_tokenizer(chat_template=chat_template)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CONFIGS[architecture](len(tokenizer), **TOKEN_IDS)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32
        )
        _perturb(model, perturb)
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def save_tiny_adapter(
    base_folder: Path, folder: Path, seed: int = 0, *, scale: float = 0.3
) -> Path:
    """Save a LoRA adapter of the model in `base_folder` that changes its answers."""
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(), _quiet():
        base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
        torch.manual_seed(seed)
        wrapped = get_peft_model(
            base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        )
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_" in name:
                    weight.normal_(std=scale)
        wrapped.save_pretrained(str(folder))
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no warnings of one library about another."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@torch.no_grad()
def _perturb(model: PreTrainedModel, size: float) -> None:
    if not size:
        return
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.add_(torch.randn_like(weight) * weight.std() * size)


def _gpt2(vocab_size: int, **ids: Any) -> PreTrainedConfig:
    return GPT2Config(
        vocab_size=vocab_size,
        n_embd=HIDDEN_SIZE,
        n_layer=NUM_LAYERS,
        n_head=NUM_HEADS,
        n_positions=NUM_POSITIONS,
        initializer_range=SPREAD,
        **ids,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )


def _gpt_neox(vocab_size: int, **ids: Any) -> PreTrainedConfig:
    return GPTNeoXConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        max_position_embeddings=NUM_POSITIONS,
        initializer_range=SPREAD,
        **ids,
    )


def _llama_like(kind: Callable[..., PreTrainedConfig]) -> Callable[..., PreTrainedConfig]:
    def build(vocab_size: int, **ids: Any) -> PreTrainedConfig:
        return kind(
            vocab_size=vocab_size,
            hidden_size=HIDDEN_SIZE,
            intermediate_size=2 * HIDDEN_SIZE,
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=NUM_HEADS,
            num_key_value_heads=1,
            head_dim=HIDDEN_SIZE // NUM_HEADS,
            max_position_embeddings=NUM_POSITIONS,
            initializer_range=SPREAD,
            **ids,
        )

    return build


# Wider than a trained model's start, so that the logits of so small a model are not all alike.
SPREAD = 0.15

CONFIGS: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": _llama_like(LlamaConfig),
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "gemma": _llama_like(GemmaConfig),
    "gemma2": _llama_like(Gemma2Config),
    "mistral": _llama_like(MistralConfig),
    "qwen2": _llama_like(Qwen2Config),
    "qwen3": _llama_like(Qwen3Config),
}
