"""A GGUF file as a folder of safetensors, converted once into the user cache.

A file's header states only part of a config (not llama 3's rope scaling, nor gemma 3's attention
scale). So where both models of a pair are of one shape, the rest comes from the other model, and so
does the tokenizer. The header is walked before anything reads the file: one that lies could take
all memory. Does not know what the model is used for.
"""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from pytest_divergence.core.errors import ModelLoadError, TokenizerMismatchError
from pytest_divergence.core.files import file_lock, user_cache, user_cache_path
from pytest_divergence.core.safe_text import safe_line
from pytest_divergence.models.config_values import values_of
from pytest_divergence.models.fingerprints import file_digest, text_digest, tokenizer_digest
from pytest_divergence.models.folder_checks import check_all_is_loaded
from pytest_divergence.models.tokenizers import num_tokens, read_tokenizer
from pytest_divergence.models.transformers_log import Say, quiet_transformers

LOCK_SECONDS = 3600.0
"""Longest wait for another process that converts a file."""
CONVERSION = 3
"""Number of the way in which files are converted: folders made in another way are not used."""
PACKAGES = ("gguf", "accelerate")
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
"""Keys of a config that must agree for two models to have one shape."""
ROPE_KEYS = {
    "rope_theta": "rope.freq_base",
    "rope_type": "rope.scaling.type",
    "factor": "rope.scaling.factor",
    "original_max_position_embeddings": "rope.scaling.original_context_length",
}
"""Keys of a header about rotary positions by their names in a config; transformers reads one."""
STATED_ROPE_TYPES = ("linear", "yarn")
"""Scalings of positions that keys state; of others a part is in tensors, which nothing reads."""
FLOAT32_ERROR = 2.0**-24
"""Largest relative error of a number that is stored in float32."""
LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
SPACE = "▁"
"""Mark that tokens use for a space; GGUF's own tokenizers may use a plain space."""
PADDING = re.compile(r"\[PAD\d+\]|<dummy\d+>")
"""Names that llama.cpp's converter gives to rows of the embedding without a token."""

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Supported versions of the format."""
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by its type."""
INTEGERS = (0, 1, 2, 3, 4, 5, 10, 11)
"""Types of integers; a negative one is taken for a very large one here."""
STRING, ARRAY = 8, 9
"""Types of strings and arrays."""
MAX_DIMENSIONS = 4
MAX_WEIGHTS_PER_BYTE = 8
"""Limit of density: all formats store a weight in more than one bit."""
TOKENS_KEY = "tokenizer.ggml.tokens"
LAYERS_KEY = ".block_count"
"""Ending of the key that sets a model's number of layers."""
MAX_HEADER_BYTES = 256 * 2**20


@dataclass(frozen=True)
class GgufHeader:
    """The part of a header that is needed before the file is read."""

    tokens: tuple[str, ...]
    """Tokens by id; none if the file has no tokenizer."""


def gguf_folder(path: Path, *, like: Path | None, role: str, say: Say) -> Path:
    """The folder with a GGUF file's weights in float32, made on first use.

    `like` is the folder of the pair's other model. Raises `ModelLoadError` for a file that is not
    sound or needs a package that is not there, `TokenizerMismatchError` where the tokens of the
    file are not those of `like`.
    """
    header = read_gguf_header(path, role=role)
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ModelLoadError(
            f"{role} is a GGUF file; reading it needs {' and '.join(missing)}: "
            "pip install 'pytest-divergence[gguf]'"
        )
    folder = user_cache("gguf") / _folder_name(path, like)
    if not folder.is_dir():
        added = _added_tokens(header.tokens, like, role=role) if like is not None else []
        with file_lock(
            folder.with_suffix(".lock"),
            timeout=LOCK_SECONDS,
            on_wait=lambda _: say(f"another process is converting {path.name}"),
        ):
            if not folder.is_dir():
                say(f"converting {safe_line(path.name)} to safetensors (once)")
                convert_gguf(path, folder, like=like, added=added)
    return folder


def ready_gguf_folder(path: Path, *, like: Path | None, role: str) -> Path | None:
    """The folder of a GGUF file if it exists already; None: `gguf_folder` has to make it."""
    read_gguf_header(path, role=role)
    folder = user_cache_path() / "gguf" / _folder_name(path, like)
    return folder if folder.is_dir() else None


