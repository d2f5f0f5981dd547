"""Weights in few bits: they are scored, and trained through where a gradient passes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GptOssConfig

from pytest_divergence.core.errors import ModelLoadError
from pytest_divergence.discovery.strategies import soft_prompt
from pytest_divergence.models.load_plan import resolve_pair
from pytest_divergence.models.loading import load_model_pair
from pytest_divergence.models.pair import ModelPair
from pytest_divergence.models.preflight import inspect_pair
from pytest_divergence.models.transformers_log import quiet_transformers
from tests.models.test_kinds import check_trains, values
from tests.models_in_memory import local, tiny_config, tiny_model
from tests.tiny import tiny_tokenizer


class Opaque(torch.autograd.Function):
    """A product whose backward pass is not written, as that of some kernels in few bits."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rows @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise NotImplementedError("no backward pass")


class OpaqueLinear(torch.nn.Module):
    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = Opaque.apply(rows, self.weight)  # type: ignore[no-untyped-call]
        return found


@pytest.fixture
def closed_pair(tiny_models: Path) -> ModelPair:
    """A pair whose candidate passes no gradient through its first layer."""
    pair = load_model_pair(str(tiny_models / "base"), str(tiny_models / "ft"))
    model: Any = local(pair.candidate).model
    attention = model.model.layers[0].self_attn
    for name in ("q_proj", "k_proj", "v_proj"):
        setattr(attention, name, OpaqueLinear(getattr(attention, name).weight.data))
    model.hf_quantizer = object()  # what transformers gives a quantised model
    return pair


def test_a_model_that_passes_no_gradient_is_scored_and_soft_prompts_are_left_out_aloud(
    closed_pair: ModelPair,
) -> None:
    assert not local(closed_pair.candidate).passes_gradients()
    assert local(closed_pair.reference).passes_gradients()
    assert min(values(closed_pair)) > 0
    said: list[str] = []

    class Context:
        round = 0

        class profile:  # noqa: N801 (an attribute)
            num_restarts = 2

        class listener:  # noqa: N801 (an attribute)
            say = said.append

    context: Any = Context()
    assert soft_prompt.SoftPromptStrategy().propose(closed_pair, context) == []
    assert said == [
        "no gradient reaches the inputs of the candidate, as in some quantised models: soft "
        "prompts are skipped, and the other strategies continue"
    ]


def with_method(folder: Path, target: Path, **quantisation: object) -> Path:
    """A copy of a folder whose config names a method of quantising."""
    copied = Path(shutil.copytree(folder, target))
    config = json.loads((copied / "config.json").read_text())
    config["quantization_config"] = quantisation
    (copied / "config.json").write_text(json.dumps(config))
    return copied


def with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("method", "packages"),
    [
        ("awq", ["gptqmodel"]),
        ("gptq", ["optimum", "gptqmodel"]),
    ],
)
def test_what_a_method_needs_is_named_before_weights_are_read(
    tiny_models: Path, tmp_path: Path, method: str, packages: list[str]
) -> None:
    expected = (
        f"--model-2 is quantised with {method}, which needs {' and '.join(packages)}: "
        f"pip install {' '.join(packages)}"
    )
    base = tiny_models / "base"
    options: dict[str, object] = {"bits": 4, "group_size": 32, "load_in_8bit": True}
    folder = with_method(base, tmp_path / method, quant_method=method, **options)

    with pytest.raises(ModelLoadError) as loading:
        load_model_pair(str(base), str(folder))
    with pytest.raises(ModelLoadError) as looking:
        list(inspect_pair(resolve_pair(str(base), str(folder))))

    assert str(loading.value) == str(looking.value) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (
            "fbgemm_fp8",
            "--model-2 is quantised with fbgemm_fp8, which runs only on a GPU; give "
            "--divergence-device=cuda if there is one, or a folder in another format",
        ),
        (
            "nonsense",
            '--model-2 is quantised with "nonsense", which the installed transformers does not '
            "know; update transformers, or give a folder of plain weights",
        ),
    ],
)
def test_a_method_that_cannot_run_here_is_refused(
    tiny_models: Path, tmp_path: Path, method: str, expected: str
) -> None:
    folder = with_method(tiny_models / "base", tmp_path / method, quant_method=method)

    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(tiny_models / "base"), str(folder), device="cpu")

    assert str(caught.value) == expected


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"), reason="older ones need triton for it"
)
def test_fp8_is_turned_back_into_floats_without_a_gpu(tiny_models: Path, tmp_path: Path) -> None:
    """As DeepSeek and Qwen release it: blocks of float8, each with its scale."""
    base, dense = tiny_models / "base", tmp_path / "dense"
    folder = with_method(
        base,
        tmp_path / "fp8",
        quant_method="fp8",
        activation_scheme="dynamic",
        weight_block_size=[128, 128],
        modules_to_not_convert=["lm_head"],
    )

    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "_proj.weight" in name]:
            scale = tensors[name].abs().max() / torch.finfo(torch.float8_e4m3fn).max
            tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)

    def round_weights(tensors: dict[str, torch.Tensor]) -> None:
        quantise(tensors)
        for name in [name for name in tensors if name.endswith("_scale_inv")]:
            weight = name.removesuffix("_scale_inv")
            tensors[weight] = tensors[weight].float() * tensors.pop(name)

    with_tensors(folder, quantise)
    with_tensors(Path(shutil.copytree(base, dense)), round_weights)
    plan = resolve_pair(str(base), str(folder))

    pair = load_model_pair(str(base), str(folder), device="cpu")

    assert values(pair) == pytest.approx(values(load_model_pair(str(base), str(dense))), abs=1e-6)
    assert max(values(pair)) > 1e-4
    check_trains(pair)
    assert plan.weights == resolve_pair(str(base), str(dense)).weights
    assert (
        "--model-2 is quantised with fp8: its weights are turned back into floats at loading "
        "and take that much memory; gradients pass, so soft prompts are trained"
    ) in [finding.text for finding in inspect_pair(plan)]


