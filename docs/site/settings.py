"""Options, ini keys, environment variables and profiles, from the tables that define them."""

from __future__ import annotations

from collections.abc import Iterator

from docs.site.markdown import attribute_docs, code, module_docs, table
from docs.site.package import PACKAGE, module_name
from pytest_divergence.core.settings import PROFILES, Profile, Settings
from pytest_divergence.plugin.options import OPTIONS, PAIRS_INI, PAIRS_INI_HELP, Option

PRECEDENCE = (
    "The command line overrides the environment, the environment overrides the ini file, and the "
    "ini file overrides the default. The session's header names each value's source, and "
    "`pytest-divergence show-config` prints all values."
)
FOREIGN = {
    "CI": "set to anything but 0 or false: a session replays, and rewrites no suite",
    "GITHUB_ACTIONS": "true: failures become annotations, and the run gets a step summary",
    "GITHUB_STEP_SUMMARY": "the file that the step summary is added to",
    "GITHUB_WORKSPACE": "the folder that paths in annotations are relative to",
}
"""Variables of other tools that are read here."""


def options_page() -> str:
    """Return the page of options: names, values, default and meaning of each."""
    defaults = Settings.model_fields
    parts = [f"# Options\n\nOptions of a pytest session. {PRECEDENCE}\n"]
    for option in OPTIONS:
        field = defaults[option.field]
        default = code(_shown(field.get_default(call_default_factory=True)))
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
                "–" if option.is_of_user else code(option.ini),
            )
        ],
    )


def _shown(default: object) -> str:
    if default is None or default == {}:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def ini_page() -> str:
    """Return the page of ini keys."""
    rows = [
        (code(option.ini), f"as [`{option.flag}`](options.md#{_anchor(option)}): {option.help}")
        for option in OPTIONS
        if not option.is_of_user
    ]
    rows.append((code(PAIRS_INI), PAIRS_INI_HELP))
    return (
        "# Ini keys\n\nKeys of `pytest.ini`, `tox.ini`, `setup.cfg`, or of "
        "`[tool.pytest.ini_options]` in `pyproject.toml` (from pytest 9 on also `[tool.pytest]`, "
        f"where numbers and booleans need no quotes). {PRECEDENCE} Paths in an ini file are "
        "relative to its folder.\n\n"
        f"{table(('key', 'meaning'), rows)}"
    )


def _anchor(option: Option) -> str:
    return option.field.replace("_", "-")


def environment_page() -> str:
    """Return the page of environment variables, our own and those of other tools."""
    options = [
        (code(option.variable), f"as [`{option.flag}`](options.md#{_anchor(option)})")
        for option in OPTIONS
    ]
    own = [(code(name), meaning) for name, meaning in own_variables()]
    others = [(code(name), meaning) for name, meaning in FOREIGN.items()]
    return (
        "# Environment variables\n\n"
        f"{PRECEDENCE} An empty variable counts as unset.\n\n"
        f"{table(('variable', 'meaning'), [*options, *own])}\n"
        "These variables of other tools are read too. Variables that Hugging Face libraries and "
        "torch read themselves, such as `HF_HOME` and `HF_HUB_OFFLINE`, also apply.\n\n"
        f"{table(('variable', 'meaning'), others)}"
    )


def own_variables() -> Iterator[tuple[str, str]]:
    """Yield variables without an option: constants that end in _VARIABLE, and their docstrings."""
    from importlib import import_module

    for path in sorted(PACKAGE.rglob("*.py")):
        if "_VARIABLE = " in path.read_text("utf-8"):
            module = import_module(module_name(path))
            for constant, meaning in module_docs(module.__name__).items():
                if constant.endswith("_VARIABLE"):
                    yield getattr(module, constant), meaning


def profiles_page() -> str:
    """Return the page of profiles, with their sizes side by side."""
    meanings = attribute_docs(Profile)
    names = list(PROFILES)
    fields = [name for name in Profile.model_fields if name != "name"]
    rows = [
        [code(field), *(f"{getattr(PROFILES[name], field):,}" for name in names), meanings[field]]
        for field in fields
    ]
    return (
        "# Profiles\n\nA profile holds the sizes of a search. Choose it with "
        f"`--divergence-profile`: {Settings.model_fields['profile'].default}, the default, is "
        "smoke on a CPU and default on a GPU. `--divergence-num-cases` and `--divergence-budget` "
        "override two of the sizes. Tokens are forwarded tokens of both models. What contexts take "
        "comes on top of `budget_tokens`: about 108,000 tokens for the shipped ones at default.\n\n"
        f"{table(('size', *names, 'meaning'), rows)}"
    )
