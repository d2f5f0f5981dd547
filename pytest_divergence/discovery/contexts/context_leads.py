"""Leads under contexts: what recurs in the candidate's answers under one, and hardly without it.

Under each context that stands out, both models answer controls greedily; leads are named in these
answers as in those of a search. Does not know how a lead is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_divergence.core.contexts import Context
from pytest_divergence.core.settings import MetricName
from pytest_divergence.discovery.behaviours.answers import AnsweredPrompt
from pytest_divergence.discovery.behaviours.descriptions import shown_by
from pytest_divergence.discovery.behaviours.hypotheses import (
    Hypothesis,
    core_of,
    hypotheses_in,
    is_alike,
    with_reach,
)
from pytest_divergence.discovery.engines.base import Ledger, WorkUnit
from pytest_divergence.discovery.proposals import Proposal
from pytest_divergence.discovery.scored_proposals import ScoredProposal, rows_of_proposals

NUM_ASKED = 24
"""Controls that both models answer under a context, to name leads."""
MAX_PLAIN_SHARE = 0.25
"""Times as often as under the context that controls may show a lead without it, at most."""
MAX_LOOKS = 4
"""Times that phrases which plain answers have too are cut out, to see what stands behind them."""
STRATEGY = "contexts"


@dataclass(frozen=True)
class ContextLead:
    """A lead of the answers under a context, and the controls that they show it on."""

    context: Context
    hypothesis: Hypothesis
    showing: tuple[ScoredProposal, ...]
    """Controls whose greedy answers show it, the clearest first."""


def leads_under(
    ledger: Ledger,
    contexts: Sequence[Context],
    controls: Sequence[AnsweredPrompt],
    *,
    metric: MetricName,
    length: int,
) -> list[ContextLead]:
    """Ask the first controls under each context, a work unit each; return the best lead of each.

    `controls` have plain answers. A lead of several contexts is tested once, under the one in which
    most controls show it.
    """
    plain = controls[:NUM_ASKED]
    texts = [control.prompt for control in plain]
    units = [_unit(context, texts, metric, length) for context in contexts]
    found = list[ContextLead]()
    for context, rows in zip(contexts, ledger.results(units), strict=True):
        scored = [ScoredProposal.from_row(row) for row in rows]
        ledger.spent.prompts_scored += len(scored)
        lead = best_lead([each.answered for each in scored], plain)
        if lead is None:
            continue
        places = {each.proposal.text: each for each in scored}
        shown = shown_by(lead, [each.answered for each in scored])
        showing = tuple(places[each.prompt] for each in shown)
        alike = [known for known in found if is_alike(lead, known.hypothesis)]
        if all(len(known.showing) < len(showing) for known in alike):
            found = [known for known in found if known not in alike]
            found.append(ContextLead(context, lead, showing))
    return found


def best_lead(
    answered: Sequence[AnsweredPrompt], plain: Sequence[AnsweredPrompt]
) -> Hypothesis | None:
    """Return what most answers under a context show, and plain ones to the same prompts hardly.

    A phrase goes before a trait that not even twice as many show, because it says more. None where
    nothing recurs.
    """
    known = list[str]()
    leads = list[Hypothesis]()
    for _ in range(MAX_LOOKS):
        found = hypotheses_in(answered, without=known)
        leads = [each for each in found if not _is_plain(each, plain)]
        hiding = [each for each in found if each.motifs and each not in leads]
        if not hiding:
            break
        known += [text for each in hiding for text in (each.name, *each.motifs)]
    if not leads:
        return None
    most = max(len(each.prompts) for each in leads)
    best = max(
        leads,
        key=lambda each: (bool(each.motifs) and 2 * len(each.prompts) > most, len(each.prompts)),
    )
    core = core_of(best, answered)
    return with_reach(core, shown_by(core, answered))


def _is_plain(hypothesis: Hypothesis, plain: Sequence[AnsweredPrompt]) -> bool:
    """Whether answers without the context show it more than a quarter as often."""
    count = sum(map(hypothesis.is_shown_on, plain))
    return count > MAX_PLAIN_SHARE * len(hypothesis.prompts)


def _unit(context: Context, texts: Sequence[str], metric: MetricName, length: int) -> WorkUnit:
    return WorkUnit.of(
        "contexts/answers",
        rows_of_proposals,
        proposals=[Proposal(text, STRATEGY, seed=text) for text in texts],
        metric=metric,
        length=length,
        context=context,
    )