def test_mxfp4_is_turned_back_into_floats_without_its_kernels(tmp_path: Path) -> None:
    """As gpt-oss is released: experts of two numbers a byte, and a scale for 32 of them."""
    config = tiny_config(
        GptOssConfig, num_local_experts=2, num_experts_per_tok=1, intermediate_size=32
    )
    model = tiny_model(config=config)
    generator = torch.Generator().manual_seed(0)
    packed: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, rows, columns = weight.shape
            blocks = torch.randint(0, 256, (experts, columns, rows // 32, 16), generator=generator)
            packed[f"{name}_blocks"] = blocks.to(torch.uint8)
            packed[f"{name}_scales"] = torch.full((experts, columns, rows // 32), 124).byte()
            with torch.no_grad():
                weight.copy_(as_floats(blocks).transpose(1, 2) * 2.0 ** (124 - 127))
    with quiet_transformers():
        for each, name in ((model, "dense"), (tiny_model(config=config, seed=1), "other")):
            each.save_pretrained(tmp_path / name)
            tiny_tokenizer().save_pretrained(tmp_path / name)
    folder = with_method(tmp_path / "dense", tmp_path / "mxfp4", quant_method="mxfp4")

    def pack(tensors: dict[str, torch.Tensor]) -> None:
        for name in packed:
            tensors.pop(name.rpartition("_")[0], None)
        tensors.update(packed)

    with_tensors(folder, pack)

    pair = load_model_pair(str(tmp_path / "other"), str(folder), device="cpu")

    dense = load_model_pair(str(tmp_path / "other"), str(tmp_path / "dense"), device="cpu")
    assert values(pair) == pytest.approx(values(dense), rel=1e-3)  # older ones go by bfloat16
    check_trains(pair)


def as_floats(blocks: torch.Tensor) -> torch.Tensor:
    """Two numbers of four bits a byte, the low half first: (..., N, 16) -> (..., N * 32)."""
    positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    table = torch.tensor([*positive, *(-number for number in positive)])
    return torch.stack([table[blocks & 15], table[blocks >> 4]], dim=-1).flatten(-3)


def saved(folder: Path, target: Path, config: Any, **options: Any) -> Path:
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, quantization_config=config, dtype=torch.float32, **options
        )
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def test_torchao_in_eight_bits(tiny_models: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="the extra quantisers has it")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    config = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    folder = saved(tiny_models / "base", tmp_path, config)

    pair = load_model_pair(str(tiny_models / "base"), str(folder))

    assert not pair.is_same_model
    assert 1e-6 < max(values(pair)) < 0.1
    assert local(pair.candidate).passes_gradients()
    check_trains(pair)


def test_bitsandbytes_in_eight_bits(tiny_models: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra quantisers has it")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    folder = saved(tiny_models / "base", tmp_path, config, device_map={"": "cpu"})

    pair = load_model_pair(str(tiny_models / "base"), str(folder))

    assert 1e-6 < max(values(pair)) < 1
    assert local(pair.candidate).passes_gradients()
    check_trains(pair)


def test_outliers_that_are_looked_for_in_all_rows_are_named(
    tiny_models: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra quantisers has it")
    from transformers import BitsAndBytesConfig

    def sharpen(tensors: dict[str, torch.Tensor]) -> None:
        """Activations with outliers, and answers that are sure, as those of trained models are."""
        for name in tensors:
            if "proj" in name or "embed" in name:
                tensors[name] *= 4
            elif "lm_head" in name:
                tensors[name] *= 30

    base = with_tensors(Path(shutil.copytree(tiny_models / "base", tmp_path / "base")), sharpen)
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=2.5)  # type: ignore[no-untyped-call]
    folder = saved(base, tmp_path / "int8", config, device_map={"": "cpu"})

    with pytest.raises(ModelLoadError) as caught:
        load_model_pair(str(base), str(folder))
    text = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").write_text(
        text.replace('"llm_int8_threshold": 2.5', '"llm_int8_threshold": 0.0'), "utf-8"
    )
    pair = load_model_pair(str(base), str(folder))

    assert "because its 8-bit layers (LLM.int8) look for outliers among" in str(caught.value)
    assert str(caught.value).endswith(
        "set llm_int8_threshold to 0.0 in the quantization_config of its config.json"
    )
    assert max(values(pair)) > 1e-6


def test_compressed_tensors_in_eight_bits(tiny_models: Path, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="the extra quantisers has it")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.utils import calculate_qparams

    base = tiny_models / "base"
    bits = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    scheme = QuantizationScheme(targets=["Linear"], weights=bits)
    with quiet_transformers():
        model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = QuantizationConfig(
            config_groups={"all": scheme}, ignore=["lm_head"], quantization_status="frozen"
        )
        apply_quantization_config(model, config)
        for module in model.modules():
            if hasattr(module, "weight_scale"):
                least, most = (
                    pick(module.weight.data, 1, True) for pick in (torch.amin, torch.amax)
                )
                module.weight_scale.data.copy_(calculate_qparams(least, most, bits)[0])
        compressor = ModelCompressor.from_pretrained_model(model)
        compressor.compress_model(model)
        model.save_pretrained(tmp_path)
        compressor.update_config(tmp_path)
        AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)

    pair = load_model_pair(str(base), str(tmp_path))

    assert 1e-6 < max(values(pair)) < 0.1
    assert local(pair.candidate).passes_gradients()
    check_trains(pair)
