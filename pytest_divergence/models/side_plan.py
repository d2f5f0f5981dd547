"""One model before it is loaded: its spec, its local folder, and the facts in its files, read once.

Facts of a pair of models are in `pytest_divergence.models.load_plan`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.endpoints.served_side import Dialect
from pytest_divergence.models.fingerprints import (
    ModelIdentity,
    has_tokenizer,
    hub_commit,
    text_digest,
    weights_digest,
)
from pytest_divergence.models.folder_files import model_shapes, read_json_object
from pytest_divergence.models.memory import weights_bytes
from pytest_divergence.models.quantisation import is_dense
from pytest_divergence.models.specs import LoadedModel, ModelSpec
from pytest_divergence.models.text_models import bare_model, parts_left_out, text_loaders
from pytest_divergence.models.transformers_log import quiet_transformers

EXPERTS = ".experts."
"""Part of the name of each tensor of a mixture's experts."""


@dataclass(frozen=True)
class SidePlan:
    """A spec and its folder; None if a plugin loads it, a server runs it, or it is not here."""

    spec: ModelSpec
    folder: Path | None
    role: str
    fingerprint: str | None = None
    """The plugin's text that identifies the model."""
    loaded: LoadedModel | None = None
    """The plugin's model; set only while a pair is loaded."""
    base: SidePlan | None = None
    """The full model that an adapter was trained on."""
    served: Dialect | None = None
    """The server that runs the model, or a record of what it told."""
    own_tokenizer: Path | None = None
    """Folder of the tokenizer that a served model's spec names."""

    @property
    def tokenizer_folder(self) -> Path | None:
        """Folder of its tokenizer; None if it has none, or a plugin loads it."""
        return self.own_tokenizer if self.served is not None else self.folder

    @cached_property
    def is_adapter(self) -> bool:
        """Whether the folder is a PEFT adapter, wherever it came from."""
        return self.folder is not None and (self.folder / "adapter_config.json").is_file()

    @property
    def adapter_tokenizer(self) -> Path | None:
        """Folder of an adapter that was saved with a tokenizer; None for any other side."""
        is_one = self.folder is not None and self.is_adapter and has_tokenizer(self.folder)
        return self.folder if is_one else None

    @property
    def full_model(self) -> SidePlan:
        """The model whose weights are loaded: the base of an adapter, or this model itself."""
        return self.base or self

    @property
    def is_ours(self) -> bool:
        """Whether we load the model: neither a plugin nor a server has it."""
        return self.loaded is None and self.served is None

    @property
    def is_known(self) -> bool:
        """Whether the model can be identified before it is loaded."""
        return any(known is not None for known in (self.folder, self.fingerprint, self.served))

    @property
    def named_base(self) -> str | None:
        """The base that an adapter's config names: shown, never loaded."""
        assert self.folder is not None  # an adapter is a folder
        config = read_json_object(self.folder / "adapter_config.json", role=self.role)
        name = config.get("base_model_name_or_path")
        return name if isinstance(name, str) else None

    @cached_property
    def adapts_parameters(self) -> bool:
        """Whether an adapter replaces whole tensors at each pass, as PEFT does for experts.

        No gradient can pass through what the base has read meanwhile.
        """
        assert self.folder is not None  # an adapter is a folder
        config = read_json_object(self.folder / "adapter_config.json", role=self.role)
        has_experts = any(EXPERTS in key for key in model_shapes(self.folder))
        return bool(config.get("target_parameters")) or has_experts

    @cached_property
    def digest(self) -> str:
        """sha256 of the weights, of the plugin's fingerprint, or of what a server says of them."""
        if self.folder is not None:
            return weights_digest(self.folder)
        if self.served is not None:
            return self.served.digest
        if self.fingerprint is None:
            raise ModelLoadError(
                f"{self.role}: {self.spec} cannot be identified before it is loaded"
            )
        return text_digest(f"fingerprint {self.fingerprint}")

    @cached_property
    def identity(self) -> ModelIdentity:
        """Spec and digests; an adapter's digest includes its base's."""
        digest = self.digest if self.base is None else f"{self.base.digest}+{self.digest}"
        digest += self._numerics
        kind = "adapter" if self.is_adapter else self.spec.kind
        commit = hub_commit(self.folder) if self.folder is not None else None
        return ModelIdentity(str(self.spec), kind, digest, commit)

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The config that transformers reads from the folder's config.json."""
        assert self.folder is not None  # what no plugin loads is a folder
        with quiet_transformers(), self.load_errors():
            config: PreTrainedConfig = AutoConfig.from_pretrained(
                self.folder, trust_remote_code=False, local_files_only=True
            )
        return config

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """The JSON of the folder's config.json."""
        assert self.folder is not None  # what no plugin loads is a folder
        return read_json_object(self.folder / "config.json", role=self.role)

    @cached_property
    def parts_left_out(self) -> tuple[str, ...]:
        """Names of the modules besides the text's, such as an encoder of images."""
        if self.folder is None or self.is_adapter:
            return ()
        config = self.config
        with quiet_transformers(), self.load_errors():
            return parts_left_out(config)

    @cached_property
    def layers_left_out(self) -> tuple[str, ...]:
        """Names of the layers behind the last that guess further tokens: no answer needs them.

        Transformers leaves them out by their numbers in the largest models alone.
        """
        if self.folder is None or self.is_adapter:
            return ()
        text = self.raw_config.get("text_config")
        config = text if isinstance(text, dict) else self.raw_config
        first, count = (
            value if isinstance(value := config.get(key), int) else 0
            for key in ("num_hidden_layers", "num_nextn_predict_layers")
        )
        return tuple(f"model.layers.{number}" for number in range(first, first + count))

    def loaded_bytes(self, itemsize: int, device: torch.device) -> int:
        """Bytes of the folder's weights once loaded with floats of `itemsize` bytes.

        Raises what reading the files raises.
        """
        assert self.folder is not None  # what no plugin loads is a folder
        if self.is_adapter or not is_dense(self.raw_config, device):
            left_out = self.parts_left_out + self.layers_left_out
            return weights_bytes(self.folder, itemsize, left_out)
        config = self.config
        with quiet_transformers(), self.load_errors():
            model = bare_model(text_loaders(config)[0], config)
        return itemsize * sum(weight.numel() for weight in model.parameters())

    def is_same_as(self, other: SidePlan) -> bool:
        """Whether both are the same model."""
        if self.folder is None:
            return self.spec == other.spec
        if self.folder != other.folder or self._numerics != other._numerics:
            return False
        return (self.base is None) == (other.base is None) and (
            self.base is None or other.base is None or self.base.is_same_as(other.base)
        )

    @property
    def _numerics(self) -> str:
        """Options of this model alone that change its numbers, but not its weights."""
        spec = self.full_model.spec
        asked = {"attn_implementation": spec.attn_implementation, "dtype": spec.dtype}
        return "".join(f",{name}={value}" for name, value in asked.items() if value is not None)

    @contextmanager
    def load_errors(self) -> Iterator[None]:
        """Turn whatever untrusted files raise inside it into one error that names the option."""
        try:
            yield
        except ModelLoadError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelLoadError(
                f"{self.role}: {self.spec} cannot be loaded: "
                f"{type(error).__name__}: {safe_line(reason) if reason else 'no reason given'}"
            ) from error
