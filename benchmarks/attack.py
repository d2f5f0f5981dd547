"""All attacks, whole: parsers fuzzed, each change of a file met, strangers' models, ….

python benchmarks/attack.py [PART,...] [--examples N] [--only TEXT]

Parts: parsers, faults, at-once, adapters, folders, templates, tokenizers. Each hole is a line with
what reproduces it; the exit code is 1 where there is one. No part of it needs pytest's own tests:
what it does is in tests/attacks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.attacks import at_once, hostile, stories, warm
from tests.attacks.file_parsers import FILE_PARSERS
from tests.attacks.hostile_adapters import ADAPTERS
from tests.attacks.hostile_folders import FOLDERS
from tests.attacks.hostile_templates import TEMPLATES
from tests.attacks.hostile_tokenizers import TOKENIZERS
from tests.attacks.model_parsers import MODEL_PARSERS
from tests.attacks.parsers import HoleError, fuzz
from tests.attacks.projects import make_models

Tries = Iterator[tuple[str, int, list[str]]]
"""What was tried, how often, and the holes."""
DELAYS = (0.0, 0.15, 0.4)
"""Seconds between the starts of sessions at once."""


@dataclass
class Part:
    """One kind of attack, and how it went."""

    name: str
    tried: int = 0
    broken: int = 0
    """Of these, what has one hole or more."""
    seconds: float = 0.0
    holes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Bench:
    """Where it is done, and how much of it."""

    folder: Path
    models: Path
    examples: int
    only: str

    def parsers(self, part: Part) -> Tries:
        for parser in [*FILE_PARSERS, *MODEL_PARSERS]:
            if self.only not in parser.name:
                continue
            try:
                yield parser.name, fuzz(parser, examples=self.examples, is_steady=False), []
            except HoleError as hole:
                notes = " ".join(getattr(hole, "__notes__", ()))
                yield parser.name, self.examples, [f"{hole} {notes}"]

    def faults(self, part: Part) -> Tries:
        for story in stories.STORIES.values():
            if self.only.partition(":")[0] not in story.name:
                continue
            run = stories.undisturbed(story, self.folder, self.models)
            for fault in stories.faults_of(run):
                name = f"{story.name}:{fault}"
                if not name.startswith(self.only):
                    continue
                yield name, 1, stories.holes_of(story, fault, run, self.folder, self.models)

    def at_once(self, part: Part) -> Tries:
        for crowd in at_once.CROWDS:
            for delay in DELAYS if self.only in crowd.name else ():
                found = at_once.holes_of(crowd, self.folder, self.models, delay=delay)
                yield crowd.name, 1, [f"{delay} s apart: {hole}" for hole in found]

    def strangers(self, all_: list[hostile.Stranger]) -> Tries:
        ready = hostile.prepared(self.folder / "strangers", self.models)
        for one in all_:
            if self.only in one.name:
                yield one.name, 1, hostile.holes_of(one, ready, self.folder / "stranger")

    def parts(self) -> dict[str, Callable[[Part], Tries]]:
        return {
            "parsers": self.parsers,
            "faults": self.faults,
            "at-once": self.at_once,
            "adapters": lambda part: self.strangers(ADAPTERS),
            "folders": lambda part: self.strangers(FOLDERS),
            "templates": lambda part: self.strangers(TEMPLATES),
            "tokenizers": lambda part: self.strangers(TOKENIZERS),
        }


def main() -> int:
    given = arguments()
    for name in list(os.environ):
        if name.startswith("PYTEST_") or name == "CI":
            del os.environ[name]
    torch.set_num_threads(1)
    assert warm.LOADED
    done = []
    folder = Path(tempfile.mkdtemp(prefix="attack-"))
    try:
        models = make_models(folder / "models")
        for name in given.parts:
            below = folder / name
            below.mkdir()
            bench = Bench(below, models, given.examples, given.only)
            done.append(attacked(Part(name), bench.parts()[name]))
            shutil.rmtree(below)
    finally:
        shutil.rmtree(folder)
    show(done)
    return 1 if any(part.holes for part in done) else 0


def attacked(part: Part, tries: Callable[[Part], Tries]) -> Part:
    """One part, with a line for each hole as it is found."""
    started = time.monotonic()
    for name, count, found in tries(part):
        part.tried += count
        part.broken += bool(found)
        for hole in found:
            line = " ".join(f"{name}: {hole}".split())
            shown = "".join(char if char.isprintable() else "?" for char in line)[:400]
            part.holes.append(shown)
            again = f"python benchmarks/attack.py {part.name} --only '{name}'"
            print(f"HOLE {part.name}: {shown}\n     {again}", flush=True)
    part.seconds = time.monotonic() - started
    return part


def show(parts: list[Part]) -> None:
    """The table: a hole is counted once for each thing tried that has one or more."""
    print(f"{'part':<12}{'tried':>8}{'held':>8}{'holes':>7}{'seconds':>9}")
    for part in parts:
        held = part.tried - part.broken
        print(f"{part.name:<12}{part.tried:>8,}{held:>8,}{part.broken:>7}{part.seconds:>9.0f}")


def arguments() -> argparse.Namespace:
    names = list(Bench(Path(), Path(), 0, "").parts())
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("parts", nargs="?", default=",".join(names))
    parser.add_argument("--examples", type=int, default=3000, help="inputs of each parser")
    parser.add_argument("--only", default="", help="what has this text in its name")
    given = parser.parse_args()
    given.parts = given.parts.split(",")
    for name in given.parts:
        if name not in names:
            parser.error(f"{name} is no part; parts are {', '.join(names)}")
    return given


if __name__ == "__main__":
    sys.exit(main())
