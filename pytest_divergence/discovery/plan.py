"""Plan of a run: its parts, the key of all that its results depend on, and the files it keeps.

Equal keys may share cached work. Does not know how a step is taken, nor when a run is planned.
"""

from __future__ import annotations

import inspect
import json
import linecache
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.file_names import suite_path
from pytest_divergence.core.files import DivergenceFolder, file_lock
from pytest_divergence.core.journal import Journal
from pytest_divergence.core.quantities import number_of
from pytest_divergence.core.regular_files import read_regular_text
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Profile, Settings
from pytest_divergence.discovery.contexts.context_costs import context_costs
from pytest_divergence.discovery.contexts.context_files import Contexts, contexts_of
from pytest_divergence.discovery.progress import Listener
from pytest_divergence.discovery.prompt_files import (
    SHIPPED_CONTROLS,
    SHIPPED_SEEDS,
    read_seeds,
    shipped_prompts,
)
from pytest_divergence.discovery.soft_prompts.virtual_tokens import (
    CHECKPOINT_SUFFIX,
    artefact_folder,
)
from pytest_divergence.discovery.strategies.protocol import Strategy
from pytest_divergence.discovery.training_data import TrainingData, read_training_data
from pytest_divergence.models.fingerprints import ModelIdentity, text_digest
from pytest_divergence.models.load_plan import LoadOptions, LoadPlan, resolve_pair
from pytest_divergence.models.pair import Metric, ModelPair

LOCK_SECONDS = 6 * 3600.0
PACKAGES = ("pytest-divergence", "torch", "transformers", "tokenizers", "jinja2", "peft")
IRRELEVANT = {
    "mode",
    "max_kl",
    "max_shift",
    "inconclusive",
    "update",
    "fill",
    "fail_on",
    "builtin_suite",
    "report_dir",
    "github",
    "redact",
    "allow_same_model",
    "profile",
    "num_cases",
    "budget",
    "memory",
    "engine",
    "workers",
    "worker_gpus",
    "worker_timeout",
}
"""Settings that change no measured number, or that the resolved profile holds."""
CALIBRATION_SETTINGS = {"chat_template", "system_prompt", "template_arg", "dtype", "metric", "seed"}
CALIBRATION_SIZES = {
    "num_shipped_controls",
    "num_written_controls",
    "num_naming_prompts",
    "num_continuations",
    "continuation_length",
    "thought_length",
    "search_length",
    "prompt_length",
}
"""Profile sizes that a calibration depends on: searches that differ elsewhere share it."""


@dataclass(frozen=True)
class RunIdentity:
    """The two models, what they share, and where they run."""

    reference: ModelIdentity
    candidate: ModelIdentity
    tokenizer_sha256: str
    device: str
    candidate_tokenizer_sha256: str | None = None
    """Digest of the candidate's own tokenizer, if it has one: it must read text the same way."""
    arithmetic: str | None = None
    """Each model's dtype and attention implementation; None if a plugin identifies one."""
    chat_sha256: str | None = None
    """Digest of how a pair in memory reads prompts and ends answers, which settings may not name;
    None for a pair that the settings load."""
    metric_sha256: str | None = None
    """Digest of the asserted metric's code and parameters, unless it is built in."""

    @property
    def is_same_model(self) -> bool:
        """Whether both models have the same weights."""
        return self.reference.weights_sha256 == self.candidate.weights_sha256

    def with_metric(self, metric: Metric | None) -> RunIdentity:
        """Return this identity with a digest of an added metric; None changes nothing."""
        if metric is None:
            return self
        return replace(self, metric_sha256=_code_digest(metric))


def identify(settings: Settings) -> RunIdentity:
    """Identify the pair that the settings name; hashes files, loads no weights."""
    options = LoadOptions.of(settings)
    return identify_plan(resolve_pair(settings.model_1 or "", settings.model_2 or "", options))


def identify_plan(plan: LoadPlan) -> RunIdentity:
    """Identify a resolved pair; both models must be known before they are loaded."""
    return RunIdentity(
        *plan.identities,
        plan.tokenizer_digest,
        str(plan.device),
        candidate_tokenizer_sha256=plan.candidate_tokenizer_digest,
        arithmetic=plan.arithmetic,
    )


