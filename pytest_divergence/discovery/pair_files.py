"""The files in which a project keeps the work on one pair, and the lock on them.

Journals of searches and of calibrations stand beside each other; whoever writes one holds the lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.journal import Journal
from pytest_divergence.core.journal_lines import About
from pytest_divergence.core.naming import suite_path
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.core.store import DivergenceFolder, file_lock
from pytest_divergence.discovery.identity import RunIdentity, calibration_key
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.proposals import SHIPPED_CONTROLS, shipped_prompts

LOCK_SECONDS = 6 * 3600.0


@dataclass(frozen=True)
class CalibrationPlan:
    """What a calibration measures."""

    profile: Profile
    controls: list[str]
    """The shipped ones."""
    key: str
    """Digest of all that its results depend on."""

    @classmethod
    def of(cls, settings: Settings, identity: RunIdentity) -> CalibrationPlan:
        """The plan that the settings describe, on the device of `identity`."""
        profile = settings.resolved_profile(identity.device.split(":")[0])
        controls = shipped_prompts(SHIPPED_CONTROLS, profile.num_shipped_controls)
        return cls(profile, controls, calibration_key(identity, settings, profile, controls))


class PairFiles:
    """The suite and the journals of the pair that the settings name."""

    def __init__(self, root: Path, settings: Settings) -> None:
        """Belong to the project at `root`; nothing is made yet."""
        report_dir = Path(settings.report_dir) if settings.report_dir else None
        self.folder = DivergenceFolder(root, report_dir=report_dir)
        self.suite = suite_path(root, settings.model_1 or "", settings.model_2 or "")

    @property
    def search(self) -> Path:
        """The journal of the pair's last search."""
        return self.folder.journal / f"{self.suite.name.split('.')[0]}.jsonl"

    def calibration(self, key: str) -> Path:
        """The journal of one calibration, which searches and the command share."""
        return self.folder.journal / f"calibration-{key[:16]}.jsonl"

    @contextmanager
    def locked(self, listener: Listener) -> Iterator[None]:
        """Alone with the pair's journals; waits for another process. Raises StoreError."""
        with file_lock(
            self.search.with_suffix(".lock"),
            timeout=LOCK_SECONDS,
            on_wait=lambda _: listener.say("another process measures this pair; waiting for it"),
        ):
            yield


@contextmanager
def opened(
    path: Path, key: str, listener: Listener, *, about: About | None = None
) -> Iterator[Journal]:
    """A journal to go on with; says what a crash has cost. Hold the lock."""
    with Journal.open(path, key=key, about=about) as journal:
        if journal.recovered:
            listener.say(journal.recovered)
        yield journal