def convert_gguf(
    packed: Path, folder: Path, *, like: Path | None = None, added: Sequence[str] = ()
) -> None:
    """Write a file's weights, config and tokenizer to `folder`, whole or not at all.

    `added` are the tokens that the file knows and the model `like` does not. Raises
    `ModelLoadError` where the file lacks weights that its architecture has.
    """
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    # From an empty folder: the file's own may hold configs that nobody has screened.
    packed_in = {"gguf_file": str(packed.resolve()), **LOCAL}
    with quiet_transformers():
        config = AutoConfig.from_pretrained(partial, **packed_in)
        if like is not None:
            stated, _ = PreTrainedConfig.get_config_dict(partial, **packed_in)
            config = _complete(config, stated, AutoConfig.from_pretrained(like, **LOCAL))
        _set_rope(config, _stated_rope(packed))
        found: Any = AutoModelForCausalLM.from_pretrained(
            partial, config=config, dtype=torch.float32, output_loading_info=True, **packed_in
        )
        loaded, info = found
        check_all_is_loaded(info, what=str(packed))
        form = {"gguf_file": packed_in["gguf_file"]} if like is None else {}
        tokenizer = read_tokenizer(like or partial, **form)
        tokenizer.add_tokens(list(added))
        # A model read from GGUF refuses save_pretrained, so its weights move into a plain one.
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):  # the weights move, so that they are in memory once
            plain = type(loaded)(config)
        plain.load_state_dict(loaded.state_dict(), assign=True)
        plain.generation_config.eos_token_id = tokenizer.eos_token_id
        plain.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    partial.rename(folder)


def read_gguf_header(path: Path, *, role: str) -> GgufHeader:
    """Walk the header of a file. Raises `ModelLoadError` if it is not that of a valid GGUF.

    The `gguf` package trusts the counts: a file of 97 kB kept it busy for 87 s and 7.7 GB. Nothing
    is handed to it before this has walked the header. Format: ggml's docs/gguf.md, versions 2 and
    3.
    """
    try:
        with path.open("rb") as stream:
            reader = _Reader(stream.read(MAX_HEADER_BYTES), path.stat().st_size)
        return reader.header()
    except OSError as error:
        raise ModelLoadError(f"{role}: {path} cannot be read: {error}") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise ModelLoadError(f"{role}: {path} is not a valid GGUF file: {error}") from error


def _folder_name(path: Path, like: Path | None) -> str:
    """Name from all that the folder is made of: the file, the other model's config, tokenizer."""
    config = (like / "config.json").read_text("utf-8") + tokenizer_digest(like) if like else ""
    return f"{file_digest(path)[:24]}-{text_digest(f'{CONVERSION} {config}')[:8]}"


def _complete(own: Any, stated: dict[str, Any], other: Any) -> Any:
    """The other model's config with all `stated` numbers; the file's config if shapes differ."""
    other = other.get_text_config()  # the file holds no other part
    if any(values_of(own, name) != values_of(other, name) for name in SHAPE):
        return own
    for name, value in stated.items():
        # Ids of tokens are those of the other model's tokenizer.
        is_number = isinstance(value, int | float) and not name.endswith("_token_id")
        if is_number and len(values_of(other, name)) == 1 and hasattr(other, name):
            setattr(other, name, _more_precise(value, getattr(other, name)))
    return other


def _stated_rope(packed: Path) -> dict[str, Any]:
    """The parameters of rotary positions that a file's header states."""
    from gguf import GGUFReader

    fields = GGUFReader(packed).fields
    architecture = fields["general.architecture"].contents()
    stated = {
        name: fields[key].contents()
        for name, ending in ROPE_KEYS.items()
        if (key := f"{architecture}.{ending}") in fields
    }
    is_whole = stated.get("rope_type") in STATED_ROPE_TYPES
    return {name: stated[name] for name in stated if is_whole or name == "rope_theta"}


def _set_rope(config: Any, stated: dict[str, Any]) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)  # where kinds of layers differ, a header's are of these
    if rope:
        rope |= {name: _more_precise(value, rope.get(name)) for name, value in stated.items()}
        config.standardize_rope_params()


def _more_precise(value: Any, known: Any) -> Any:
    """The number that a header may have rounded to `value`, if it is known, else `value`."""
    are_numbers = isinstance(value, float) and isinstance(known, int | float)
    return known if are_numbers and math.isclose(value, known, rel_tol=FLOAT32_ERROR) else value


