"""A program that renders a few conversations with an untrusted chat template.

Run by its path, with nothing imported but the standard library and Jinja, so that it starts in a
tenth of a second. Reads one JSON object from stdin: `template`, `conversations`, `arguments`, and
the limits `seconds`, `memory_bytes`, `characters`. Writes what was too much, `memory` or `length`,
or nothing; too much time ends the process. The sandbox is the one that transformers uses, with the
names that it gives.
"""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]


class _Generation(Extension):
    """The block by which a template marks what an assistant said."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def render_all(given: dict[str, Any]) -> str:
    """`memory`, `length`, or nothing where all conversations stay within the limits."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now, "dict": dict}
    for messages in given["conversations"]:
        try:
            template = environment.from_string(given["template"])
            text = template.render(messages=messages, **given["arguments"])
        except (MemoryError, OverflowError):
            return "memory"
        except Exception:  # "no system prompt", say, or a fault: reported when the template is used
            continue
        if len(text) > given["characters"]:
            return "length"
    return ""


def _json(value: object, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _limit(seconds: int, memory_bytes: int) -> None:
    """Have the system end this process at a limit, where it knows limits."""
    if resource is None:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds + 1))
    with contextlib.suppress(ValueError, OSError):  # not on every system
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    _limit(asked["seconds"], asked["memory_bytes"])
    sys.stdout.write(render_all(asked))  # noqa: TID251
