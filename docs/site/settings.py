"""Options, ini keys, environment variables and profiles, from the tables that define them."""

from __future__ import annotations

from collections.abc import Iterator

from docs.site.markdown import attribute_docs, code, module_docs, table
from docs.site.package import PACKAGE, module_name
from pytest_divergence.core.settings import PROFILES, Profile, Settings
from pytest_divergence.plugin.options import OPTIONS, PAIRS_INI, PAIRS_INI_HELP, Option

PRECEDENCE = (
    "The command line comes before the environment, the environment before the ini file, and that "
    "before the default. The session's header names each value's source, and "
    "`pytest-divergence show-config` prints all."
)
FOREIGN = {
    "CI": "set to anything but 0 or false: a session replays, and rewrites no suite",
    "GITHUB_ACTIONS": "true: failures become annotations, and the run a step summary",
    "GITHUB_STEP_SUMMARY": "the file that the step summary is added to",
    "GITHUB_WORKSPACE": "the folder that annotations name paths from",
}
"""Variables that belong to others, and are read here."""


def options_page() -> str:
    """Each option: its names, values, default and meaning."""
    defaults = Settings.model_fields
    parts = [f"# Options\n\nOptions of a pytest session. {PRECEDENCE}\n"]
    for option in OPTIONS:
        default = code(_shown(defaults[option.field].default))
        rule = f" A value must be {option.rule}." if option.rule else ""
        parts.append(
            f"({_anchor(option)})=\n## {code(option.flag)}\n\n"
            f"{option.help[0].upper()}{option.help[1:]}.\n\n{_names(option)}\n"
            f"Default: {default}.{rule}\n"
        )
    return "\n".join(parts)


def _names(option: Option) -> str:
    names = [option.flag, *(name for name in (option.alias, option.synonym) if name)]
    value = "" if option.is_switch else f"={option.metavar}"
    return table(
        ("command line", "environment", "ini"),
        [
            (
                ", ".join(code(name + value) for name in names),
                code(option.variable),
                code(option.ini),
            )
        ],
    )


def _shown(default: object) -> str:
    if default is None:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def ini_page() -> str:
    """Each key of the ini file."""
    rows = [
        (code(one.ini), f"as [`{one.flag}`](options.md#{_anchor(one)}): {one.help}")
        for one in OPTIONS
    ]
    rows.append((code(PAIRS_INI), PAIRS_INI_HELP))
    return (
        "# Ini keys\n\nKeys of `pytest.ini`, `tox.ini`, `setup.cfg` or `[tool.pytest.ini_options]`"
        f" in `pyproject.toml`. {PRECEDENCE} Paths in an ini file hold from the folder that it is "
        f"in.\n\n{table(('key', 'meaning'), rows)}"
    )


def _anchor(option: Option) -> str:
    return option.field.replace("_", "-")


def environment_page() -> str:
    """Each environment variable, our own and those of others."""
    options = [
        (code(one.variable), f"as [`{one.flag}`](options.md#{_anchor(one)})") for one in OPTIONS
    ]
    own = [(code(name), meaning) for name, meaning in own_variables()]
    others = [(code(name), meaning) for name, meaning in FOREIGN.items()]
    return (
        "# Environment variables\n\n"
        f"{PRECEDENCE} An empty variable counts as not given.\n\n"
        f"{table(('variable', 'meaning'), [*options, *own])}\n"
        "Of other tools' variables these are read; what Hugging Face libraries and torch read "
        "themselves holds too, such as `HF_HOME` and `HF_HUB_OFFLINE`.\n\n"
        f"{table(('variable', 'meaning'), others)}"
    )


def own_variables() -> Iterator[tuple[str, str]]:
    """Variables without an option: constants that end in _VARIABLE, with their docstrings."""
    from importlib import import_module

    for path in sorted(PACKAGE.rglob("*.py")):
        if "_VARIABLE = " in path.read_text("utf-8"):
            module = import_module(module_name(path))
            for constant, meaning in module_docs(module.__name__).items():
                if constant.endswith("_VARIABLE"):
                    yield getattr(module, constant), meaning


def profiles_page() -> str:
    """The sizes of each profile, side by side."""
    meanings = attribute_docs(Profile)
    names = list(PROFILES)
    fields = [name for name in Profile.model_fields if name != "name"]
    rows = [
        [code(name), *(f"{getattr(PROFILES[one], name):,}" for one in names), meanings[name]]
        for name in fields
    ]
    return (
        "# Profiles\n\nA profile holds the sizes of a search. `--divergence-profile` names one: "
        f"{Settings.model_fields['profile'].default}, the default, is smoke on a CPU and default on"
        " a GPU. `--divergence-num-cases` and `--divergence-budget` override two of the sizes. "
        "Tokens are forwarded tokens, both models counted.\n\n"
        f"{table(('size', *names, 'meaning'), rows)}"
    )
