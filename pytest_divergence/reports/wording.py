"""Words that all views of a run share: the verdict, numbers with their units, the order of cases.

Knows the report; does not know whether a terminal, a browser or a Markdown file shows it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import PurePath

from pytest_divergence.core.behaviours import Behaviour, gates
from pytest_divergence.core.cases import NATS_PER_TOKEN, quantity
from pytest_divergence.core.evaluation_metrics import BUILT_IN_METRICS
from pytest_divergence.core.provenance import Bound
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.report import (
    Calibration,
    Check,
    Difference,
    Report,
    ReportCase,
    TokenComparison,
    Verdict,
)
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.setting_descriptions import DESCRIPTIONS
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Settings

REPEATED = (
    "model_1",
    "model_2",
    "max_kl",
    "max_shift",
    "inconclusive",
    "metric",
    "fail_on",
    "chat_template",
    "system_prompt",
    "template_arg",
    "device",
    "dtype",
    "seed",
)
"""Settings that a command for one test repeats."""
REPEATABLE = {description.field for description in DESCRIPTIONS if description.is_repeatable}
"""Settings whose text has a value a line."""
ENOUGH_POWER = 0.8
Suite = str | Mapping[str, Sequence[str]] | None
"""The path of a report's suite, or of the suites of each case and behaviour by its id."""
STYLE_TITLE = "How it answers"
"""Title of the block of style changes."""


def nats(value: float) -> str:
    """A divergence with as many digits as are useful."""
    if value == 0 or abs(value) >= 0.001:
        return f"{value:.3f}"
    return f"{value:.6f}" if abs(value) >= 1e-6 else f"{value:.0e}"


def compared(value: float, limit: float) -> tuple[str, str]:
    """Both numbers, with enough digits to show that they differ."""
    for shown in (nats, "{:.6f}".format):
        if shown(value) != shown(limit):
            return shown(value), shown(limit)
    return (nats(value), nats(limit)) if value == limit else (f"{value:.9g}", f"{limit:.9g}")


