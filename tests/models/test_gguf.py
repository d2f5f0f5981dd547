"""A GGUF file against safetensors of the same model, and files that are not what they say."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from pytest_divergence.core.errors import ModelLoadError, TokenizerMismatchError
from pytest_divergence.models import gguf as gguf_models
from pytest_divergence.models.gguf import convert_gguf, read_gguf_header
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.memory import weights_bytes
from tests.gguf_writing import write_gguf
from tests.models.test_kinds import check_differs, extended, values


@pytest.fixture(scope="module")
def exact(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_models / "base", tmp_path_factory.mktemp("gguf") / "base-f32.gguf")


def refusal(tiny_models: Path, path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(tiny_models / "base"), str(path))
    return str(caught.value)


def test_a_gguf_file_of_the_same_weights_is_the_same_model(
    tiny_models: Path, exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path))
    said: list[str] = []

    pair = load_model_pair(str(tiny_models / "base"), str(exact), say=said.append)

    assert said == ['converting "base-f32.gguf" to safetensors (once)']
    assert pair.candidate_identity.kind == "gguf"
    assert max(map(abs, values(pair))) < 1e-6
    load_model_pair(str(tiny_models / "base"), str(exact), say=said.append)
    assert len(said) == 1  # it is converted once
    monkeypatch.setattr(gguf_models, "CONVERSION", gguf_models.CONVERSION + 1)
    load_model_pair(str(tiny_models / "base"), str(exact), say=said.append)
    assert len(said) == 2  # what another release has converted is converted again


def test_a_conversion_holds_the_weights_once(
    tiny_models: Path, exact: Path, tmp_path: Path
) -> None:
    held: dict[int, torch.Tensor] = {}  # keeps them, so that no address is used twice

    def hold(_: object, __: str, weight: torch.Tensor | None) -> None:
        if weight is not None and not weight.is_meta:
            held[weight.data_ptr()] = weight

    hook = register_module_parameter_registration_hook(hold)
    convert_gguf(exact, tmp_path / "converted", like=tiny_models / "base")
    hook.remove()

    num_bytes = sum(weight.nbytes for weight in held.values())
    assert num_bytes == weights_bytes(tmp_path / "converted", 4)


def test_eight_bits_differ_a_little(tiny_models: Path, tmp_path: Path) -> None:
    path = write_gguf(tiny_models / "base", tmp_path / "base-q8.gguf", is_quantised=True)

    pair = load_model_pair(str(tiny_models / "base"), str(path))

    assert 1e-6 < max(values(pair)) < 0.05


def changed(folder: Path, to: Path, **config: object) -> Path:
    """The same weights under another config."""
    shutil.copytree(folder, to)
    path = to / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return to


def test_what_the_file_does_not_say_comes_from_the_other_model(
    tiny_models: Path, tmp_path: Path
) -> None:
    """Without the scaling of positions, which no key of the file holds, the two would differ."""
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "original_max_position_embeddings": 16}
    folder = changed(tiny_models / "base", tmp_path / "scaled", rope_parameters=rope | scaling)
    path = write_gguf(folder, tmp_path / "scaled.gguf")

    assert max(map(abs, values(load_model_pair(str(folder), str(path))))) < 1e-6
    plain = load_model_pair(str(tiny_models / "base"), str(folder))
    assert max(values(plain)) > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        {"rms_norm_eps": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}},
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ],
    ids=["norm", "theta", "yarn"],
)
def test_what_the_file_says_counts_where_the_models_differ_in_it(
    tiny_models: Path, tmp_path: Path, config: dict[str, object]
) -> None:
    """A fine-tune for longer texts would else be read with the base's positions, and pass."""
    folder = changed(tiny_models / "base", tmp_path / "tuned", **config)
    path = write_gguf(folder, tmp_path / "tuned.gguf")

    of_folder = values(load_model_pair(str(tiny_models / "base"), str(folder)))
    of_file = values(load_model_pair(str(tiny_models / "base"), str(path)))

    assert max(of_folder) > 1e-3
    assert of_file == pytest.approx(of_folder, abs=1e-6)


def test_numbers_that_a_header_rounds_are_those_of_the_other_model(
    tiny_models: Path, tmp_path: Path
) -> None:
    config = {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 0.1}}
    folder = changed(tiny_models / "base", tmp_path / "base", **config)
    path = write_gguf(folder, tmp_path / "base.gguf")

    pair = load_model_pair(str(folder), str(path))

    found = pair.candidate.model.config  # type: ignore[attr-defined]
    assert (found.rms_norm_eps, found.rope_parameters["rope_theta"]) == (1e-5, 0.1)


