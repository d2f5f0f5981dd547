"""One search shared out to several machines: which of them does which work unit.

Knows names and files; does not know what a unit computes, nor how a search waits for another's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FORM = re.compile("([1-9][0-9]*)/([1-9][0-9]*)")
MARK = re.compile(r"\.shard-[1-9][0-9]*-of-[1-9][0-9]*$")


@dataclass(frozen=True)
class Shard:
    """One of `count` machines; `number` counts from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/3` is the second of three; raises ValueError for anything else."""
        found = FORM.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise ValueError(f"shard is {text!r}; it must be I/N with 1 <= I <= N, such as 1/2")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """As the option takes it."""
        return f"{self.number}/{self.count}"

    def sibling(self, number: int) -> Shard:
        """Another of the same machines."""
        return Shard(number, self.count)

    def owners(self, key: str, units: Sequence[str]) -> dict[str, Shard]:
        """Who does each of some units that are asked for together, in turns.

        Who begins is told by a digest of the run's `key` and the first name, so that every machine
        says the same.
        """
        first = "\n".join([key, *units[:1]])
        start = int.from_bytes(hashlib.sha256(first.encode("utf-8")).digest()[:8], "big")
        return {
            unit: self.sibling((start + turn) % self.count + 1) for turn, unit in enumerate(units)
        }

    def file(self, journal: Path) -> Path:
        """This shard's own file beside a journal; no one else writes it."""
        return journal.with_name(f"{journal.stem}.shard-{self.number}-of-{self.count}.jsonl")


def shard_files(journal: Path) -> list[Path]:
    """The files of all shards that stand beside a journal, however many machines there were."""
    beside = journal.parent.glob(f"{journal.stem}.shard-*.jsonl")
    return sorted(path for path in beside if undivided(path) == journal)


def undivided(path: Path) -> Path:
    """The journal that a shard's file is a part of; any other file is its own."""
    return path.with_name(MARK.sub("", path.stem) + path.suffix)
