"""Counts, and estimates of memory and time, in words with no more digits than they have."""

from __future__ import annotations


def amount(num_bytes: int) -> str:
    """`40 MB`, `1.3 GB`, `22 GB`: decimal, as few digits as an estimate has."""
    if num_bytes < 950_000_000:
        return f"{max(1, round(num_bytes / 1e6))} MB"
    value = num_bytes / 1e9
    return f"{value:.1f} GB" if value < 9.95 else f"{value:.0f} GB"


def roughly(seconds: float) -> str:
    """`10 s`, `80 s`, `3 min`, `2.5 h`: no more digits than an estimate has."""
    if seconds < 95:
        return f"{max(10, round(seconds, -1)):.0f} s"
    if seconds < 95 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def number_of(count: int, noun: str, nouns: str | None = None) -> str:
    """`1 case`, `1,234 cases`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"
