"""`pytest-divergence push`: a suite as a dataset on the Hub."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from pytest_divergence.cli._output import say, say_lines
from pytest_divergence.core.file_names import from_here
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.suites import read_suite
from pytest_divergence.exports.hub import Upload, prepare, push
from pytest_divergence.reports.dataset_card import card_text


def run(given: Namespace) -> int:
    """Push, or with --dry-run show what a push would change."""
    stored = read_suite(given.suite)
    upload = prepare(given.suite, given.dataset, card_text(stored, given.dataset))
    say_lines(_lines(upload, given))
    if given.dry_run:
        say_lines(["", *upload.card.splitlines()])
        return 0
    address = push(upload, is_private=given.private)
    say(f"pushed: {address}")
    say(f"replay it: pytest hf:{given.dataset} --model-1 … --model-2 …")
    return 0


def _lines(upload: Upload, given: Namespace) -> Iterator[str]:
    verb = "would be pushed" if given.dry_run else "to push"
    yield f"{verb} to the dataset {upload.dataset}, from {from_here(given.suite.parent)}:"
    for name, data in upload.files.items():
        yield f"  {name:<40} {number_of(len(data), 'byte'):>16}"
    for name in upload.deleted:
        yield f"  {name:<40} {'deleted':>16}"
    if given.private:
        yield "A dataset that is made for it is private."
    else:
        yield (
            "Prompts, answers and model names in it can be read by all who can read the dataset; "
            "--private makes a new one private."
        )
