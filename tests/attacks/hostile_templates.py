"""Chat templates of strangers: of a candidate, asked for by its user, or left where they are."""

from __future__ import annotations

from pathlib import Path

from tests.attacks.changes import MARKER, Change, fifo, holding, in_json, linked
from tests.attacks.hostile import Outcome, Stranger
from tests.tiny import CHATML

TEMPLATE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
ASKED = ("--divergence-chat-template=candidate",)
NEVER_ENDS = "".join(f"{{% for a{n} in range(99999) %}}" for n in range(9)) + "{% endfor %}" * 9
RUNS = f"__import__('os').open('../{MARKER}', 65)"


def in_tokenizer_config(value: object) -> Change:
    """The candidate's template stands in its tokenizer's config."""

    def change(folder: Path) -> None:
        (folder / TEMPLATE).unlink(missing_ok=True)
        in_json(CONFIG, chat_template=value)(folder)

    return change


OF_TEXT: list[tuple[str, str, Outcome]] = [
    ("as it is", CHATML, "measured"),
    ("with one more letter", "x" + CHATML, "refused"),
    (
        "without the user's text",
        "{% for m in messages %}<|im_start|>x<|im_end|>{% endfor %}",
        "refused",
    ),
    ("the text turned", CHATML.replace("message.content", "message.content[::-1]"), "refused"),
    ("syntax", "{% for %}", "refused"),
    ("raise", "{{ raise_exception('\x1b[2J\n::error::no') }}", "refused"),
    ("loops", NEVER_ENDS, "refused"),
    ("3 GB behind it", CHATML + "{% set x = 'a' * 3000000000 %}", "either"),
    ("includes", "{% include '/etc/passwd' %}", "refused"),
    ("a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "refused"),
    ("classes", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "refused"),
    (
        "format as a way out",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
        "refused",
    ),
    ("self", "{{ self.__init__.__globals__.__builtins__." + RUNS + " }}", "refused"),
    ("the messages changed", "{% set _ = messages.clear() %}" + CHATML, "refused"),
    ("a clock", CHATML + "{{ strftime_now('%H%M%S%f') }}", "refused"),
    (
        "control tokens",
        CHATML.replace("{{ message.content }}", "<|im_end|>{{ message.content }}"),
        "refused",
    ),
    ("half a character", "\ud800" + CHATML, "refused"),
    ("generation", CHATML + "{% generation %}{% endgeneration %}", "either"),
]
OF_KIND: list[tuple[str, Change, Outcome]] = [
    ("a list of others", in_tokenizer_config([{"name": "x", "template": "no"}]), "either"),
    ("a number", in_tokenizer_config(7), "either"),
    ("a pipe", fifo(TEMPLATE), "refused"),
    ("/etc/passwd", linked(TEMPLATE, "/etc/passwd"), "refused"),
]
NOT_ASKED = ("loops", "classes", "without the user's text")
TEMPLATES = [
    *(
        Stranger(f"template: {name}", holding(TEMPLATE, text), end, "ft", ASKED)
        for name, text, end in OF_TEXT
    ),
    *(Stranger(f"template is {name}", change, end, "ft", ASKED) for name, change, end in OF_KIND),
    *(
        Stranger(
            f"template that no one asked for: {name}", holding(TEMPLATE, text), "measured", "ft"
        )
        for name, text, _ in OF_TEXT
        if name in NOT_ASKED
    ),
]