def probability(value: float) -> str:
    """A probability; a small one does not look like zero."""
    if value >= 0.01:
        return f"{value:.2f}"
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def likelihood(value: float) -> str:
    """`p = 0.97`, `p < 0.0001`: a probability in a sentence."""
    shown = probability(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def duration(seconds: float) -> str:
    """`0.4 s`, `92 s`, `12 min 5 s`, `2 h 10 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def asserted(report: Report) -> list[ReportCase]:
    """The cases that are tested, the most divergent first."""
    return _worst_first([case for case in report.cases if not case.off_distribution])


def set_apart(report: Report) -> list[ReportCase]:
    """The off-distribution cases, the most divergent first."""
    return _worst_first([case for case in report.cases if case.off_distribution])


def unpassed(report: Report, *verdicts: Verdict) -> list[Check]:
    """The items beside the cases that have one of the verdicts, or by default did not pass."""
    wanted = verdicts or ("failed", "error", "inconclusive")
    return [check for check in report.checks if check.verdict in wanted]


def is_of_texts(report: Report) -> bool:
    """Whether answers were compared as texts, so that nothing is in nats."""
    return any(case.kl is None and case.verdict in ("passed", "failed") for case in report.cases)


def failed(report: Report) -> list[ReportCase]:
    """The tested cases over their bound, the most divergent first."""
    return [case for case in asserted(report) if case.verdict == "failed"]


def unaccepted(report: Report) -> list[Behaviour]:
    """The confirmed behaviours that fail: of those that `fail_on` names, and not accepted."""
    fail_on = str(report.settings.get("fail_on", "content"))
    return [behaviour for behaviour in report.behaviours if gates(behaviour, fail_on)]


def put_aside(report: Report) -> list[Behaviour]:
    """The confirmed style changes that do not fail, though nobody has accepted them."""
    fail_on = str(report.settings.get("fail_on", "content"))
    return [
        behaviour
        for behaviour in report.behaviours
        if behaviour.confirmed and behaviour.is_style and not behaviour.accepted
        if not gates(behaviour, fail_on)
    ]


def spelled(unit: str) -> str:
    """`nats/token` as words of a sentence: nats per token."""
    return unit.replace("/", " per ")


def scale(report: Report) -> str:
    """The quantity that a run measures, and its unit: `KL, nats/token`."""
    name = str(report.settings.get("metric") or BUILT_IN_METRICS[0])
    return f"{quantity(name)}, {report.calibration.unit}"


def noise(report: Report) -> str | None:
    """The noise floor with its unit, in the run's metric if possible; None if not measured."""
    floor = report.calibration.noise_floor
    if floor is None:
        return None
    metric = str(report.settings.get("metric") or BUILT_IN_METRICS[0])
    own = floor.of(metric)
    value, unit = (floor.value, NATS_PER_TOKEN) if own is None else (own, floor.unit_of(metric))
    return (
        f"noise floor: {nats(value)} {visible(unit)}, the largest of "
        f"{number_of(floor.num_measurements, 'measurement')} of a model against itself"
    )


def counts(report: Report) -> list[str]:
    """`4 failed`, `1 passed`, …: the verdicts that occur."""
    verdicts = [case.verdict for case in asserted(report)]
    shown = [
        f"{verdicts.count(verdict)} {words}"
        for verdict, words in (
            ("failed", "failed"),
            ("passed", "passed"),
            ("error", "not measured"),
            ("inconclusive", "inconclusive"),
        )
        if verdict in verdicts
    ]
    if apart := len(set_apart(report)):
        shown.append(f"{apart} set apart (unnatural text, not tested)")
    return shown or ["none"]


def bound_parts(bound: Bound) -> list[tuple[str, str]]:
    """Name and value of each part of the bound, the largest first; empty if it has only one."""
    if len(bound.parts) < 2:
        return []
    parts = sorted(bound.parts.items(), key=lambda part: -part[1])
    return [(name.replace("_", " "), nats(value)) for name, value in parts]


def among_controls(value: float, calibration: Calibration) -> str | None:
    """Count the controls that read as much as a value; None if none was measured."""
    shift = calibration.typical_shift
    if shift is None or not shift.values:
        return None
    total = len(shift.values)
    as_high = sum(control >= value for control in shift.values)
    if as_high == 0:
        return f"fewer than 1 in {number_of(total, 'control')} reads as much"
    return f"{as_high} of {number_of(total, 'control')} read{'s' * (as_high == 1)} as much"


def token_kl(token: TokenComparison, metric: str | None) -> float:
    """The divergence at a position: the metric's direction, else the mean of both directions."""
    if metric == "forward":
        return token.forward_kl
    if metric == "reverse":
        return token.reverse_kl
    return (token.forward_kl + token.reverse_kl) / 2


def worst_tokens(
    tokens: Sequence[TokenComparison], metric: str | None, limit: int = 5
) -> list[tuple[int, TokenComparison]]:
    """The positions, from 1, where the models differ most, in the text's order."""
    numbered = [(i, token) for i, token in enumerate(tokens, 1) if token_kl(token, metric) > 0]
    worst = sorted(numbered, key=lambda pair: -token_kl(pair[1], metric))
    return sorted(worst[:limit], key=itemgetter(0))


def differences(report: Report) -> list[Difference]:
    """The types of difference that at least one answer shows."""
    return [
        difference
        for difference in report.differences
        if difference.candidate_count or difference.reference_count
    ]


def difference_p(difference: Difference) -> str:
    """The p-value of a type of difference; `-` where its count is not tested."""
    return "-" if difference.p_value is None else probability(difference.p_value)


def untested(differences: Sequence[Difference]) -> str | None:
    """Say which count is not tested, and why; None if each is."""
    names = [difference.name for difference in differences if difference.p_value is None]
    if not names:
        return None
    return f"No p-value for “{names[0]}”: its phrases were chosen in these answers."


def shrinkage(report: Report) -> str | None:
    """Compare the second measurement of the cases with the search's; None if there was none."""
    kept = report.case_set.shrinkage if report.case_set else None
    if kept is None:
        return None
    return f"measured again, the cases show {kept:.0%} of the divergence that the search measured"


def leads(report: Report) -> str | None:
    """State how many leads were watched and tested, and whether their mirror image holds too."""
    counts, first = report.leads, report.first_lead
    if counts is None:
        return None
    seen = (
        ""
        if first is None
        else (
            f"; the first was named after {duration(first.seconds)} and "
            f"{number_of(first.tokens_forwarded, 'forwarded token')}"
        )
    )
    return (
        f"{number_of(counts.watched, 'lead')} watched{seen}; {counts.tested} tested together at "
        f"{counts.level:.0%}: {judged(report)}"
    )


def judged(report: Report) -> str | None:
    """State how many leads and decoys were confirmed; None if leads were not judged.

    `2 confirmed; the mirror image of the search confirmed 0`.
    """
    if report.leads is None:
        return None
    confirmed = sum(behaviour.confirmed for behaviour in report.behaviours)
    decoys = report.leads.decoys_confirmed
    if decoys is None:
        return f"{confirmed} confirmed; no decoy could be tested"
    return f"{confirmed} confirmed; the mirror image of the search confirmed {decoys}"


def power(report: Report) -> str | None:
    """State how many named leads the tests confirm, by the share of answers that show them.

    None if it was not computed.
    """
    if not report.power:
        return None
    shares = ", ".join(f"{point.share:.0%}" for point in report.power)
    kept = ", ".join(_most(point.power) for point in report.power)
    return f"of the leads that {shares} of answers show, tests confirm {kept}"


def power_in_short(report: Report) -> str | None:
    """State the power at the smallest share of answers with enough; None if not computed.

    `of leads that 2 in 10 answers show, 93% are confirmed`.
    """
    enough = [point for point in report.power or () if point.power >= ENOUGH_POWER]
    if not enough:
        return None
    first = min(enough, key=lambda point: point.share)
    return f"of leads that {_ratio(first.share)} answers show, {_most(first.power)} are confirmed"


def effort(report: Report) -> str:
    """The cost of the run; a replay counts no tokens."""
    spent = report.effort
    facts = [f"{number_of(spent.prompts_scored, 'prompt')} scored"]
    if spent.tokens_forwarded:
        facts.append(f"{number_of(spent.tokens_forwarded, 'token')} forwarded")
    return ", ".join([*facts, duration(spent.seconds)])


def effort_by_kind(report: Report) -> str | None:
    """The forwarded tokens by kind of work, in the order of the run; None if not counted."""
    if not report.effort.tokens_by_kind:
        return None
    return ", ".join(
        f"{visible(kind)} {tokens:,}" for kind, tokens in report.effort.tokens_by_kind.items()
    )


def accept_command(behaviour_id: str, suite: Suite) -> str:
    """The command that marks a behaviour as intended."""
    path = next(iter(_suites_of(behaviour_id, suite)), "SUITE")
    return shlex.join(["pytest-divergence", "accept", behaviour_id, path])


def rerun_command(target: str | None, given: Mapping[str, object], *more: str) -> str:
    """Return the command that runs tests again as they ran; `given` holds settings by field."""
    words = ["pytest"] if target is None else ["pytest", target]
    for field in REPEATED:
        texts = _texts(field, given.get(field))
        words += [word for text in texts for word in _option(field, text)]
    return shlex.join([*words, *more])


def case_command(
    report: Report, case_id: str, suite: Suite, given: Mapping[str, object] | None = None
) -> str:
    """Return the command that tests one case again, in `suite` or the search's own.

    It repeats the settings `given`, by field, or without them those of the report.
    """
    given = _changed_settings(report) if given is None else given
    if not (suites := _suites_of(case_id, suite)):
        return rerun_command(None, given, "-k", case_id)
    first, *others = (f"{path}::{case_id}" for path in suites)
    return rerun_command(first, given, *others)


def _suites_of(id_: str, suite: Suite) -> Sequence[str]:
    """Return the paths of the suites that hold a case or behaviour; none if they are unknown."""
    if suite is None or isinstance(suite, str):
        return [suite] if suite else []
    return suite.get(id_, [])


def _most(share: float) -> str:
    """A share in percent; nearly all is not all."""
    return f"{share:.0%}" if share == 1 or share < 0.995 else "over 99%"


def _ratio(share: float) -> str:
    """`2 in 10`, `1 in 20`: a share in words."""
    tenths = round(10 * share)
    return f"{tenths} in 10" if abs(10 * share - tenths) < 1e-9 else f"1 in {round(1 / share)}"


def _option(field: str, value: str) -> list[str]:
    """Return the words of an option; a path that stood alone would be a place of the ini file."""
    name, path = setting(field), PurePath(value)
    is_outside = path.is_absolute() or path.parts[:1] == ("..",)
    return [f"{name}={value}"] if is_outside else [name, value]


def _changed_settings(report: Report) -> dict[str, object]:
    """Both models, and each setting that is not the default."""
    pair, defaults = report.pair, Settings().model_dump()
    repeated = {field: value for field, value in report.settings.items() if field in REPEATED}
    changed = {field: value for field, value in repeated.items() if value != defaults[field]}
    return {**changed, "model_1": pair.reference, "model_2": pair.candidate}


def _texts(field: str, value: object) -> list[str]:
    """Return a setting's value as the texts that give it: several if it is repeatable."""
    if isinstance(value, dict):
        shown = ((n, v if isinstance(v, str) else json.dumps(v)) for n, v in value.items())
        return [f"{name}={text}" for name, text in shown]
    if value is None:
        return []
    return str(value).split("\n") if field in REPEATABLE else [str(value)]


def _worst_first(cases: list[ReportCase]) -> list[ReportCase]:
    return sorted(cases, key=lambda case: (-(case.kl.value if case.kl else -1.0), case.id))
