"""What people see of a session: header, progress of the search, summary.

Knows pytest's capturing and terminal; does not know what a search does, nor how its progress is
drawn (`pytest_divergence.plugin.progress_bar`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_divergence.plugin.options import DEFAULT, MODELS, PAIRS_INI, Given

if TYPE_CHECKING:
    from pytest_divergence.plugin.session import DivergenceSession


SHOWN_SETTINGS = {"profile": "profile", "max_kl": "bound", "mode": "mode"}
"""What the header shows of the settings, and the word for it."""


def header_lines(session: DivergenceSession) -> list[str]:
    """Pytest's header: the pair, the most important settings, and where each came from."""
    if session.is_off:
        return []
    num_pairs = 0 if session.is_explicit else len(session.config.getini(PAIRS_INI))
    more = [f"divergence: {num_pairs} pair{'s' if num_pairs > 1 else ''} from {PAIRS_INI}"]
    return [*_pair_lines(session), *(more if num_pairs else [])]


def _pair_lines(session: DivergenceSession) -> list[str]:
    if not session.has_models:
        return []
    names = [_model_name(session, session.given[field]) for field in MODELS]
    sources = [session.given[field].source for field in MODELS]
    lines = [
        f"divergence: reference {names[0]} ({sources[0]}), candidate {names[1]} ({sources[1]})",
        f"divergence: {', '.join(_setting(session, field) for field in SHOWN_SETTINGS)}",
    ]
    if names[0] == names[1]:
        lines.append("divergence: the same model twice, so nothing should differ")
    return lines


def _model_name(session: DivergenceSession, one: Given) -> str:
    """A spec without secrets, also where no model can be found by it."""
    from pytest_divergence.core.errors import DivergenceError
    from pytest_divergence.core.safe_text import safe_line
    from pytest_divergence.models.specs import parse_spec

    try:
        name = str(parse_spec(one.value, role="", root=session.config.invocation_params.dir))
    except DivergenceError:
        name = one.value if "://" not in one.value else "[a URL]"
    return safe_line(name)[1:-1]


def _setting(session: DivergenceSession, field: str) -> str:
    from pytest_divergence.core.safe_text import safe_line

    one = session.given.get(field, Given("auto", DEFAULT))
    return f"{SHOWN_SETTINGS[field]} {safe_line(one.value, 40)[1:-1]} ({one.source})"
