"""An answer token by token: how much the models differ there, and what each would have said.

Knows one case's tokens, and the lines that the page's script reads again.
"""

from __future__ import annotations

from bisect import bisect_right

from markupsafe import Markup

from pytest_divergence.core.report import ReportCase, TokenComparison
from pytest_divergence.reports import charts, wording
from pytest_divergence.reports.wording import likelihood, nats, probability

LEVELS = (0.02, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)
"""Nats at which a token's colour changes."""
NUM_ALTERNATIVES = 5
MAX_TOKEN = 200
"""Characters of one token that the page shows."""


def level(token: TokenComparison, case: ReportCase) -> int:
    """Which colour a token has, 0 for none."""
    return bisect_right(LEVELS, wording.token_kl(token, _metric(case)))


def token_text(text: str) -> str:
    """A token in running text: its line breaks marked, nothing of it invisible."""
    return text.replace("\n", "↵\n") or "∅"


def tip(position: int, token: TokenComparison) -> str:
    """What both models think at a token: four lines, whose parts are set apart by tabs.

    A tab of a token itself is shown as what it is, so that the parts can be told.
    """
    lines = [
        [f"token {position}", f"“{_short(token.text, 40)}”"],
        [f"KL forward {nats(token.forward_kl)}", f"reverse {nats(token.reverse_kl)}"],
    ]
    for name, p, top in (
        ("reference", token.reference_p, token.reference_top),
        ("candidate", token.candidate_p, token.candidate_top),
    ):
        lines.append([name, likelihood(p), *(_rival(*one) for one in top[:NUM_ALTERNATIVES])])
    return "\n".join("\t".join(parts) for parts in lines)


def most_telling(case: ReportCase) -> int:
    """The position, from 1, that the page shows first: where the candidate's choice is oddest."""
    worst = wording.worst_tokens(case.tokens, _metric(case))
    return max(worst, key=lambda pair: pair[1].reverse_kl)[0] if worst else 1


def profile(case: ReportCase) -> Markup:
    """The case's tokens as a chart."""
    return charts.profile([wording.token_kl(token, _metric(case)) for token in case.tokens])


def _rival(text: str, p: float) -> str:
    """`0.42  has`: the probability, a blank, the token."""
    return f"{probability(p).replace('< ', '<')} {_short(text, 24)}"


def _short(text: str, limit: int) -> str:
    return wording.visible(text[:limit]) + ("…" if len(text) > limit else "")


def _metric(case: ReportCase) -> str | None:
    return case.kl.metric if case.kl else None
