"""What single families ask of their configuration beyond `shrunken.py`'s rules."""

from __future__ import annotations

from typing import Any

from transformers import SiglipVisionConfig

SMALL_VISION: Any = SiglipVisionConfig(
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=32,
    patch_size=16,
)
vars(SMALL_VISION).update(rms_norm_eps=1e-6, vocab_size=8, vocab_offset=2**18)
"""Instead of a vision model from another library: no image is ever looked at."""
QWEN4_EXP = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "ple_layer_ids": [1],
    "ngram_vocab_size_base": 50,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 2,
}

DEVIATIONS = {"dory": 1e-4}
"""Nats per token from plain passes, of families that amplify rounding on some CPUs: dory reads what
its layers say again and again, and parted by 3.2e-5 on one."""

OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere": {"tie_word_embeddings": True},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
            }
        }
    },
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "doge": {"keep_window_size": 2048},  # beyond it a token's keys depend on later tokens
    "dory": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "n_input_layers": 1,
        "n_output_layers": 1,
        "n_recurrent_layers": 2,
    },
    "dots3_note": {"text_config": {"head_dim": 24}},
    "dots3_note_text": {"head_dim": 24},
    "gemma3n": {"vision_config": SMALL_VISION},
    "gemma4_assistant": {
        "start": {
            "text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
        }
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "kolibri1_1": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", *["indexed_attention"] * 3],
        "kv_source_layers": [
            0,
            1,
            1,
            3,
        ],  # a layer that reads another's keys, and one that does not
        "index_layers": [1, 3],
        "mlp_only_layers": [0],
        "index_num_heads": 2,
        "index_topk": 8,
        "index_pool_size": 32,  # fewer than a row has, or nothing would be left out
        "index_compression": 4,
        "index_num_local_tokens": 4,
        "index_num_sink_tokens": 2,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 8},
    "mamba2": {"head_dim": 32},
    "minicpm3": {"dim_model_base": 64},
    "qwen4_exp": {"text_config": QWEN4_EXP},
    "qwen4_exp_text": QWEN4_EXP,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_shape": [64, 32], "axial_pos_embds_dim": [32, 32]},
    "xlstm": {
        "hidden_size": 128,
        "max_inference_chunksize": 2**14,  # a longer row is read without gradients
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
}
"""Fields by type; `start` holds those without which even the default cannot be made."""
