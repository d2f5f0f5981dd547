"""Whether a pair would load, told from its files: no weights are loaded, nothing is downloaded.

What is refused here is refused by the same checks, in the same words, when the pair is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pytest_divergence.core.findings import Finding
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.settings import Settings
from pytest_divergence.models.chat import ChatFormat, choose_template
from pytest_divergence.models.folder_checks import check_adapter_shapes
from pytest_divergence.models.loading import load_tokenizers, require_peft
from pytest_divergence.models.quiet import quiet_transformers
from pytest_divergence.models.resolved import ResolvedSpec, as_load_error
from pytest_divergence.models.sizes import weights_bytes
from pytest_divergence.models.specs import adapter_base_name
from pytest_divergence.models.tokenizers import smaller
from pytest_divergence.models.vocabulary import num_tokens, padding_note, vocabularies

PROBE = "How do I tie a knot?"
NOT_HERE = {
    "hub": "is not in the Hub cache; the first session downloads it",
    "demo": "is not ready yet; the first session prepares it, in about half a minute",
    "gguf": "is not converted yet; the first session does it, once",
    "plugin": "is loaded by a plugin, so only a session can tell",
}


def inspect_pair(settings: Settings, specs: tuple[ResolvedSpec, ResolvedSpec]) -> Iterator[Finding]:
    """What is found of a screened pair, step by step; ends where a model is not here.

    Raises the `DivergenceError` that loading the pair would raise, at the step that finds it.
    """
    reference, candidate = specs
    for one in specs:
        yield _model(one)
    if reference.folder is None or candidate.folder is None:
        return
    said: list[str] = []
    tokenizer, other = load_tokenizers(specs, said.append)
    whose = "the base's" if candidate.is_adapter else "the same for both"
    yield Finding("ok", f"tokenizer: {whose}, {len(tokenizer.get_vocab()):,} tokens")
    template = choose_template(settings.chat_template, tokenizer, other, said.append)
    length = len(
        ChatFormat(smaller(tokenizer, other), template, settings.system_prompt).prompt_ids(PROBE)
    )
    form = "none, prompts are plain text" if template is None else settings.chat_template
    yield Finding("ok", f"chat template: {form}; {safe_line(PROBE)} is {length} tokens")
    yield from (Finding("note", one) for one in said)
    yield from _shapes(specs, tokenizer, other)
    if candidate.is_same_as(reference):
        yield Finding("note", "both are the same model, so nothing should differ")


def _model(one: ResolvedSpec) -> Finding:
    name = f"{one.role} {safe_line(str(one.spec))[1:-1]}"
    if one.folder is None:
        return Finding("note", f"{name} {NOT_HERE[one.spec.kind]}")
    with as_load_error(one):  # a file that was cut shows in its header
        size = weights_bytes(one.folder, 4)
    kind = "adapter" if one.is_adapter else "model"
    return Finding("ok", f"{name}: {kind}, {size // 4:,} parameters")


def _shapes(
    specs: tuple[ResolvedSpec, ResolvedSpec],
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | None,
) -> Iterator[Finding]:
    skeletons = [_skeleton(one.full_model) for one in specs]
    for one, base in zip(specs, skeletons, strict=True):
        if one.base is not None:
            yield _fit(one, one.base, base)
    if specs[1].full_model.is_same_as(specs[0].full_model):
        return
    rows, others = map(_num_rows, skeletons)
    known = num_tokens(tokenizer), num_tokens(other or tokenizer)
    shared, candidates = vocabularies((rows, others), known)
    if shared is None:
        yield Finding("ok", f"vocabulary: {rows:,} rows in both models")
    else:
        count = f"{shared.num_shared:,} shared tokens"
        yield Finding("ok", f"vocabulary: {count}, of {rows:,} rows and {others:,}")
    note = padding_note(specs[1].full_model.role, others, candidates)
    if other is None and note is not None:
        yield Finding("note", note)


def _fit(adapter: ResolvedSpec, base: ResolvedSpec, skeleton: PreTrainedModel) -> Finding:
    require_peft(adapter)
    assert adapter.folder is not None  # an adapter is a folder
    name = f"{base.role} {base.spec}"
    check_adapter_shapes(adapter.folder, skeleton, role=adapter.role, base_name=name)
    named = adapter_base_name(adapter.folder)
    made = f"; it names {safe_line(named)} as its base" if named else ""
    return Finding("ok", f"the adapter fits {safe_line(str(base.spec))[1:-1]}{made}")


def _num_rows(skeleton: PreTrainedModel) -> int:
    table: Any = skeleton.get_input_embeddings()
    return len(table.weight)


def _skeleton(resolved: ResolvedSpec) -> PreTrainedModel:
    """The model without its weights: names and shapes of its modules."""
    assert resolved.folder is not None  # `inspect_pair` ends where a model is not here
    with quiet_transformers(), as_load_error(resolved), torch.device("meta"):
        config = AutoConfig.from_pretrained(
            resolved.folder, trust_remote_code=False, local_files_only=True
        )
        skeleton: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=False, attn_implementation="eager"
        )
    return skeleton
