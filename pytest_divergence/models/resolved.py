"""What a spec stands for: a local folder, or a plugin's model, and how it is told from others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.fingerprints import hub_commit, text_digest, weights_digest
from pytest_divergence.models.identity import ModelIdentity
from pytest_divergence.models.providers import LoadedModel
from pytest_divergence.models.specs import ModelSpec


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec and the local folder that it stands for; None where a plugin loads it, or not here."""

    spec: ModelSpec
    folder: Path | None
    role: str
    fingerprint: str | None = None
    """What the plugin says to tell the model from others by."""
    loaded: LoadedModel | None = None
    """What the plugin loaded."""
    base: ResolvedSpec | None = None
    """The full model that an adapter was trained on."""

    @property
    def is_adapter(self) -> bool:
        """Whether the folder is a PEFT adapter, wherever it came from."""
        return self.folder is not None and (self.folder / "adapter_config.json").is_file()

    @property
    def full_model(self) -> ResolvedSpec:
        """Whose weights are loaded: the base of an adapter, or this model itself."""
        return self.base or self

    @property
    def is_known(self) -> bool:
        """Whether the model can be told from others before it is loaded."""
        return self.folder is not None or self.fingerprint is not None

    @property
    def digest(self) -> str:
        """sha256 of the weights, or of the plugin's fingerprint."""
        if self.folder is not None:
            return weights_digest(self.folder)
        if self.fingerprint is None:
            raise ModelLoadError(
                f"{self.role}: {self.spec} cannot be told apart before it is loaded"
            )
        return text_digest(f"fingerprint {self.fingerprint}")

    def is_same_as(self, other: ResolvedSpec) -> bool:
        """Whether both stand for one model."""
        if self.folder is None:
            return self.spec == other.spec
        if self.folder != other.folder or self.numerics != other.numerics:
            return False
        return (self.base is None) == (other.base is None) and (
            self.base is None or other.base is None or self.base.is_same_as(other.base)
        )

    @property
    def numerics(self) -> str:
        """What was asked for of this model alone that changes its numbers, but no weight."""
        spec = self.full_model.spec
        asked = {"attn_implementation": spec.attn_implementation, "dtype": spec.dtype}
        return "".join(f",{name}={value}" for name, value in asked.items() if value is not None)

    def identity(self) -> ModelIdentity:
        """Spec and digests; an adapter's digest includes its base's."""
        digest = self.digest if self.base is None else f"{self.base.digest}+{self.digest}"
        digest += self.numerics
        kind = "adapter" if self.is_adapter else self.spec.kind
        commit = hub_commit(self.folder) if self.folder is not None else None
        return ModelIdentity(str(self.spec), kind, digest, commit)


def pair_identities(
    reference: ResolvedSpec, candidate: ResolvedSpec
) -> tuple[ModelIdentity, ModelIdentity]:
    """Identities of both, without loading either."""
    return reference.identity(), candidate.identity()


@contextmanager
def as_load_error(resolved: ResolvedSpec) -> Iterator[None]:
    """Whatever a stranger's files raise becomes one error that names the option."""
    try:
        yield
    except ModelLoadError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ModelLoadError(
            f"{resolved.role}: {resolved.spec} cannot be loaded: "
            f"{type(error).__name__}: {safe_line(reason[0]) if reason else 'no reason given'}"
        ) from error
