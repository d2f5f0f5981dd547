"""Words for the divergence at single tokens: the rows that all views of a run show."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_divergence.core.cases import FULL
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.token_statistics import TokenStatistics
from pytest_divergence.reports.text_blocks import sentence

TITLE = "Tokens of ordinary answers, in llama.cpp's words"


def statistics_rows(found: TokenStatistics) -> list[tuple[str, str]]:
    """Name and value of each statistic; nats where no unit is given."""
    return [
        ("mean KLD", _with_error(found.mean_kld, found.mean_kld_se)),
        ("median KLD", _nats(found.median_kld)),
        ("90.0% KLD", _nats(found.p90_kld)),
        ("99.0% KLD", _nats(found.p99_kld)),
        ("99.9% KLD", _nats(found.p999_kld)),
        ("maximum KLD", _nats(found.max_kld)),
        ("RMS Δp", f"{100 * found.rms_delta_p:.3f} %"),
        ("same top p", f"{100 * found.same_top:.2f} %"),
        ("ln PPL ratio", _with_error(found.ln_ppl_ratio, found.ln_ppl_ratio_se)),
    ]


def statistics_scope(found: TokenStatistics) -> str:
    """Say how many tokens of which texts the numbers are about."""
    tokens, controls = (
        number_of(found.num_tokens, "token"),
        number_of(found.num_controls, "control"),
    )
    scope = f"{tokens} of both models' answers to {controls}; ln PPL ratio: the reference's alone"
    if found.evidence == FULL:
        return scope
    return f"{scope}; KLD is estimated ({visible(found.evidence)})"


def statistics_lines(found: TokenStatistics, width: int) -> Iterator[str]:
    """Yield the block of a terminal: its title, a line a statistic, and what it is about."""
    yield f"{TITLE}:"
    for name, value in statistics_rows(found):
        yield f"  {name:<13} {value}"
    yield from sentence(f"({statistics_scope(found)})", width=width, indent="  ")


def _with_error(value: float, error: float | None) -> str:
    return _nats(value) if error is None else f"{_nats(value)} ± {_nats(error)}"


def _nats(value: float) -> str:
    """Six decimals, as llama.cpp prints: a good quantisation's median is below 0.001."""
    return f"{value:.6f}"