def identify_pair(pair: ModelPair) -> RunIdentity:
    """Identify a pair in memory; its owner has chosen what settings choose for others."""
    chat = pair.chat
    vocabulary = json.dumps(sorted(chat.tokenizer.get_vocab().items()))
    parts = {
        "system_prompt": chat.system_prompt,
        "arguments": dict(chat.arguments),
        "thought_length": chat.thought_length,
        "stop_ids": sorted(chat.stop_ids),
        "special_tokens": chat.tokenizer.special_tokens_map,
        "known_tokens": pair.known_tokens,
    }
    return RunIdentity(
        pair.reference_identity,
        pair.candidate_identity,
        text_digest(vocabulary + str(chat.template)),
        str(pair.device),
        arithmetic=pair.arithmetic,
        chat_sha256=_key(parts),
    )


@dataclass(frozen=True)
class CalibrationPlan:
    """Profile and controls of a calibration."""

    profile: Profile
    controls: list[str]
    """The shipped ones."""
    key: str
    """Digest of all that its results depend on."""

    @classmethod
    def of(cls, settings: Settings, identity: RunIdentity) -> CalibrationPlan:
        """Return the plan that the settings describe, on the device of `identity`."""
        profile = settings.resolved_profile(identity.device.split(":")[0])
        controls = shipped_prompts(SHIPPED_CONTROLS, profile.num_shipped_controls)
        return cls(profile, controls, _calibration_key(identity, settings, profile, controls))


@dataclass(frozen=True)
class SearchPlan:
    """Calibration, seeds, strategies, training data and contexts of a search."""

    calibration: CalibrationPlan
    seeds: list[str]
    training_data: TrainingData | None
    contexts: Contexts
    strategies: Mapping[str, Strategy]
    key: str
    """Digest of all that its results depend on."""

    @classmethod
    def of(
        cls, settings: Settings, identity: RunIdentity, strategies: Mapping[str, Strategy]
    ) -> SearchPlan:
        """Return the plan that the settings describe; raises `SettingsError` if it cannot be."""
        calibration = CalibrationPlan.of(settings, identity)
        contexts = chosen_contexts(settings, calibration.profile)
        profile = with_contexts(calibration.profile, contexts, settings)
        calibration = replace(calibration, profile=profile)
        least = profile.calibration_tokens + profile.context_tokens + profile.reserved_tokens
        if profile.budget_tokens < least:
            under, number = profile.context_tokens, number_of(len(contexts.all), "context")
            looking = f", {under} to look at {number}" if under else ""
            raise SettingsError(
                f"{setting('budget')}={profile.budget_tokens} is too small: profile "
                f"{profile.name} needs at least {least} forwarded tokens, "
                f"{profile.calibration_tokens} to calibrate{looking} and {profile.reserved_tokens} "
                "to test leads and confirm cases; raise it"
            )
        path = settings.training_data
        data = None if path is None else read_training_data(Path(path))
        seeds = _seeds(settings, calibration, data)
        prompts = [*seeds, *calibration.controls]
        parts = _run_parts(identity, settings, profile, prompts=prompts, strategies=strategies)
        parts["training_data"] = None if data is None else data.sha256
        parts["contexts"] = [contexts.sha256, contexts.digest]
        return cls(calibration, seeds, data, contexts, strategies, _key(parts))

    @property
    def profile(self) -> Profile:
        """The profile of the calibration, which the search shares."""
        return self.calibration.profile

    def forget(self, journals: Iterable[Path]) -> None:
        """Delete journals and checkpoints, so that the run starts from the beginning."""
        for path in journals:
            path.unlink(missing_ok=True)
        for checkpoint in artefact_folder(self.key).glob(f"*{CHECKPOINT_SUFFIX}"):
            checkpoint.unlink()


class PairFiles:
    """The suite and the journals of the pair that the settings name."""

    def __init__(self, root: Path, settings: Settings) -> None:
        """Name files of the project at `root`; create none."""
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
        """Lock the pair's journals; waits for another process. Raises StoreError."""
        with file_lock(
            self.search.with_suffix(".lock"),
            timeout=LOCK_SECONDS,
            on_wait=lambda _: listener.say(
                "another process is measuring this pair; waiting for it"
            ),
        ):
            yield


@contextmanager
def open_journal(path: Path, key: str, listener: Listener) -> Iterator[Journal]:
    """Open a journal to continue it; say what a crash has cost. Hold the lock."""
    with Journal.open(path, key=key) as journal:
        if journal.recovered:
            listener.say(journal.recovered)
        yield journal


