"""A suite replayed on a saved checkpoint, in a process of its own.

The checkpoint of a training whose weights are spread over several processes is whole again once it
is saved. Knows both ends of the process; does not know when a checkpoint is saved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_divergence.core.errors import DivergenceError, MeasurementError
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.suites import read_suite
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.specs import parse_spec
from pytest_divergence.models.training_pair import ROLE, PromptOptions
from pytest_divergence.scoring.whole_suite import SuiteReading, measure_suite

LAUNCHERS = ("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
"""Beginnings of the variables by which a process knows that it is one of several."""


def replay_checkpoint(
    suite: Path, reference: str, checkpoint: Path, *, max_kl: float | None
) -> SuiteReading:
    """Measure a suite on a saved checkpoint, in a process that ends before this returns.

    `reference` is a spec; its device is the checkpoint's too. Raises `MeasurementError` with the
    process's own reason.
    """
    given = json.dumps([str(suite), reference, str(checkpoint), max_kl])
    alone = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((*LAUNCHERS, "ACCELERATE_"))
    }
    command = [sys.executable, "-m", __spec__.name, given]
    done = subprocess.run(command, capture_output=True, text=True, env=alone, check=False)
    if done.returncode != 0:
        reason = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise MeasurementError(visible(reason, 1000))
    return SuiteReading.model_validate_json(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str]) -> int:
    """Measure, and write the reading to stdout, as its last line; a reason goes to stderr."""
    suite, reference, checkpoint, max_kl = json.loads(arguments[0])
    try:
        stored = read_suite(Path(suite))
        made = stored.provenance
        options = PromptOptions.of(made.settings if made is not None else {})
        pair = load_model_pair(
            reference,
            checkpoint,
            device=parse_spec(reference, role=ROLE).device or "auto",
            chat_template=options.chat_template,
            system_prompt=options.system_prompt,
            template_arguments=options.template_arguments,
        )
        reading = measure_suite(pair, stored, max_kl=max_kl)
    except DivergenceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"\n{reading.model_dump_json()}\n")  # noqa: TID251
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
