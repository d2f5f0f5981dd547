"""What a search will do, before anything is loaded: sizes, prompts, strategies, and their key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.discovery.identity import RunIdentity, in_words, run_key, run_parts
from pytest_divergence.discovery.pair_files import CalibrationPlan
from pytest_divergence.discovery.proposals import SHIPPED_SEEDS, read_seeds, shipped_prompts
from pytest_divergence.discovery.soft_prompts import CHECKPOINT_SUFFIX, artefact_folder
from pytest_divergence.discovery.strategies import Strategy


@dataclass(frozen=True)
class SearchPlan:
    """What a search goes by."""

    calibration: CalibrationPlan
    seeds: list[str]
    strategies: Mapping[str, Strategy]
    key: str
    """Digest of all that its results depend on."""
    about: Mapping[str, str]
    """The same in words."""

    @classmethod
    def of(
        cls, settings: Settings, identity: RunIdentity, strategies: Mapping[str, Strategy]
    ) -> SearchPlan:
        """The plan that the settings describe. Raises `SettingsError` for those that cannot be."""
        calibration = CalibrationPlan.of(settings, identity)
        profile = calibration.profile
        if profile.budget_tokens < profile.calibration_tokens + profile.reserved_tokens:
            raise SettingsError(
                f"{setting('budget')}={profile.budget_tokens} confirms nothing: profile "
                f"{profile.name} takes {profile.calibration_tokens} forwarded tokens at least to "
                f"calibrate, and {profile.reserved_tokens} to confirm what is found; raise the "
                "budget, or choose a smaller profile"
            )
        if settings.seeds is None:
            seeds = shipped_prompts(SHIPPED_SEEDS, profile.num_seeds)
        else:
            seeds = read_seeds(settings.seeds)
        prompts = [*seeds, *calibration.controls]
        parts = run_parts(identity, settings, profile, prompts=prompts, strategies=strategies)
        return cls(calibration, seeds, strategies, run_key(parts), in_words(parts))

    @property
    def profile(self) -> Profile:
        """The sizes."""
        return self.calibration.profile

    def forget(self, journals: Iterable[Path]) -> None:
        """Leave nothing to read back, or to go on with."""
        for path in journals:
            path.unlink(missing_ok=True)
        for checkpoint in artefact_folder(self.key).glob(f"*{CHECKPOINT_SUFFIX}"):
            checkpoint.unlink()
