"""Why a case or a behaviour fails: plain text, 80 columns, no colour needed.

Its first line says it all, since pytest repeats it in the short summary; the rest shows it and says
what to do next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, Measurement
from pytest_divergence.core.report import ReportCase, TokenComparison
from pytest_divergence.reports import wording
from pytest_divergence.reports.blocks import block, command, quoted, sentence
from pytest_divergence.reports.case_lines import (
    causes,
    comparison,
    every_token,
    labelled,
    parting,
    texts,
)
from pytest_divergence.reports.wording import nats, number_of

WIDTH = 80


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
    """Why a case failed.

    `suite` is the file that holds its bound, `update` the command that measures that file anew;
    `tokens` are of the candidate's answer in `case`. With a `verbosity` of 2 each of them is shown.
    """
    floor = "" if noise_floor is None else f" (noise floor {nats(noise_floor)})"
    shown_tokens = every_token if verbosity >= 2 else parting
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
        lines += command("or measure the whole suite anew", update, width=WIDTH, indent="  ")
    return "\n".join([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def behaviour_text(
    behaviour: Behaviour, *, log_ratio: float | None, limit: float, rerun: str, suite: str
) -> str:
    """Why a behaviour fails: what the candidate says, how often, on what, and how to accept it.

    `log_ratio` (nats) is what a replay measured on the telling continuation; None: just found.
    """
    lines = [f"the candidate shows a behaviour: {quoted(behaviour.name, WIDTH - 33)}"]
    lines += sentence(wording.evidence(behaviour), width=WIDTH, indent="  ")
    if log_ratio is not None and behaviour.telling is not None:
        lines += sentence(
            f"measured again: the answer that tells the models apart is {log_ratio:.1f} nats more "
            f"likely to the candidate (when found {behaviour.telling.log_ratio:.1f}; limit "
            f"{limit:.1f})",
            width=WIDTH,
            indent="  ",
        )
    lines += _example(behaviour)
    for label, prompt in causes(behaviour):
        lines += [f"  {label}", *block(prompt, width=WIDTH, indent="    ", limit=300, max_lines=3)]
    accept = wording.accept_command(behaviour.id, suite)
    lines += command("intended? accept it", accept, width=WIDTH, indent="  ")
    return "\n".join([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def _example(behaviour: Behaviour) -> Iterator[str]:
    for example in behaviour.examples[:1]:
        for label, text in (
            ("prompt", example.prompt),
            ("reference", example.reference),
            ("candidate", example.candidate),
        ):
            yield f"  {label}"
            yield from block(text, width=WIDTH, indent="    ")


def _measured(measurement: Measurement) -> list[str]:
    stored = " (stored)" if measurement.estimator == "stored" else ""
    text = (
        f"{measurement.metric}, "
        f"{number_of(measurement.num_continuations, 'continuation')} of each model{stored}, "
        f"{number_of(measurement.num_tokens, 'token')}; forward {nats(measurement.forward)}, "
        f"reverse {nats(measurement.reverse)}, largest at one token {nats(measurement.max_token)}"
    )
    return sentence(text, width=WIDTH, indent="  ")
