"""Every parser, on documents that are nearly right and bytes that are not: one answer or one error.

`ATTACK_EXAMPLES` tries more of them; `benchmarks/attack.py` tries many more.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st

from pytest_divergence.core.errors import SettingsError
from tests.attacks.file_parsers import FILE_PARSERS
from tests.attacks.model_parsers import MODEL_PARSERS
from tests.attacks.parsers import HoleError, Parser, fuzz, in_file, round_trip

EXAMPLES = int(os.environ.get("ATTACK_EXAMPLES", "80"))


@pytest.mark.slow
@pytest.mark.parametrize("parser", [*FILE_PARSERS, *MODEL_PARSERS], ids=lambda parser: parser.name)
def test_a_parser_returns_or_says_why_not(parser: Parser) -> None:
    assert fuzz(parser, examples=EXAMPLES) >= EXAMPLES // 4


# Each of these is a fault that the fuzz is there to find.


def crash(folder: Path, text: str) -> None:
    """Raises what is no error of ours."""
    if "k" in text:
        raise KeyError(text)


def raw(folder: Path, text: str) -> None:
    raise SettingsError(f"no \x1b[2J{text}")


def outside(folder: Path, text: str) -> None:
    (folder.parent / "elsewhere").write_text(text, "utf-8")


@pytest.mark.parametrize("fault", [crash, raw, outside])
def test_the_fuzz_finds(fault: object) -> None:
    with pytest.raises(HoleError):
        fuzz(Parser("planted", st.sampled_from(["knot", "x"]), fault), examples=20)  # type: ignore[arg-type]


def test_the_fuzz_finds_a_writer_that_loses_something() -> None:
    def write(path: Path, value: bytes) -> None:
        path.write_bytes(value.strip())

    read = in_file("x", round_trip(Path.read_bytes, write))
    with pytest.raises(HoleError, match="it is another"):
        fuzz(Parser("planted", st.just(b"text \n"), read), examples=1)
