"""The run and a failing case in a terminal: plain text, 80 columns, no colour needed.

Knows words and lines; does not know pytest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_divergence.core.behaviours import Behaviour
from pytest_divergence.core.cases import Case, Measurement
from pytest_divergence.core.report import Report, ReportCase, TokenComparison
from pytest_divergence.reports import wording
from pytest_divergence.reports.blocks import block, columns, command, quoted, sentence
from pytest_divergence.reports.wording import likelihood, nats, number_of, visible

WIDTH = 80


def summary_lines(
    report: Report,
    *,
    width: int = WIDTH,
    verbosity: int = 0,
    report_path: str,
    suite: str,
    is_tested: bool = True,
) -> list[str]:
    """The end of a run: outcome, behaviours, the worst cases, numbers, and where to look next.

    `verbosity` below 0 leaves only the outcome and the paths; above 0 shows every failed case.
    `is_tested` is False where no test ran.
    """
    lines = sentence(" ".join(wording.headline(report, is_tested=is_tested)), width=width)
    if verbosity >= 0:
        for section in (
            list(_behaviours(report, width)),
            list(_worst_cases(report, width, 3 if verbosity == 0 else None)),
            list(_errors(report, width)),
            list(_numbers(report, width)),
        ):
            lines += ["", *section] if section else []
    return [*lines, "", *_paths(report, width, report_path, suite)]


def failure_text(
    case: ReportCase | Case,
    *,
    measurement: Measurement,
    max_kl: float,
    noise_floor: float | None,
    tokens: Sequence[TokenComparison],
    rerun: str,
    suite: str,
) -> str:
    """Why a case failed: its first line says it all, the rest shows it."""
    lines = [
        _comparison(measurement.value, max_kl) + _floor(noise_floor),
        *_measured(measurement),
        *_texts(case, width=WIDTH, indent="  ", limit=2000, max_lines=40),
        *_parting(tokens, measurement.metric),
    ]
    if case.behaviour is not None:
        lines.append(f"  behaviour: {case.behaviour}")
    if case.category is not None:
        lines.append(f"  category: {quoted(case.category, WIDTH - 14)}")
    lines += _labelled("  intended? raise this case's max_kl in", suite, WIDTH)
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
    for example in behaviour.examples[:1]:
        for label, text in (
            ("prompt", example.prompt),
            ("reference", example.reference),
            ("candidate", example.candidate),
        ):
            lines += [f"  {label}", *block(text, width=WIDTH, indent="    ")]
    for label, prompt in _causes(behaviour):
        lines += [f"  {label}", *block(prompt, width=WIDTH, indent="    ", limit=300, max_lines=3)]
    accept = wording.accept_command(behaviour.id, suite)
    lines += command("intended? accept it", accept, width=WIDTH, indent="  ")
    return "\n".join([*lines, *command("rerun", rerun, width=WIDTH, indent="  ")])


def _comparison(value: float, max_kl: float) -> str:
    shown, limit = wording.compared(value, max_kl)
    return f"KL {shown} nats/token {'>' if value > max_kl else '<='} max_kl {limit}"


def _floor(noise_floor: float | None) -> str:
    return "" if noise_floor is None else f" (noise floor {nats(noise_floor)})"


def _labelled(label: str, text: str, width: int) -> list[str]:
    line = f"{label} {visible(text)}"
    return [line] if columns(line) <= width else [label, f"    {visible(text)}"]


def _measured(measurement: Measurement) -> list[str]:
    stored = " (stored)" if measurement.estimator == "stored" else ""
    text = (
        f"{measurement.metric}, "
        f"{number_of(measurement.num_continuations, 'continuation')} of each model{stored}, "
        f"{number_of(measurement.num_tokens, 'token')}; forward {nats(measurement.forward)}, "
        f"reverse {nats(measurement.reverse)}, largest at one token {nats(measurement.max_token)}"
    )
    return sentence(text, width=WIDTH, indent="  ")


def _texts(case: Case, *, width: int, indent: str, limit: int, max_lines: int) -> Iterator[str]:
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


def _parting(tokens: Sequence[TokenComparison], metric: str) -> Iterator[str]:
    for rank, (position, token) in enumerate(wording.worst_tokens(tokens, metric)):
        start = f"  {'they part at' if rank == 0 else 'then at'} token {position} "
        end = (
            f": reference {likelihood(token.reference_p)},"
            f" candidate {likelihood(token.candidate_p)}"
        )
        yield start + quoted(token.text, WIDTH - len(start + end)) + end
        if token.reference_top and token.reference_top[0][0] != token.text:
            favourite, share = token.reference_top[0]
            end = f" ({likelihood(share)})"
            yield f"    the reference's first choice is {quoted(favourite, 24)}{end}"


def _behaviours(report: Report, width: int) -> Iterator[str]:
    if report.behaviours:
        yield f"{number_of(len(report.behaviours), 'behaviour')} of the candidate:"
    for behaviour in wording.behaviours(report):
        yield from _behaviour(behaviour, width)


def _behaviour(behaviour: Behaviour, width: int) -> Iterator[str]:
    yield f"  {quoted(behaviour.name, width - 4)}"
    yield from sentence(wording.evidence(behaviour), width=width, indent="    ")
    for label, prompt in _causes(behaviour):
        yield f"    {label}:"
        yield from block(prompt, width=width, indent="      ", limit=300, max_lines=3)
    yield f"    id: {behaviour.id}"


def _causes(behaviour: Behaviour) -> list[tuple[str, str]]:
    named = (
        ("shortest prompt found that shows it", behaviour.shortest_cause),
        ("nearest prompt found that does not", behaviour.nearest_non_cause),
    )
    return [(label, prompt) for label, prompt in named if prompt is not None]


def _worst_cases(report: Report, width: int, limit: int | None) -> Iterator[str]:
    over = wording.failed(report)
    shown = over[:limit]
    if not shown:
        return
    many = f"The {len(shown)} most divergent" if len(shown) > 1 else "The most divergent"
    yield f"{many} of {number_of(len(over), 'failed case')}:"
    for case in shown:
        yield from _case(case, report, width)
    if len(over) > len(shown):
        yield f"  {len(over) - len(shown)} more in the report, or with -v"


def _case(case: ReportCase, report: Report, width: int) -> Iterator[str]:
    bound = report.calibration.bound
    max_kl = case.max_kl if case.max_kl is not None else bound.value if bound else None
    yield f"  {case.id}"
    if case.kl is not None:
        alone = f"KL {nats(case.kl.value)} nats/token"
        yield f"    {alone if max_kl is None else _comparison(case.kl.value, max_kl)}"
    yield from _texts(case, width=width, indent="    ", limit=300, max_lines=4)


def _errors(report: Report, width: int) -> Iterator[str]:
    if report.errors:
        yield f"{number_of(len(report.errors), 'error')} during the run:"
    for error in report.errors:
        yield f"  in {quoted(error.where, width - 6)}"
        yield from block(error.message, width=width, indent="    ", limit=600, max_lines=8)
    for case in wording.asserted(report):
        if case.verdict in ("error", "inconclusive"):
            words = "not measured" if case.verdict == "error" else "inconclusive"
            yield f"  {words}: {case.id}"
            if case.verdict_reason:
                reason = case.verdict_reason
                yield from block(reason, width=width, indent="    ", limit=600, max_lines=8)


def _numbers(report: Report, width: int) -> Iterator[str]:
    yield from sentence(f"cases: {', '.join(wording.counts(report))}", width=width)
    calibration = report.calibration
    if (bound := calibration.bound) is not None:
        provisional = " (provisional)" if bound.provisional else ""
        start = f"bound: {nats(bound.value)} nats/token{provisional}"
        yield from _labelled(f"{start},", bound.label, width) if bound.label else [start]
        for name, value in wording.bound_parts(bound):
            yield f"  {value:>8}  {visible(name)}"
    if (floor := calibration.noise_floor) is not None:
        yield from sentence(
            f"noise floor: {nats(floor.value)} nats/token, the largest of "
            f"{number_of(floor.num_measurements, 'measurement')} of the reference against itself",
            width=width,
        )
    if report.differences and (shown := wording.differences(report)):
        counts = ", ".join(
            f"{one.name} {one.candidate_count} : {one.reference_count}" for one in shown
        )
        total = number_of(report.differences[0].num_prompts, "prompt")
        yield from sentence(
            f"differences (candidate : reference, of {total}): {counts}", width=width
        )
    for text in (wording.shrinkage(report), wording.first_behaviour(report)):
        if text is not None:
            yield from sentence(text, width=width)
    effort = report.effort
    yield from sentence(
        f"{'replay' if report.run.mode == 'replay' else 'search'}: "
        f"{number_of(effort.prompts_scored, 'prompt')} scored, "
        f"{number_of(effort.tokens_forwarded, 'token')} forwarded, "
        f"{wording.duration(effort.seconds)}",
        width=width,
    )


def _paths(report: Report, width: int, report_path: str, suite: str) -> Iterator[str]:
    yield f"report: {visible(report_path)}"
    yield f"suite:  {visible(suite)}"
    tested = wording.asserted(report)
    if tested and report.run.status == "complete":
        rerun = wording.rerun_command(report, tested[0].id, suite)
        yield from command("run one case again", rerun, width=width, indent="")
