"""Lines on one case or behaviour, the same in a failure and in the summary.

Knows words and lines; does not know which of them a view shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, quantity
from pytest_divergence.core.report import TokenComparison
from pytest_divergence.reports import wording
from pytest_divergence.reports.blocks import block, columns, quoted
from pytest_divergence.reports.wording import likelihood, nats, probability, visible

NUM_ALTERNATIVES = 3
"""What each model would rather have said, at most, at one token."""


def comparison(value: float, max_kl: float, metric: str, unit: str) -> str:
    """A case's value beside its bound."""
    shown, limit = wording.compared(value, max_kl)
    relation = ">" if value > max_kl else "<="
    return f"{quantity(metric)} {shown} {visible(unit)} {relation} max_kl {limit}"


def labelled(label: str, text: str, width: int) -> list[str]:
    """A label and a name that may be long: on one line where both fit."""
    line = f"{label} {visible(text)}"
    return [line] if columns(line) <= width else [label, f"    {visible(text)}"]


def texts(case: Case, *, width: int, indent: str, limit: int, max_lines: int) -> Iterator[str]:
    """The prompt, and what both models answer, each as a block."""

    def shown(text: str) -> list[str]:
        return block(text, width=width, indent=indent + "  ", limit=limit, max_lines=max_lines)

    is_chat = len(case.turns) > 1
    for turn in case.turns:
        yield f"{indent}prompt ({turn.role})" if is_chat else f"{indent}prompt"
        yield from shown(turn.content)
    if case.completions is not None:
        yield f"{indent}reference"
        yield from shown(case.completions.reference)
        yield f"{indent}candidate"
        yield from shown(case.completions.candidate)


def parting(
    tokens: Sequence[TokenComparison], metric: str, *, width: int, indent: str
) -> Iterator[str]:
    """The tokens of the candidate's answer at which the models differ most."""
    for rank, (position, token) in enumerate(wording.worst_tokens(tokens, metric)):
        start = f"{indent}{'they part at' if rank == 0 else 'then at'} token {position} "
        end = (
            f": reference {likelihood(token.reference_p)},"
            f" candidate {likelihood(token.candidate_p)}"
        )
        yield start + quoted(token.text, width - len(start + end)) + end
        if token.reference_top and token.reference_top[0][0] != token.text:
            favourite, share = token.reference_top[0]
            end = f" ({likelihood(share)})"
            yield f"{indent}  the reference's first choice is {quoted(favourite, 24)}{end}"


def every_token(
    tokens: Sequence[TokenComparison], metric: str, *, width: int, indent: str
) -> Iterator[str]:
    """Each token of the candidate's answer, and what either model would rather have said."""
    if tokens:
        yield f"{indent}token by token of the candidate's answer, KL in nats"
    for position, token in enumerate(tokens, 1):
        start = f"{indent}  {position:>2} "
        end = (
            f": KL {nats(wording.token_kl(token, metric))}, reference "
            f"{likelihood(token.reference_p)}, candidate {likelihood(token.candidate_p)}"
        )
        yield start + quoted(token.text, width - len(start + end)) + end
        for name, likeliest in (
            ("reference", token.reference_top),
            ("candidate", token.candidate_top),
        ):
            yield from _alternatives(f"{indent}       {name} ", likeliest, width)


def causes(behaviour: Behaviour) -> list[tuple[str, str]]:
    """The shortest prompt that shows a behaviour and the nearest that does not, with labels."""
    named = (
        ("shortest prompt found that shows it", behaviour.shortest_cause),
        ("nearest prompt found that does not", behaviour.nearest_non_cause),
    )
    return [(label, prompt) for label, prompt in named if prompt is not None]


def _alternatives(start: str, likeliest: Sequence[tuple[str, float]], width: int) -> Iterator[str]:
    """On one line, as many as fit into it."""
    line = start
    for index, (text, share) in enumerate(likeliest[:NUM_ALTERNATIVES]):
        piece = f"{', ' if index else ''}{quoted(text, 16)} {probability(share)}"
        if columns(line + piece) > width:
            break
        line += piece
    if line != start:
        yield line
