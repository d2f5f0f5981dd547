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
from pytest_divergence.reports.behaviours import (
    context_lines,
    facts,
    kind,
    style_line,
    training_rows,
)
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
    lines = case_lines(case, measurement, max_kl, noise_floor, tokens, verbosity)
    lines += labelled("  intended? raise this case's max_kl in", suite, WIDTH)
    if update is not None:
        lines += command("or measure the whole suite again", update, width=WIDTH, indent="  ")
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def case_lines(
    case: ReportCase | Case,
    measurement: Measurement,
    max_kl: float,
    noise_floor: float | None,
    tokens: Sequence[TokenComparison],
    verbosity: int = 0,
) -> list[str]:
    """A case beside its bound: the prompt, both answers, and the tokens that tell them apart."""
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
    return lines


def behaviour_text(
    behaviour: Behaviour, *, retelling: Retelling | None, rerun: str, suite: str
) -> str:
    """Explain why a behaviour fails: what the candidate says, how often, and how to accept it.

    `retelling` is a replay's measurement; None after a search.
    """
    lines = behaviour_lines(behaviour, retelling)
    accept = wording.accept_command(behaviour.id, suite)
    lines += command("intended? accept it", accept, width=WIDTH, indent="  ")
    return _joined([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def behaviour_lines(behaviour: Behaviour, retelling: Retelling | None = None) -> list[str]:
    """Tell what the candidate says, how often and when, and show a prompt with both answers."""
    said = (
        f"the candidate {style_line(behaviour, WIDTH - 14)}"
        if behaviour.is_style
        else f"the candidate shows a behaviour: {quoted(behaviour.title, WIDTH - 33)}"
    )
    lines = [said, *behaviour_details(behaviour, width=WIDTH, indent="  ", is_verbose=True)]
    if retelling is not None:
        lines += sentence(measured_again(behaviour, retelling), width=WIDTH, indent="  ")
    return lines


def telling_words(behaviour: Behaviour) -> Iterator[str]:
    """The words that give a behaviour away, and how much likelier the candidate says them.

    Those of the prompt that stands for it, else the most telling ones.
    """
    found = behaviour.natural_example or next(iter(behaviour.examples), None)
    shown = found and found.prompt
    told = sorted(behaviour.telling, key=lambda answer: answer.prompt == shown)
    for answer in told[-1:]:
        yield f"  telling words, {answer.log_ratio:.1f} nats likelier from the candidate"
        yield from block(answer.text, width=WIDTH, indent="    ", limit=300, max_lines=3)


def behaviour_details(
    behaviour: Behaviour, *, width: int, indent: str, is_verbose: bool
) -> Iterator[str]:
    """Facts on a behaviour, a natural prompt with both answers, and the least that shows it.

    If `is_verbose`, also its kind, and the nearest prompt that does not show it.
    """
    for label, text in facts(behaviour):
        yield from sentence(f"{label}: {text}", width=width, indent=indent)
    yield from (f"{indent}{line}" for line in context_lines(behaviour, width - len(indent)))
    judged = kind(behaviour) if is_verbose else None
    for known in (judged, training_rows(behaviour)):
        yield from sentence(known or "", width=width, indent=indent)
    yield from _example(behaviour, width, indent)
    for label, prompt in causes(behaviour):
        if is_verbose or prompt == behaviour.shortest_cause:
            line = f"{indent}{label}: "
            yield line + quoted(prompt, width - len(line))


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
    """The least that shows a behaviour and the nearest prompt that doesn't, with labels."""
    named = (
        ("even this is enough", behaviour.shortest_cause),
        ("but not this", behaviour.nearest_non_cause),
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


def _example(behaviour: Behaviour, width: int, indent: str) -> Iterator[str]:
    """The natural prompt that stands for a behaviour, else the first that shows it."""
    natural = behaviour.natural_example
    found = [natural] if natural else behaviour.examples[:1]
    label = "prompt"
    if natural:
        label = f"prompt, which shows it {natural.shown_count} times of {natural.num_answers}"
    elif behaviour.confirmed and behaviour.content and behaviour.context is None:
        label = "no natural prompt was found; this shows it"
    for example in found:
        for name, text in (
            (label, example.prompt),
            ("reference", example.reference),
            ("candidate", example.candidate),
        ):
            yield f"{indent}{name}"
            yield from block(text, width=width, indent=f"{indent}  ", limit=300, max_lines=4)


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
