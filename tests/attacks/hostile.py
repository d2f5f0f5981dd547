"""Model folders of strangers, each with what a gate must make of it: refused or measured truly.

What is true is what transformers and PEFT give by themselves: the forward KL of the reference from
the candidate on the continuations that a suite stores.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_divergence.core.suites import read_suite
from pytest_divergence.models.transformers_log import quiet_transformers
from tests.attacks.changes import MARKER
from tests.attacks.projects import (
    SUITE,
    Done,
    Limits,
    Place,
    command,
    hand_written,
    make_place,
    session,
)
from tests.tiny import save_tiny_adapter, save_tiny_model

Outcome = Literal["refused", "measured", "either"]
"""`either`: it may be refused; where it is not, the number must be the true one."""
STRANGER = "stranger"
"""The candidate's folder in the project."""
PROMPT = "How do I tie a knot?"
LIMITS = Limits(seconds=90, cpu_seconds=25, more_bytes=3 << 30)
SHOWN_FRAME = re.compile(r"pytest_divergence/\S+\.py:\d+: in ")
"""A line of this package's code that pytest shows of an error that no one has worded."""
TOLERANCE = 1e-3
"""Relative; below it float32 rounds."""


@dataclass(frozen=True)
class Stranger:
    """One folder: a copy of a good one, changed."""

    name: str
    change: Callable[[Path], object]
    outcome: Outcome
    source: str = "adapter"
    """The folder that is copied: `adapter`, `ft`, or `biased`, an adapter of `qwen2`."""
    arguments: tuple[str, ...] = ()
    is_examined: bool = False
    """Whether `doctor` looks at it too."""

    @property
    def base(self) -> str:
        return "qwen2" if self.source == "biased" else "base"


def prepared(folder: Path, models: Path) -> Place:
    """A project with two references, what strangers' folders are copies of, and two suites."""
    place = make_place(folder, models)
    project = place.project
    save_tiny_model(project / "qwen2", architecture="qwen2")
    save_tiny_adapter(project / "qwen2", project / "biased")
    for base, candidate in (("base", "adapter"), ("qwen2", "biased")):
        place.write(SUITE, hand_written(PROMPT, controls=0))
        pair = (f"--model-1={base}", f"--model-2={candidate}")
        done = place.run(session(*pair, SUITE, "--divergence-fill"))
        assert done.is_green, done.text
        _allow_all(place.suite)
        (project / "tests").rename(project / f"tests-{base}")
    return place


def holes_of(stranger: Stranger, ready: Place, folder: Path) -> list[str]:
    """What is wrong with a gate's verdict on a stranger's folder: nothing, if all is well."""
    shutil.rmtree(folder, ignore_errors=True)
    place = ready.copy(folder)
    project = place.project
    shutil.move(project / f"tests-{stranger.base}", project / "tests")
    shutil.copytree(project / stranger.source, project / STRANGER)
    stranger.change(project / STRANGER)
    before = _outside(place)
    models = (f"--model-1={stranger.base}", f"--model-2={STRANGER}")
    words = (*models, SUITE, "--divergence-metric=forward", "--divergence-report-dir=runs")
    holes = []
    if stranger.is_examined:
        looked = place.run(command("doctor", *models), limits=LIMITS)
        holes += [f"doctor: {hole}" for hole in _faults(looked)]
    done = place.run(session(*words, *stranger.arguments), limits=LIMITS)
    holes += _faults(done)
    if (place.path / MARKER).exists():
        holes.append("a stranger's code ran")
    if _outside(place) != before:
        holes.append("something was written outside of the project")
    if _is_ended(done):
        return holes
    read = measured_in(project / "runs")
    if stranger.is_examined and read is not None and not looked.is_green:
        holes.append(f"doctor refuses what a session measures: {looked.text[-600:]}")
    if read is None:
        if done.is_green:
            holes.append(f"green, and nothing was measured: {done.end}")
        elif stranger.outcome == "measured":
            holes.append(f"refused, though there is nothing wrong with it: {done.text[-600:]}")
        return holes
    true = _truth(place, stranger)
    if stranger.outcome == "refused":
        holes.append(f"measured, as {read:.6f}, and not refused (the true KL: {true}); {done.end}")
    elif true is None or not math.isclose(read, true, rel_tol=TOLERANCE, abs_tol=1e-5):
        holes.append(f"KL {read:.6f}, and the true one is {true}: {done.end}")
    return holes