def test_files_beside_a_gguf_file_are_not_read(
    tiny_models: Path, exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter's config there would have another base fetched, with its code."""
    monkeypatch.setenv("PYTEST_DIVERGENCE_CACHE", str(tmp_path / "cache"))
    path = Path(shutil.copy(exact, tmp_path))
    evil = {"base_model_name_or_path": "evil/base", "auto_map": {"AutoConfig": "evil.Config"}}
    for name in ("adapter_config.json", "config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps(evil))

    assert max(map(abs, values(load_model_pair(str(tiny_models / "base"), str(path))))) < 1e-6
    (tmp_path / "config.json").unlink()
    check_differs(load_model_pair(str(path), str(tiny_models / "ft")))


def test_the_other_models_config_is_screened_before_it_is_read(
    tiny_models: Path, exact: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_models / "base", tmp_path / "base")
    (folder / "config.json").write_text('{"model_type": "new", "auto_map": {"AutoConfig": "e.E"}}')
    (folder / "model.safetensors").unlink()

    with pytest.raises(ModelLoadError, match=f"--model-1: {folder} holds no weights"):
        load_model_pair(str(folder), str(exact))


def test_other_tokens_are_named(tiny_models: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_models / "base", tmp_path / "other")
    raw = json.loads((folder / "tokenizer.json").read_text())
    ids = raw["model"]["vocab"]
    ids["A"], ids["B"] = ids["B"], ids["A"]
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    path = write_gguf(folder, tmp_path / "other.gguf")

    with pytest.raises(TokenizerMismatchError, match="of the GGUF file"):
        load_model_pair(str(tiny_models / "base"), str(path))


def test_tokens_that_only_the_file_knows_are_one_outcome(tiny_models: Path, tmp_path: Path) -> None:
    """As from a folder: left out, a model that says nothing but them would look unchanged."""
    folder = extended(tiny_models / "base", tmp_path / "extended", "<call>", "<result>")
    path = write_gguf(folder, tmp_path / "extended.gguf")
    said: list[str] = []

    pair = load_model_pair(str(tiny_models / "base"), str(path), say=said.append)

    assert said[1].startswith(
        'the candidate knows 2 tokens that the reference does not ("<call>", "<result>"): '
    )
    assert [side.num_outcomes for side in pair.sides] == [272, 272]
    whole = load_model_pair(str(tiny_models / "base"), str(folder))
    assert values(pair) == pytest.approx(values(whole), abs=1e-6)


@pytest.mark.parametrize("is_special", [True, False])
def test_a_mark_of_other_input_that_a_converter_drops_is_no_other_tokenizer(
    tiny_models: Path, tmp_path: Path, exact: Path, is_special: bool
) -> None:
    """As Gemma 3's of images, which its tokenizer names last."""
    folder = extended(tiny_models / "base", tmp_path / "whole", "<image>", pad_to=1)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["added_tokens"][-1]["special"] = is_special
    path.write_text(json.dumps(raw))

    if is_special:
        pair = load_model_pair(str(folder), str(exact))
        assert [side.num_outcomes for side in pair.sides] == [272, 272]
        whole = load_model_pair(str(folder), str(tiny_models / "base"))
        assert values(pair) == pytest.approx(values(whole), abs=1e-6)
    else:
        with pytest.raises(TokenizerMismatchError, match="token 271 of the GGUF file is"):
            load_model_pair(str(folder), str(exact))


@pytest.mark.parametrize(("field", "count"), [(8, 2**40), (16, 2**63)], ids=["tensors", "keys"])
def test_counts_that_the_file_cannot_hold_are_refused_at_once(
    tiny_models: Path, exact: Path, tmp_path: Path, field: int, count: int
) -> None:
    data = bytearray(exact.read_bytes())
    data[field : field + 8] = struct.pack("<Q", count)
    path = tmp_path / "bomb.gguf"
    path.write_bytes(data)

    assert f"it declares {count} entries, more than the file can hold" in refusal(tiny_models, path)


def test_more_layers_than_tensors_are_refused_at_once(
    tiny_models: Path, exact: Path, tmp_path: Path
) -> None:
    key = b"llama.block_count" + struct.pack("<I", 4)
    path = tmp_path / "bomb.gguf"
    sound = exact.read_bytes()
    path.write_bytes(sound.replace(key + struct.pack("<I", 2), key + struct.pack("<I", 10**6)))

    assert "it declares 1000000 layers and 21 tensors" in refusal(tiny_models, path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it ends inside its header"),
        (b"PK\x03\x04" + bytes(64), "it does not begin with GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version 9 is not one of (2, 3)"),
    ],
)
def test_what_is_no_gguf_file_is_refused(
    tiny_models: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)

    assert refusal(tiny_models, path) == (f"--model-2: {path} is not a valid GGUF file: {reason}")


def test_a_file_that_is_cut_among_its_weights_is_refused(
    tiny_models: Path, exact: Path, tmp_path: Path
) -> None:
    """As a download leaves it that broke off: its header is whole."""
    path = tmp_path / "model.gguf"
    for share in (0.5, 0.999):
        path.write_bytes(exact.read_bytes()[: int(share * exact.stat().st_size)])
        read_gguf_header(path, role="--model-2")

        said = refusal(tiny_models, path)

        assert said.startswith(f"--model-2: {path} cannot be loaded: ")
        assert "\n" not in said


def test_a_mutated_header_is_read_or_refused(exact: Path, tmp_path: Path) -> None:
    """Whatever its bytes are: nothing else is raised, and nothing is huge."""
    data = np.frombuffer(exact.read_bytes(), dtype=np.uint8)
    generator = np.random.default_rng(0)
    path = tmp_path / "mutated.gguf"
    num_refused = 0
    for _ in range(200):
        mutated = data.copy()
        mutated[generator.integers(0, 8000, 8)] = generator.integers(0, 256, 8)
        path.write_bytes(mutated.tobytes())
        try:
            read_gguf_header(path, role="--model-2")
        except ModelLoadError:
            num_refused += 1

    assert num_refused > 20


def test_a_base_in_gguf_is_refused_where_it_is_not_model_1(tiny_models: Path, exact: Path) -> None:
    with pytest.raises(ModelLoadError, match="is a GGUF file; give --model-1 the file itself"):
        load_model_pair(str(tiny_models / "base"), f"{tiny_models / 'adapter'},base={exact}")
