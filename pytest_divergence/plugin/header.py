"""The lines of pytest's header: the pair and the main settings, each with its source.

Imports nothing heavy: models in an ini file are shown in every session.
"""

from __future__ import annotations

from pytest_divergence.core.errors import DivergenceError
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import public_value, visible
from pytest_divergence.models.specs import parse_spec
from pytest_divergence.plugin.options import DEFAULT, MODELS, PAIRS_INI, RawOption
from pytest_divergence.plugin.session import DivergenceSession

SHOWN_SETTINGS = {"profile": "profile", "max_kl": "bound", "mode": "mode"}
"""Settings that the header shows, each with its label."""

ENGINE = {"engine": "engine", "workers": "workers", "worker_gpus": "GPUs of a worker"}


def header_lines(session: DivergenceSession) -> list[str]:
    """Return the lines on the pair and on the number of pairs in `divergence_pairs`."""
    num_pairs = 0 if session.plan.is_explicit else len(session.config.getini(PAIRS_INI))
    more = [f"divergence: {number_of(num_pairs, 'pair')} from {PAIRS_INI}"]
    return [*_pair_lines(session), *(more if num_pairs else [])]


def _pair_lines(session: DivergenceSession) -> list[str]:
    if not session.has_models:
        return []
    names = [_model_name(session, session.given[field]) for field in MODELS]
    sources = [session.given[field].source for field in MODELS]
    lines = [
        f"divergence: reference {names[0]} ({sources[0]}), candidate {names[1]} ({sources[1]})",
        f"divergence: {', '.join(_setting(session, field) for field in _shown(session))}",
    ]
    if names[0] == names[1]:
        lines.append("divergence: the same model twice, so nothing should differ")
    return lines


def _shown(session: DivergenceSession) -> list[str]:
    """Return the settings to show; another engine than the usual one must be asked for."""
    return [*SHOWN_SETTINGS, *(field for field in ENGINE if field in session.given)]


def _model_name(session: DivergenceSession, spec: RawOption) -> str:
    """Return a spec without secrets, even if it names no model."""
    try:
        found = parse_spec(spec.value, role="", root=session.config.invocation_params.dir)
    except DivergenceError:
        return public_value(spec.value)
    return visible(str(found), 200)


def _setting(session: DivergenceSession, field: str) -> str:
    value = session.given.get(field, RawOption("auto", DEFAULT))
    label = {**SHOWN_SETTINGS, **ENGINE}[field]
    return f"{label} {visible(value.value, 40)} ({value.source})"
