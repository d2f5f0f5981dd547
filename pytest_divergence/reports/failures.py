"""Texts of failed cases and behaviours: plain text, 80 columns, no colour needed.

The first line says it all, since pytest repeats it in the short summary; the rest shows it and says
what to do next. The summary of a run shows some of the same parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_divergence.core.behaviours import MIN_RATE, Behaviour, Retelling
from pytest_divergence.core.cases import CHOSEN, FULL, Case, Measurement, quantity
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.report import ReportCase, TokenComparison
from pytest_divergence.core.safe_text import printable_lines, visible
from pytest_divergence.reports import wording
from pytest_divergence.reports.behaviours import context_lines, evidence, style_line, training_rows
from pytest_divergence.reports.text_blocks import (
    WIDTH,
    block,
    columns,
    command,
    quoted,
    sentence,
)
from pytest_divergence.reports.wording import likelihood, nats, probability

NUM_ALTERNATIVES = 3
"""Most alternatives of each model shown at a token."""


def failure_text(
    case: ReportCase | Case,
    *,
    measurement: Measurement,
    max_kl: float,
    noise_floor: float | None,
    tokens: Sequence[TokenComparison],
    rerun: str,
    suite: str,
    update: str | None = None,
    verbosity: int = 0,
) -> str:
    """Explain why a case failed.

    `suite` is the file that holds its bound, `update` the command that measures that file again;
    `tokens` belong to the candidate's answer in `case`. A `verbosity` of 2 shows each of them.
    """
    floor = "" if noise_floor is None else f" (noise floor {nats(noise_floor)})"
    shown_tokens = every_token if verbosity >= 2 else divergent_tokens
    lines = [
        comparison(measurement.value, max_kl, measurement.metric, measurement.unit) + floor,
        *_measured(measurement),
        *texts(case, width=WIDTH, indent="  ", limit=2000, max_lines=40),
        *shown_tokens(tokens, measurement.metric, width=WIDTH, indent="  "),
    ]
    if case.behaviour is not None:
        lines.append(f"  behaviour: {case.behaviour}")
    if case.category is not None:
        lines.append(f"  category: {quoted(case.category, WIDTH - 14)}")
    lines += labelled("  intended? raise this case's max_kl in", suite, WIDTH)
    if update is not None:
        lines += command("or measure the whole suite again", update, width=WIDTH, indent="  ")
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def behaviour_text(
    behaviour: Behaviour, *, retelling: Retelling | None, rerun: str, suite: str
) -> str:
    """Explain why a behaviour fails: what the candidate says, how often, and how to accept it.

    `retelling` is a replay's measurement; None after a search.
    """
    said = (
        f"the candidate {style_line(behaviour, WIDTH - 14)}"
        if behaviour.is_style
        else f"the candidate shows a behaviour: {quoted(behaviour.title, WIDTH - 33)}"
    )
    lines = [said, *sentence(evidence(behaviour), width=WIDTH, indent="  ")]
    lines += (f"  {line}" for line in context_lines(behaviour, WIDTH - 2))
    lines += sentence(training_rows(behaviour) or "", width=WIDTH, indent="  ")
    if retelling is not None:
        lines += sentence(measured_again(behaviour, retelling), width=WIDTH, indent="  ")
    lines += _example(behaviour)
    for label, prompt in causes(behaviour):
        lines += [f"  {label}", *block(prompt, width=WIDTH, indent="    ", limit=300, max_lines=3)]
    accept = wording.accept_command(behaviour.id, suite)
    lines += command("intended? accept it", accept, width=WIDTH, indent="  ")
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def measured_again(behaviour: Behaviour, found: Retelling) -> str:
    """Tell how much of a behaviour a replay still finds."""
    answers = number_of(len(behaviour.telling), "telling answer")
    text = (
        f"measured again on {answers}: {found.log_ratio:.1f} nats more likely under the candidate "
        f"({found.found:.1f} when found; gone below {found.limit:.1f})"
    )
    if found.rate is None:
        return text
    return f"{text}, said {found.rate:.0%} as often as then (gone below {MIN_RATE:.0%})"


def comparison(value: float, max_kl: float, metric: str, unit: str) -> str:
    """A case's value beside its bound."""
    shown, limit = wording.compared(value, max_kl)
    relation = ">" if value > max_kl else "<="
    return f"{quantity(metric)} {shown} {visible(unit)} {relation} max_kl {limit}"


def labelled(label: str, text: str, width: int) -> list[str]:
    """A label and a name, on one line if both fit."""
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


def divergent_tokens(
    tokens: Sequence[TokenComparison], metric: str, *, width: int, indent: str
) -> Iterator[str]:
    """The tokens of the candidate's answer at which the models differ most."""
    for rank, (position, token) in enumerate(wording.worst_tokens(tokens, metric)):
        start = f"{indent}{'they differ most at' if rank == 0 else 'and at'} token {position} "
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
    """Each token of the candidate's answer, with both models' preferred alternatives."""
    if tokens:
        yield f"{indent}the candidate's answer, token by token, KL in nats"
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
    """The shortest prompt that shows a behaviour and the nearest that doesn't, with labels."""
    named = (
        ("shortest prompt found that shows it", behaviour.shortest_cause),
        ("nearest prompt found that does not", behaviour.nearest_non_cause),
    )
    return [(label, prompt) for label, prompt in named if prompt is not None]


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(printable_lines(lines))


def _measured(measurement: Measurement) -> list[str]:
    stored = " (stored)" if measurement.estimator == "stored" else ""
    text = (
        f"{measurement.metric}, "
        f"{number_of(measurement.num_continuations, 'continuation')} of each model{stored}, "
        f"{number_of(measurement.num_tokens, 'token')}; {_parts(measurement)}"
    )
    return sentence(text, width=WIDTH, indent="  ")


def _parts(measurement: Measurement) -> str:
    """Its directions, or what a value is made of that is from the chosen tokens alone."""
    if measurement.evidence == CHOSEN and measurement.k3 is not None:
        return (
            "the stored value, plus the change of the chosen tokens' own value, which is "
            f"{nats(measurement.k3)} now: a server does not tell the probabilities of all tokens"
        )
    parts = (
        f"forward {nats(measurement.forward)}, reverse {nats(measurement.reverse)}, "
        f"largest at one token {nats(measurement.max_token)}"
    )
    _, _, num_told = (measurement.evidence or FULL).partition("head:")
    return f"{parts}, estimated from the {num_told} likeliest tokens" if num_told else parts


def _example(behaviour: Behaviour) -> Iterator[str]:
    for example in behaviour.examples[:1]:
        for label, text in (
            ("prompt", example.prompt),
            ("reference", example.reference),
            ("candidate", example.candidate),
        ):
            yield f"  {label}"
            yield from block(text, width=WIDTH, indent="    ")


def _alternatives(start: str, likeliest: Sequence[tuple[str, float]], width: int) -> Iterator[str]:
    """One line with as many alternatives as fit."""
    line = start
    for index, (text, share) in enumerate(likeliest[:NUM_ALTERNATIVES]):
        piece = f"{', ' if index else ''}{quoted(text, 16)} {probability(share)}"
        if columns(line + piece) > width:
            break
        line += piece
    if line != start:
        yield line
