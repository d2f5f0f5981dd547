"""Chat templates of thinking models: one for each way in which families close their thoughts."""

from __future__ import annotations

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer

CHANNEL_MARKS = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")

_PAST = """{%- for turn in messages -%}
{{- '<|im_start|>' + turn.role + '\\n' -}}
{%- if turn.role == 'assistant' and keeps_thoughts -%}
{{- '<think>\\n' + (turn.reasoning_content or '') + '\\n</think>\\n\\n' -}}
{%- endif -%}
{%- if '</think>' in turn.content -%}
{{- turn.content.split('</think>')[-1] -}}
{%- else -%}
{{- turn.content -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
"""
_BEGIN = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}"
_KEEPS, _DROPS = "{%- set keeps_thoughts = true -%}\n", "{%- set keeps_thoughts = false -%}\n"
SWITCHED = (
    f"{_KEEPS}{_PAST}{_BEGIN}"
    "{%- if enable_thinking is defined and not enable_thinking -%}"
    "{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}{%- endif -%}"
)
"""Thinks unless `enable_thinking` is false, and keeps past thoughts."""
SWITCHED_ON = (
    f"{_DROPS}{_PAST}{_BEGIN}{{{{- '<think>' if thinking else '</think>' -}}}}{{%- endif -%}}"
)
"""Thinks only if told to, and drops past thoughts."""
SILENT = (
    "{%- for turn in messages -%}"
    "{{- '<|im_start|>' + turn.role + '\\n' + turn.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    f"{_BEGIN}{{%- if not enable_thinking | default(true) -%}}"
    "{{- '<think>\\n\\n</think>\\n' -}}{%- endif -%}{%- endif -%}"
)
"""Thinks unless `enable_thinking` is false, and shows its marks nowhere else."""
OPENED = f"{_DROPS}{_PAST}{_BEGIN}{{{{- '<think>\\n' -}}}}{{%- endif -%}}"
"""Always thinks: the prompt opens the thoughts, and nothing closes them."""
OPENED_ALONE = SILENT.partition("{%- if not enable_thinking")[0] + "{{- '<think>' -}}{%- endif -%}"
"""Always thinks, and shows its marks nowhere else: Olmo 3 Think."""
TOLD = (
    "{%- if enable_thinking or thinking -%}"
    "{{- '<|im_start|>system\\nThink first.<|im_end|>\\n' -}}{%- endif -%}"
    f"{_KEEPS}{_PAST}{_BEGIN}{{%- endif -%}}"
)
"""Thinks if its system turn tells it to."""
LEFT = f"{_DROPS}{_PAST}{_BEGIN}{{%- endif -%}}"
"""Drops past thoughts, and says nothing of new ones."""
CHANNELS = """{%- for turn in messages -%}
{%- if turn.role == 'assistant' -%}
{%- if turn.thinking and not add_generation_prompt -%}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + turn.thinking + '<|end|>' -}}
{%- endif -%}
{{- '<|start|>assistant<|channel|>final<|message|>' + turn.content + '<|return|>' -}}
{%- else -%}
{{- '<|start|>' + turn.role + '<|message|>' + turn.content + '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant' -}}{%- endif -%}
"""
"""Writes thoughts and answers to channels."""


def thinking_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with the marks of these templates as tokens, as models that think have."""
    tokenizer = tiny_tokenizer()
    marks = [AddedToken(mark, normalized=False, special=False) for mark in ("<think>", "</think>")]
    marks += [AddedToken(mark, normalized=False, special=True) for mark in CHANNEL_MARKS]
    tokenizer.add_tokens(marks)
    return tokenizer