def measured_in(reports: Path) -> float | None:
    """The forward KL in the last report of a folder; None where none was measured."""
    found = sorted(reports.glob("*/report.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    cases = json.loads(found[-1].read_text("utf-8"))["cases"]
    values = [one["kl"]["forward"] for one in cases if one["kl"] and one["verdict"] != "error"]
    return float(values[0]) if values else None


def _truth(place: Place, stranger: Stranger) -> float | None:
    """What transformers and PEFT give by themselves, in a process of its own; None: they fail."""
    answer = place.path / "truth"

    def compute() -> int:
        answer.write_text(str(true_kl(place, stranger)), "utf-8")
        return 0

    done = place.run(compute, limits=LIMITS)
    return float(answer.read_text("utf-8")) if done.is_green else None


def true_kl(place: Place, stranger: Stranger) -> float:
    """Forward KL over a suite's first row, nats per token, by nothing of the package's."""
    stored = read_suite(place.suite)
    (case,) = stored.suite.cases
    tokenizer: Any = AutoTokenizer.from_pretrained(stranger.base)
    turns = [{"role": "user", "content": case.text}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    reference, candidate = _plain(stranger.base), _candidate(stranger)
    total = count = 0.0
    for continuation in stored.tokens[case.id].reference:
        ids = torch.tensor([[*prompt, *continuation]])
        logits = [
            model(ids).logits[0, len(prompt) - 1 : -1].float() for model in (reference, candidate)
        ]
        rows = min(one.shape[-1] for one in logits)  # those of one model alone are padding
        ours, theirs = (one[:, :rows].log_softmax(-1) for one in logits)
        total += float((ours.exp() * (ours - theirs)).sum())
        count += len(continuation)
    return total / count


def _plain(folder: str) -> Any:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def _candidate(stranger: Stranger) -> Any:
    if stranger.source == "ft":
        return _plain(STRANGER)
    from peft import PeftModel

    with quiet_transformers():
        return (
            PeftModel.from_pretrained(_plain(stranger.base), STRANGER).eval().requires_grad_(False)
        )


def _allow_all(suite: Path) -> None:
    """Limits that no candidate exceeds: what is not refused is measured, and passes."""
    rows = [{**json.loads(line), "max_kl": 1e6} for line in suite.read_text("utf-8").splitlines()]
    suite.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _faults(done: Done) -> Iterator[str]:
    """What is wrong with a process, whatever it found."""
    yield from _wrong_words(done.text)
    if _is_ended(done):
        yield f"it took more time or memory than {LIMITS}: exit {done.code}"
    elif done.has_crashed or SHOWN_FRAME.search(done.text):
        yield f"the inside of the program is shown: {done.end}"


def _is_ended(done: Done) -> bool:
    return done.code < 0 or "MemoryError" in done.text


def _wrong_words(text: str) -> Iterator[str]:
    raw = {hex(ord(c)) for c in text if (ord(c) < 32 and c not in "\n\r\t") or ord(c) == 127}
    if raw:
        yield f"control characters on the screen: {', '.join(sorted(raw))}"
    longest = max(map(len, text.splitlines()), default=0)
    if longest > 4000:
        yield f"a line of {longest} characters"


def _outside(place: Place) -> Sequence[str]:
    """What lies beside the project, but for the cache and what this attack puts there."""
    return sorted(set(os.listdir(place.path)) - {"cache", "project", MARKER, "truth"})
