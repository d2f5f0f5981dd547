"""Two models on given prompts, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from pytest_divergence.core.evaluation_record import Evaluation
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import visible
from pytest_divergence.reports.wording import difference_p, nats, untested


def evaluation_view(evaluation: Evaluation) -> Group:
    """The whole evaluation: tables of prompts, of types of difference, and of diversity."""
    return Group(
        _text(f"model 1: {evaluation.model_1}"),
        _text(f"model 2: {evaluation.model_2}"),
        prompt_table(evaluation),
        *map(_text, _legend(evaluation)),
        _difference_table(evaluation),
        _diversity_table(evaluation),
    )


def prompt_table(evaluation: Evaluation) -> Table:
    """One row a prompt, the most divergent first."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=1)
    columns = {"KL": "kl_divergence", "same top": "same_top_share"}
    if evaluation.ordinary is not None:
        columns = {"KL": "kl_divergence", "above": "effectiveness", "same top": "same_top_share"}
    columns |= {"ppl 1": "perplexity_1", "ppl 2": "perplexity_2", "dist-2": "distinct_2"}
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in evaluation.by_divergence:
        cells = (_cell(name, row.metrics.get(name)) for name in columns.values())
        table.add_row(_text(row.prompt), *cells)
    return table


def _text(text: str) -> Text:
    """`text` without markup or workflow commands, which rich may wrap to the start of a line."""
    return Text(visible(text).replace("::", r":\u{3a}"))


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    if name in ("kl_divergence", "effectiveness"):
        return nats(value)
    if value < 100:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value < 1e5 else f"{value:.0e}"  # a perplexity has no upper limit


def _legend(evaluation: Evaluation) -> Iterator[str]:
    yield f"KL: {visible(evaluation.metric)}, nats per token."
    ordinary = evaluation.ordinary
    if ordinary is not None:
        yield (
            f"above: KL minus the mean of {number_of(ordinary.num_prompts, 'ordinary prompt')}, "
            f"{nats(ordinary.mean)}."
        )
    yield "same top: share of positions where both models prefer the same token."
    yield "ppl: perplexity under each model."
    yield "dist-2: share of distinct word pairs in what model 2 wrote."
    if ordinary is None:
        return
    more = sum(row.metrics["kl_divergence"] > ordinary.max for row in evaluation.prompts)
    yield (
        f"{more} of {number_of(len(evaluation.prompts), 'prompt')} are above every ordinary one "
        f"({nats(ordinary.max)})."
    )


def _difference_table(evaluation: Evaluation) -> Table | Text | Group:
    shown = [
        difference
        for difference in evaluation.differences
        if difference.candidate_count or difference.reference_count
    ]
    if not shown:
        return Text("\nno type of difference on any prompt")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("type of difference")
    for heading in ("model 2 only", "model 1 only", "prompts", "p"):
        table.add_column(heading, justify="right")
    for difference in shown:
        counts = (difference.candidate_count, difference.reference_count, difference.num_prompts)
        table.add_row(_text(difference.name), *map(str, counts), difference_p(difference))
    note = untested(shown)
    return Group(table, _text(note)) if note is not None else table


def _diversity_table(evaluation: Evaluation) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("diversity of")
    for heading in ("distinct-1", "distinct-2", "self-similarity"):
        table.add_column(heading, justify="right")
    for name, diversity in (
        ("prompts", evaluation.prompt_diversity),
        ("model 1's generations", evaluation.diversity_1),
        ("model 2's generations", evaluation.diversity_2),
    ):
        values = (diversity.distinct_1, diversity.distinct_2, diversity.self_similarity)
        table.add_row(name, *("-" if value is None else f"{value:.2f}" for value in values))
    return table
