"""The tokenizers of a pair, and the chat format that both of its models share, from a `LoadPlan`.

Loads no weights (`pytest_divergence.models.loading`).
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from pytest_divergence.core.errors import ModelLoadError, TokenizerMismatchError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.chat_format import (
    FROZEN_ARGUMENTS,
    ChatFormat,
    check_arguments,
    check_system_prompt,
    check_takes_text,
    choose_template,
    template_owner,
    thoughts_note,
)
from pytest_divergence.models.endpoints.openai import OpenAiServer
from pytest_divergence.models.endpoints.recordings import Recording
from pytest_divergence.models.fingerprints import has_tokenizer
from pytest_divergence.models.load_plan import LoadPlan
from pytest_divergence.models.side_plan import SidePlan
from pytest_divergence.models.tokenizers import (
    added_note,
    check_same_tokenizer,
    eos_ids,
    num_tokens,
    read_tokenizer,
    rendering_tokenizer,
    smaller,
)
from pytest_divergence.models.transformers_log import Say, quiet_transformers


def chat_format(
    plan: LoadPlan,
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | None,
    say: Say,
) -> ChatFormat:
    """The format of a plan's prompts, and where tokenizers end answers; notes go to `say`.

    Raises `ModelLoadError` for a template that cannot be used, and for a system prompt or an
    argument that it does not take.
    """
    options = plan.options
    arguments = {**FROZEN_ARGUMENTS, **options.template_arguments}
    both = tokenizer, other or tokenizer
    own, others = (_with_template(*each, say) for each in zip(plan.sides, both, strict=True))
    template = choose_template(options.chat_template, own, others, say, arguments)
    owner, shared = template_owner(options.chat_template, own, others), smaller(*both)
    chat = ChatFormat(
        rendering_tokenizer(shared, owner or shared),
        template,
        options.system_prompt,
        eos_ids(shared, *both, own, others),
        arguments=arguments,
        thought_length=options.thought_lengths[plan.device.type != "cpu"],
    )
    check_takes_text(chat, options.chat_template)
    check_arguments(chat, options.template_arguments)
    check_system_prompt(chat, options.chat_template)
    if note := thoughts_note(chat):
        say(note)
    return chat


def load_tokenizers(
    plan: LoadPlan, say: Say = lambda _: None
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    """The reference's tokenizer, and the candidate's if it has its own.

    Raises `TokenizerMismatchError` where they differ in more than tokens added to one.
    """
    reference, candidate = (side.full_model for side in plan.sides)
    if plan.is_served:
        return _tokenizers_of_served(plan)
    tokenizer = _load_tokenizer(reference)
    if plan.has_one_model:
        return tokenizer, None
    if plan.lacks_tokenizer:
        say(f"{candidate.role} has no tokenizer of its own, so the reference's is used")
        return tokenizer, None
    other = _load_tokenizer(candidate)
    added = check_same_tokenizer(tokenizer, other)
    if added:
        sizes = num_tokens(tokenizer), num_tokens(other)
        say(added_note(added, min(sizes), is_candidates=sizes[1] > sizes[0]))
    return tokenizer, other


def _tokenizers_of_served(
    plan: LoadPlan,
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase | None]:
    """The tokenizers that are here; a server without one in its spec has the other model's."""
    full = [side.full_model for side in plan.sides]
    having = [side for side in full if side.loaded or _has_tokenizer(side)]
    if not having:
        raise ModelLoadError(
            f"{' and '.join(side.role for side in full)}: neither has a tokenizer; add "
            "tokenizer=MODEL, the model that is served"
        )
    tokenizer = _load_tokenizer(having[0])
    other = _load_tokenizer(having[1]) if having[1:] else None
    if other is not None and (added := check_same_tokenizer(tokenizer, other)):
        raise TokenizerMismatchError(
            f"{having[0].role} and {having[1].role} differ in {len(added)} tokens, such as "
            f"{safe_line(added[0], 40)}, and with a served model both must know the same; give "
            "tokenizer=MODEL of the model that is served, or serve one without added tokens"
        )
    for side in full:
        if isinstance(side.served, Recording):
            side.served.check_tokenizer(tokenizer)
        elif isinstance(side.served, OpenAiServer):
            continue  # it tells nothing of its tokens
        elif side.served is not None and side.served.vocab_size < num_tokens(tokenizer):
            raise TokenizerMismatchError(
                f"{side.served.name} knows {side.served.vocab_size} tokens, and the pair's "
                f"tokenizer {num_tokens(tokenizer)}; add tokenizer=MODEL, the model that is served"
            )
    return tokenizer, other


def _has_tokenizer(side: SidePlan) -> bool:
    return side.tokenizer_folder is not None and has_tokenizer(side.tokenizer_folder)


def _with_template(
    side: SidePlan, tokenizer: PreTrainedTokenizerBase, say: Say
) -> PreTrainedTokenizerBase:
    """The tokenizer that an adapter was saved with if it has a chat template, else its model's."""
    if side.adapter_tokenizer is None:
        return tokenizer
    try:
        own = _load_tokenizer(side)
    except ModelLoadError as error:  # nothing else of it is needed
        say(f"the adapter's chat template is not used: {error}")
        return tokenizer
    return own if own.chat_template else tokenizer


def _load_tokenizer(side: SidePlan) -> PreTrainedTokenizerBase:
    if side.loaded is not None:
        return side.loaded.tokenizer
    folder = side.tokenizer_folder
    assert folder is not None  # what no plugin loads is a folder
    if not has_tokenizer(folder):  # some versions of transformers create an empty one
        raise ModelLoadError(
            f"{side.role}: {side.spec} cannot be loaded: its folder has no tokenizer; save there "
            "the one that it was trained with"
        )
    with quiet_transformers(), side.load_errors():
        return read_tokenizer(folder)
