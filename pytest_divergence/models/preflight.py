"""A check, from its files, that a pair would load: loads no weights, downloads nothing.

Uses the checks that loading uses, and so refuses with the same messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pytest_divergence.core.findings import Finding
from pytest_divergence.core.safe_text import safe_line, visible
from pytest_divergence.models.adapters import check_fit
from pytest_divergence.models.load_plan import LoadPlan
from pytest_divergence.models.pair_tokenizers import chat_format, load_tokenizers
from pytest_divergence.models.quantisation import check_quantiser, quantiser_note
from pytest_divergence.models.side_plan import SidePlan
from pytest_divergence.models.skeletons import skeleton
from pytest_divergence.models.text_models import left_out_note
from pytest_divergence.models.tokenizers import (
    num_tokens,
    padding_note,
    unlike_widths,
    vocabularies,
)

PROBE = "How do I tie a knot?"
NOT_HERE = {
    "hub": "is not in the Hub cache; the first session downloads it",
    "demo": "is not ready yet; the first session prepares it, in about half a minute",
    "gguf": "is not converted yet; the first session does it, once",
    "plugin": "is loaded by a plugin, so only a session can tell",
}


def inspect_pair(plan: LoadPlan) -> Iterator[Finding]:
    """Findings about a resolved pair, step by step, up to a model that is not here.

    Raises the `DivergenceError` that loading the pair would raise, at the step that finds it.
    """
    reference, candidate = plan.sides
    for side, place in zip(plan.sides, plan.placements, strict=True):
        if side.folder is not None and not side.is_adapter:
            check_quantiser(side.raw_config, place.device, role=side.role)
        yield _model(side, place.device)
        if side.folder is not None and (note := left_out_note(side.role, side.parts_left_out)):
            yield Finding("note", note)
        if side.folder is not None and not side.is_adapter:
            note = quantiser_note(side.raw_config, place.device, role=side.role)
            yield from () if note is None else (Finding("note", note),)
    if reference.folder is None or candidate.folder is None:
        return
    said: list[str] = []
    tokenizer, other = load_tokenizers(plan, said.append)
    whose = "the base's" if candidate.is_adapter else "the same for both"
    yield Finding("ok", f"tokenizer: {whose}, {len(tokenizer.get_vocab()):,} tokens")
    chat = chat_format(plan, tokenizer, other, said.append)
    length = len(chat.prompt_ids(PROBE))
    form = "none, prompts are plain text" if chat.template is None else plan.options.chat_template
    yield Finding("ok", f"chat template: {form}; {safe_line(PROBE)} is {length} tokens")
    yield from (Finding("note", line) for line in said)
    yield from _shapes(plan, tokenizer, other)
    if candidate.is_same_as(reference):
        yield Finding("note", "both are the same model, so nothing should differ")


def _model(side: SidePlan, device: torch.device) -> Finding:
    name = f"{side.role} {visible(str(side.spec), 200)}"
    if side.served is not None:
        known = f"{side.served.vocab_size:,} tokens, and tells {side.served.num_told} at a position"
        return Finding("ok", f"{name} answers: it knows {known}; a session tries it out first")
    if side.folder is None:
        return Finding("note", f"{name} {NOT_HERE[side.spec.kind]}")
    with side.load_errors():  # a file that was cut shows in its header
        size = side.loaded_bytes(4, device)
    kind = "adapter" if side.is_adapter else "model"
    return Finding("ok", f"{name}: {kind}, {size // 4:,} parameters")


def _shapes(
    plan: LoadPlan,
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | None,
) -> Iterator[Finding]:
    skeletons = [skeleton(side.full_model, plan) for side in plan.sides]
    (rows, width), (others, other_width) = map(_table_shape, skeletons)
    for side, bare in zip(plan.sides, skeletons, strict=True):
        if side.base is not None:
            yield _fit(side, side.base, bare)
    if plan.has_one_model:
        return
    known = num_tokens(tokenizer), num_tokens(other or tokenizer)
    shared, candidates = vocabularies((rows, others), known, has_two=other is not None)
    if shared is None:
        yield Finding("ok", f"vocabulary: {rows:,} rows in both models")
    else:
        count = f"{shared.num_shared:,} shared tokens"
        yield Finding("ok", f"vocabulary: {count}, of {rows:,} rows and {others:,}")
    note = padding_note(plan.candidate.full_model.role, others, candidates)
    if other is None and note is not None:
        yield Finding("note", note)
    if unlike := unlike_widths(width, other_width):
        yield Finding("note", f"{unlike}: soft prompts are left out")


def _fit(adapter: SidePlan, base: SidePlan, bare: PreTrainedModel) -> Finding:
    unknown = check_fit(adapter, bare)
    if unknown is not None:
        return Finding("note", unknown)
    named = adapter.named_base
    made = f"; it names {safe_line(named)} as its base" if named else ""
    return Finding("ok", f"the adapter fits {visible(str(base.spec), 200)}{made}")


def _table_shape(skeleton: PreTrainedModel) -> tuple[int, int]:
    table: Any = skeleton.get_input_embeddings()
    num_rows, width = table.weight.shape
    return num_rows, width
