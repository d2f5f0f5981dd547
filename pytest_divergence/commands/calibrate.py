"""`pytest-divergence calibrate`: noise, shift and bound of a pair, and what its gate catches."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from pytest_divergence.commands.settings import MEASURED_PAIR, add_settings, settings_given

if TYPE_CHECKING:
    from pytest_divergence.commands.listening import PhaseLines
    from pytest_divergence.core.settings import Settings
    from pytest_divergence.models.pair import ModelPair

FIELDS = (*MEASURED_PAIR, "profile", "seed", "max_kl")


def add(parser: ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Measure what two models read when nothing is wrong, derive the bound from it, and "
        "plant damage of known sizes to see which of it a gate at that bound catches. What a "
        "search of the same pair has measured is read back; run it where you run pytest."
    )
    add_settings(parser, FIELDS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(given: Namespace) -> int:
    """Calibrate, and print; a bound inside the noise is refused once the table is out."""
    from pathlib import Path

    from pytest_divergence.commands.listening import PhaseLines
    from pytest_divergence.core.bounds import refusal
    from pytest_divergence.core.errors import SettingsError
    from pytest_divergence.discovery.calibration_report import calibration_report
    from pytest_divergence.reports.calibration import calibration_lines

    settings, listener = settings_given(given, FIELDS), PhaseLines()
    report = calibration_report(
        settings,
        root=Path.cwd(),
        load_pair=_Loaded(settings, listener),
        listener=listener,
    )
    if given.json:
        print(report.model_dump_json(indent=2))
    else:
        print("\n".join(calibration_lines(report)))
    floor, dtype = report.noise_floor.value, report.pair.dtype
    if reason := refusal(report.bound.value, floor, name="--max-kl", dtype=dtype):
        raise SettingsError(reason)
    return 0


class _Loaded:
    """The pair, loaded when it is first asked for."""

    def __init__(self, settings: Settings, listener: PhaseLines) -> None:
        self._settings = settings
        self._listener = listener
        self._pair: ModelPair | None = None

    def __call__(self) -> ModelPair:
        from pytest_divergence.models.loading import load_model_pair

        if self._pair is None:
            settings = self._settings
            self._listener.say("loading the models")
            self._pair = load_model_pair(
                settings.model_1 or "",
                settings.model_2 or "",
                device=settings.device,
                dtype=settings.dtype,
                chat_template=settings.chat_template,
                system_prompt=settings.system_prompt,
                say=self._listener.say,
            )
        return self._pair