def _added_tokens(tokens: tuple[str, ...], like: Path, *, role: str) -> list[str]:
    """The tokens of a file after those that the other model knows, which must be the same."""
    with quiet_transformers():
        tokenizer = read_tokenizer(like)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    for token, token_id in tokenizer.get_vocab().items():
        if token_id >= len(tokens) and token_id in special:
            continue  # of another kind of input, as Gemma 3's of images, which a converter drops
        found = tokens[token_id] if token_id < len(tokens) else "none"
        if found.replace(SPACE, " ") != token.replace(SPACE, " "):
            raise TokenizerMismatchError(
                f"{role}: token {token_id} of the GGUF file is {safe_line(found)}, the other "
                f"model's is {safe_line(token)}. A divergence compares probabilities of the same "
                "tokens; give two models that share a tokenizer."
            )
    first = num_tokens(tokenizer)
    added = list(tokens[first:])
    while added and PADDING.fullmatch(added[-1]):
        del added[-1]
    tokenizer.add_tokens(added)
    for token_id, token in enumerate(added, start=first):
        if tokenizer.convert_tokens_to_ids(token) != token_id:
            raise TokenizerMismatchError(
                f"{role}: the GGUF file adds the token {safe_line(token)} as {token_id}, which the "
                "other model's tokenizer cannot add; give the model as a folder of safetensors"
            )
    return added


class _Reader:
    """A cursor in the bytes of a header; raises ValueError if they make no sense."""

    def __init__(self, data: bytes, file_size: int) -> None:
        self._data = data
        self._file_size = file_size
        self._at = 0

    def header(self) -> GgufHeader:
        if self._take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in VERSIONS:
            raise ValueError(f"version {version} is not one of {VERSIONS}")
        num_tensors, num_keys = self._number("<Q"), self._number("<Q")
        tokens: tuple[str, ...] = ()
        for _ in range(self._count(num_keys, 13)):  # a key's length, a type, and one byte
            key, kind = self._text(), self._number("<I")
            if key.endswith(LAYERS_KEY) and kind in INTEGERS:
                layers = int.from_bytes(self._data[self._at :][: SIZES[kind]], "little")
                if layers > num_tensors:
                    raise ValueError(f"it declares {layers} layers and {num_tensors} tensors")
            value = self._value(kind, is_wanted=key == TOKENS_KEY)
            tokens = tuple(value) if value else tokens
        left = MAX_WEIGHTS_PER_BYTE * self._file_size
        for _ in range(self._count(num_tensors, 24)):
            left -= self._num_weights()
            if left < 0:
                raise ValueError("its tensors are larger than the file")
        return GgufHeader(tokens)

    def _num_weights(self) -> int:
        self._text()
        num_dimensions = self._number("<I")
        if num_dimensions > MAX_DIMENSIONS:
            raise ValueError(f"a tensor has {num_dimensions} dimensions")
        shape = [self._number("<Q") for _ in range(num_dimensions)]
        self._take(4 + 8)  # its type, and where it begins
        return math.prod(shape)

    def _value(self, kind: int, *, is_wanted: bool) -> list[str]:
        """The strings of a wanted array; other values are skipped."""
        if kind == STRING:
            self._take(self._number("<Q"))
            return []
        if kind != ARRAY:
            self._take(self._size(kind))
            return []
        kind, count = self._number("<I"), self._number("<Q")
        if kind != STRING:
            self._take(self._count(count, self._size(kind)) * self._size(kind))
            return []
        strings = []
        for _ in range(self._count(count, 8)):
            text = self._take(self._number("<Q"))
            if is_wanted:
                strings.append(text.decode("utf-8"))
        return strings

    def _size(self, kind: int) -> int:
        if kind not in SIZES:
            raise ValueError(f"a value has the unknown type {kind}")
        return SIZES[kind]

    def _text(self) -> str:
        return self._take(self._number("<Q")).decode("utf-8")

    def _number(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _count(self, count: int, least_bytes: int) -> int:
        if count * least_bytes > len(self._data) - self._at:
            raise ValueError(f"it declares {count} entries, more than the file can hold")
        return count

    def _take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise ValueError("it ends inside its header")
        taken = self._data[self._at : end]
        self._at = end
        return taken
