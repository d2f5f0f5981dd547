"""Chat templates of strangers: of a candidate, asked for by its user, or left where they are."""

from __future__ import annotations

from pathlib import Path

from tests.attacks.changes import Change, all_of, edited, fifo, holding, in_json, linked, sparse
from tests.attacks.hostile import MARKER, Outcome, Stranger
from tests.tiny import CHATML

TEMPLATE, CONFIG = "chat_template.jinja", "tokenizer_config.json"
ASKED = ("--divergence-chat-template=candidate",)
NEVER_ENDS = "".join(f"{{% for a{n} in range(99999) %}}" for n in range(9)) + "{% endfor %}" * 9
RUNS = f"__import__('os').open('../{MARKER}', 65)"


def template(text: str) -> Change:
    """The candidate's template is this text."""
    return holding(TEMPLATE, text)


def in_tokenizer_config(value: object) -> Change:
    """The candidate's template stands in its tokenizer's config."""

    def change(folder: Path) -> None:
        (folder / TEMPLATE).unlink(missing_ok=True)
        in_json(CONFIG, chat_template=value)(folder)

    return change


OF_TEXT: list[tuple[str, str, Outcome]] = [
    ("as it is", CHATML, "measured"),
    ("with a comment", "{# a comment #}" + CHATML, "measured"),
    ("with one more letter", "x" + CHATML, "refused"),
    (
        "without the user's text",
        "{% for m in messages %}<|im_start|>x<|im_end|>{% endfor %}",
        "refused",
    ),
    (
        "the text twice",
        CHATML.replace("{{ message.content }}", "{{ message.content * 2 }}"),
        "refused",
    ),
    (
        "the text turned round",
        CHATML.replace("message.content", "message.content[::-1]"),
        "refused",
    ),
    ("nothing", "", "either"),
    ("a line end", "\n", "refused"),
    ("the same for all", "Hello", "refused"),
    ("syntax", "{% for %}", "refused"),
    ("an open block", "{% if messages %}" * 2000, "refused"),
    ("deep blocks", "{% if 1 %}" * 500 + "x" + "{% endif %}" * 500, "refused"),
    ("deep parentheses", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "refused"),
    ("an unknown name", CHATML + "{{ nobody.knows.this }}", "refused"),
    ("raise", "{{ raise_exception('\x1b[2J\n::error::no') }}", "refused"),
    ("loops", NEVER_ENDS, "refused"),
    ("a long range", "{% for a in range(999999999) %}{% endfor %}", "refused"),
    ("a loop behind it", CHATML + NEVER_ENDS, "refused"),
    ("3 GB", "{{ 'a' * 3000000000 }}", "refused"),
    ("3 GB behind it", CHATML + "{% set x = 'a' * 3000000000 %}", "either"),
    ("lists of lists", "{% set x = [0] * 999999999 %}{{ x|length }}", "refused"),
    ("a number", "{{ 9 ** 9 ** 9 }}", "refused"),
    ("a long number", "{{ 10 ** 99999 }}", "refused"),
    ("a wide field", "{{ '%999999999d' % 1 }}", "refused"),
    ("a wide format", "{{ '{:>999999999}'.format(1) }}", "refused"),
    ("center", "{{ 'a'|center(999999999) }}", "refused"),
    ("indent", "{{ ('\n' * 99999)|indent(99999) }}", "refused"),
    ("join", "{{ range(99999999)|join('aaaaaaaaaaaaaaaa') }}", "refused"),
    ("replace", "{{ ('a' * 99999)|replace('a', 'a' * 99999) }}", "refused"),
    ("5 MB of text", "{{ 'hello ' * 900000 }}", "refused"),
    ("lipsum", "{{ lipsum(n=9999999) }}", "refused"),
    ("a file of 5 MB", "x" * (5 << 20), "refused"),
    ("includes", "{% include '/etc/passwd' %}", "refused"),
    ("imports", "{% import 'os' as os %}{{ os }}", "refused"),
    ("extends", "{% extends 'base' %}", "refused"),
    ("a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "refused"),
    ("classes", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "refused"),
    ("globals", "{{ cycler.__init__.__globals__.os.open('../" + MARKER + "', 65) }}", "refused"),
    ("globals of a macro", "{% macro m() %}{% endmacro %}{{ m.__globals__ }}", "refused"),
    (
        "attr",
        "{{ namespace|attr('__init__')|attr('__globals__') }}{{ ''|attr('__class__') }}x",
        "refused",
    ),
    (
        "format as a way out",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
        "refused",
    ),
    ("format_map", "{{ '{a.__class__}'.format_map({'a': 1}) }}", "refused"),
    ("self", "{{ self.__init__.__globals__.__builtins__." + RUNS + " }}", "refused"),
    ("the messages changed", "{% set _ = messages.clear() %}" + CHATML, "refused"),
    (
        "the messages grown",
        "{% for m in messages %}{% set _ = messages.append(m) %}{% endfor %}",
        "refused",
    ),
    ("a clock", CHATML + "{{ strftime_now('%H%M%S%f') }}", "refused"),
    (
        "control tokens",
        CHATML.replace("{{ message.content }}", "<|im_end|>{{ message.content }}"),
        "refused",
    ),
    ("raw bytes", "\x00\x1b[2J\x07" + CHATML, "refused"),
    ("half a character", "\ud800" + CHATML, "refused"),
    ("tools", CHATML + "{{ tools[0].name }}", "refused"),
    ("break", "{% for m in messages %}{% break %}{% endfor %}" + CHATML, "either"),
    ("generation", CHATML + "{% generation %}{% endgeneration %}", "either"),
    ("do", "{% do messages %}" + CHATML, "either"),
    (
        "only the last 3 letters",
        CHATML.replace("message.content", "message.content[-3:]"),
        "refused",
    ),
]
OF_KIND: list[tuple[str, Change, Outcome]] = [
    ("a list", in_tokenizer_config([{"name": "default", "template": CHATML}]), "either"),
    ("a list of others", in_tokenizer_config([{"name": "x", "template": "no"}]), "either"),
    ("a list of nothing", in_tokenizer_config([1, None]), "either"),
    ("a number", in_tokenizer_config(7), "either"),
    ("an object", in_tokenizer_config({"default": CHATML}), "either"),
    ("no", in_tokenizer_config(False), "either"),
    ("both places", in_json(CONFIG, chat_template="other"), "either"),
    ("not UTF-8", holding(TEMPLATE, b"\xff\xfe" + CHATML.encode("utf-16-le")), "refused"),
    ("a pipe", fifo(TEMPLATE), "refused"),
    ("/dev/zero", linked(TEMPLATE, "/dev/zero"), "refused"),
    ("/etc/passwd", linked(TEMPLATE, "/etc/passwd"), "refused"),
    ("300 MB of nothing", all_of(template(CHATML), sparse(TEMPLATE, 300 << 20)), "refused"),
    (
        "in the tokenizer's own file",
        edited("tokenizer.json", lambda one: one.update(chat_template="other")),
        "either",
    ),
]
NOT_ASKED = ("loops", "3 GB", "classes", "syntax", "without the user's text")
TEMPLATES = [
    *(
        Stranger(f"template: {name}", template(text), end, "ft", ASKED)
        for name, text, end in OF_TEXT
    ),
    *(Stranger(f"template is {name}", change, end, "ft", ASKED) for name, change, end in OF_KIND),
    *(
        Stranger(f"template that no one asked for: {name}", template(text), "measured", "ft")
        for name, text, _ in OF_TEXT
        if name in NOT_ASKED
    ),
]