def versions() -> dict[str, str]:
    """Return the versions of the packages that a measured number depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _seeds(
    settings: Settings, calibration: CalibrationPlan, data: TrainingData | None
) -> list[str]:
    """Return the given seeds or else shipped ones, and at most half as many of training data.

    Half of the profile's number, that is: a search of nothing but training prompts would only
    measure what the training was for.
    """
    num_seeds, given = calibration.profile.num_seeds, list[str]()
    if settings.seeds is not None:
        given = read_seeds(settings.seeds)
    if data is not None:
        known = {*given, *calibration.controls}
        given += data.seeds(num_seeds // 2, seed=settings.seed, without=known)
    if settings.seeds is not None:
        return given
    shipped = shipped_prompts(SHIPPED_SEEDS, num_seeds)
    return list(dict.fromkeys([*given, *shipped]))[:num_seeds]


def chosen_contexts(settings: Settings, profile: Profile) -> Contexts:
    """Return the contexts of the user's file and the profile's; raises `SettingsError`."""
    given = None if settings.contexts is None else Path(settings.contexts)
    return contexts_of(given, profile.num_contexts)


def with_contexts(profile: Profile, contexts: Contexts, settings: Settings) -> Profile:
    """Return the profile with what contexts cost, on top of its budget.

    A budget in tokens that the user gives stays.
    """
    finding, testing = context_costs(contexts.all, profile)
    changes = {"context_tokens": finding, "context_test_tokens": testing}
    if settings.budget is None or settings.budget_seconds is not None:
        changes["budget_tokens"] = profile.budget_tokens + finding + testing
    return profile.model_copy(update=changes)


def _calibration_key(
    identity: RunIdentity, settings: Settings, profile: Profile, controls: Sequence[str]
) -> str:
    sizes = profile.model_dump(include=CALIBRATION_SIZES)
    return _key(
        {
            **_common(identity, settings),
            "settings": settings.model_dump(include=CALIBRATION_SETTINGS),
            "profile": sizes,
            "controls": text_digest(json.dumps(list(controls))),
        }
    )


def _run_parts(
    identity: RunIdentity,
    settings: Settings,
    profile: Profile,
    *,
    prompts: Sequence[str],
    strategies: Mapping[str, object],
) -> dict[str, Any]:
    """Return all that may change a result; `prompts` are the seeds and controls used."""
    return {
        **_common(identity, settings),
        "settings": settings.model_dump(exclude=IRRELEVANT),
        "profile": profile.model_dump(),
        "budget_seconds": settings.budget_seconds,
        "prompts": text_digest(json.dumps(list(prompts))),
        "strategies": {name: _strategy(value) for name, value in strategies.items()},
    }


def _common(identity: RunIdentity, settings: Settings) -> dict[str, Any]:
    template = Path(settings.chat_template)
    text = read_regular_text(template) if template.is_file() else None
    return {
        "identity": {key: value for key, value in asdict(identity).items() if value is not None},
        "template": None if text is None else text_digest(text),
        "versions": versions(),
    }


def _strategy(strategy: object) -> str:
    """Return a built-in strategy's name; for an added one, with a digest of it."""
    kind = type(strategy)
    is_built_in = kind.__module__.startswith(f"{__package__}.strategies.")
    return kind.__qualname__ if is_built_in else f"{kind.__qualname__} {_code_digest(strategy)}"


def _code_digest(added: object) -> str:
    """Return a digest of the files that hold an object's class and bases, and of its parameters.

    Files, not classes: methods read the constants beside them. Parameters are the attributes that
    JSON can hold.
    """
    kind, parameters = type(added), dict[str, str]()
    slots = [each.__dict__.get("__slots__", ()) for each in kind.__mro__]
    named = (name for each in slots for name in ((each,) if isinstance(each, str) else each))
    for name in {*getattr(added, "__dict__", ()), *named}:
        with suppress(AttributeError, TypeError, ValueError, RecursionError):
            parameters[name] = json.dumps(getattr(added, name), sort_keys=True)
    code = sorted({text for each in kind.__mro__[:-1] for text in _sources(each)})
    return text_digest(json.dumps([kind.__qualname__, code, parameters], sort_keys=True))


def _sources(kind: type) -> Iterator[str]:
    """Yield the text of the files that a class is written in; "" for one that cannot be read."""
    functions = filter(inspect.isfunction, vars(kind).values())
    # The functions know their file; two conftest.py share one name in sys.modules.
    code = (getattr(inspect.unwrap(each), "__code__", each.__code__) for each in functions)
    files = {each.co_filename for each in code}
    files.add(getattr(sys.modules.get(kind.__module__), "__file__", None) or "")
    for file in files:
        linecache.checkcache(file)
        yield "".join(linecache.getlines(file))


def _key(parts: Mapping[str, Any]) -> str:
    """sha256 over all that may change a result."""
    return text_digest(json.dumps(parts, sort_keys=True))
