"""What a run's results depend on, as one key: equal keys may share cached work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.models.fingerprint import text_digest, tokenizer_digest
from pytest_divergence.models.loading import pair_identities, resolve_device, resolve_pair
from pytest_divergence.models.pair import ModelIdentity, ModelPair

PACKAGES = ("pytest-divergence", "torch", "transformers", "peft")
IRRELEVANT = {
    "mode",
    "max_kl",
    "fail_on",
    "builtin_suite",
    "report_dir",
    "profile",
    "num_cases",
    "budget",
}
"""Settings that change no measured number, or that the resolved profile holds."""


CALIBRATION_SETTINGS = {"chat_template", "system_prompt", "dtype", "metric", "seed"}
CALIBRATION_SIZES = {
    "num_shipped_controls",
    "num_written_controls",
    "num_continuations",
    "continuation_length",
    "prompt_length",
}


@dataclass(frozen=True)
class RunIdentity:
    """The two models, what they share, and where they run."""

    reference: ModelIdentity
    candidate: ModelIdentity
    tokenizer_sha256: str
    device: str

    @property
    def is_same_model(self) -> bool:
        """Whether both models have the same weights."""
        return self.reference.weights_sha256 == self.candidate.weights_sha256


def identify(settings: Settings) -> RunIdentity:
    """The identity of the pair that the settings name; hashes files, loads no weights."""
    reference, candidate = resolve_pair(settings.model_1 or "", settings.model_2 or "")
    identities = pair_identities(reference, candidate)
    device = str(resolve_device(settings.device))
    return RunIdentity(*identities, tokenizer_digest(reference.folder), device)


def identify_pair(pair: ModelPair) -> RunIdentity:
    """The identity of a pair in memory."""
    vocabulary = json.dumps(sorted(pair.chat.tokenizer.get_vocab().items()))
    return RunIdentity(
        pair.reference_identity,
        pair.candidate_identity,
        text_digest(vocabulary + str(pair.chat.template)),
        str(pair.device),
    )


def calibration_key(
    identity: RunIdentity, settings: Settings, profile: Profile, controls: Sequence[str]
) -> str:
    """sha256 over all that calibration depends on: searches that differ elsewhere share it."""
    sizes = profile.model_dump(include=CALIBRATION_SIZES)
    return text_digest(
        json.dumps(
            {
                **_common(identity, settings),
                "settings": settings.model_dump(include=CALIBRATION_SETTINGS),
                "profile": sizes,
                "controls": text_digest(json.dumps(list(controls))),
            },
            sort_keys=True,
        )
    )


def run_key(
    identity: RunIdentity,
    settings: Settings,
    profile: Profile,
    *,
    prompts: Sequence[str],
    strategies: Mapping[str, object],
) -> str:
    """sha256 over all that may change a result; `prompts` are the seeds and controls used."""
    parts: dict[str, Any] = {
        **_common(identity, settings),
        "settings": settings.model_dump(exclude=IRRELEVANT),
        "profile": profile.model_dump(),
        "budget_seconds": settings.budget_seconds,
        "prompts": text_digest(json.dumps(list(prompts))),
        "strategies": {name: type(one).__qualname__ for name, one in strategies.items()},
    }
    return text_digest(json.dumps(parts, sort_keys=True))


def _common(identity: RunIdentity, settings: Settings) -> dict[str, Any]:
    template = Path(settings.chat_template)
    return {
        "identity": asdict(identity),
        "template": text_digest(template.read_text("utf-8")) if template.is_file() else None,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that a measured number depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
