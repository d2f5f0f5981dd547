"""A trial of an untrusted chat template in a separate process, before it is rendered here.

A template is a program in a sandbox that keeps it from files and from Python, but not from running
forever or from filling the memory. So a few conversations are rendered under limits first. That is
no proof: a template can wait for a text that is in none of them. The length of what it renders in
this process is limited too, but only checked afterwards.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.core.setting_names import setting

MAX_TEMPLATE = 100_000
"""Characters; the longest known templates have a fifth."""
MAX_RENDERED = 1_000_000
"""Characters that a template may add to what was said."""
CPU_SECONDS = 3
WALL_SECONDS = 30
"""Limit that holds on a busy machine too."""
MEMORY_BYTES = 2**30
CHILD = Path(__file__).with_name("template_child.py")
USER, ANSWER = (
    {"role": role, "content": text}
    for role, text in (("user", "How do I tie a knot?"), ("assistant", "Which one?"))
)
CONVERSATIONS = (
    [USER],
    [{"role": "system", "content": "Be brief."}, USER],
    [USER, ANSWER, {"role": "user", "content": "A bowline, in 3 steps."}],
)


def check_template(template: str, *, choice: str, arguments: Mapping[str, Any]) -> None:
    """Raise `ModelLoadError` for a template that takes too much time, memory or text.

    `choice` is what the user gave; `arguments` are what it is rendered with.
    """
    problem = (
        f"has {len(template):,} characters; the limit is {MAX_TEMPLATE:,}"
        if len(template) > MAX_TEMPLATE
        else _trial(template, json.dumps(arguments, default=str, sort_keys=True))
    )
    if problem is not None:
        raise ModelLoadError(
            f"{setting('chat_template')}={choice}: the template {problem}; give none, or a "
            "template that you trust"
        )


@lru_cache
def _trial(template: str, arguments: str) -> str | None:
    """Problem of a template, as the end of a sentence; found once per template and process."""
    asked = {
        "template": template,
        "conversations": CONVERSATIONS,
        "arguments": json.loads(arguments),
        "seconds": CPU_SECONDS,
        "memory_bytes": MEMORY_BYTES,
        "characters": MAX_RENDERED,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD)],
            input=json.dumps(asked),
            capture_output=True,
            encoding="utf-8",
            timeout=WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {WALL_SECONDS} s to render a conversation of three turns"
    except OSError as error:  # no process can be started
        return f"cannot be tried in a separate process: {error.strerror or error}"
    if done.stdout == "memory":
        return f"takes more than {MEMORY_BYTES // 2**20:,} MiB to render three turns"
    if done.stdout == "length":
        return f"makes more than {MAX_RENDERED:,} characters of three turns"
    if done.returncode > 0:  # no trial, no template
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"cannot be tried in a separate process: {safe_line(reason)}"
    if done.returncode < 0:
        return f"takes more than {CPU_SECONDS} s, or crashes its process, to render three turns"
    return None
