"""Tiny shapes of the architecture families that people fine-tune: a ``config.json`` each, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Shape = Mapping[str, Any]

_TEXT: Final[Shape] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
_EXPERTS: Final[Shape] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
_LATENT: Final[Shape] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
}
_STATE: Final[Shape] = {
    "mamba_d_state": 16,
    "mamba_d_head": 16,
    "mamba_n_heads": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_d_ssm": 128,
    "mamba_chunk_size": 16,
}
_LINEAR_ATTENTION: Final[Shape] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
_GEMMA: Final[Shape] = {
    "sliding_window": 32,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}
_SIGLIP: Final[Shape] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_GPT2: Final[Shape] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}


def _text(kind: str, *more: Shape, **own: Any) -> Shape:
    merged: dict[str, Any] = {"model_type": kind, **_TEXT}
    for part in (*more, own):
        merged.update(part)
    return merged


def _wrapped(kind: str, text: Shape, **towers: Any) -> Shape:
    return {"model_type": kind, "text_config": dict(text), **towers}


SHAPES: Final[Mapping[str, Shape]] = {
    "Llama": _text("llama"),
    "Qwen2": _text("qwen2"),
    "Qwen3": _text("qwen3"),
    "Qwen3-MoE": _text("qwen3_moe", _EXPERTS),
    "Qwen3-Next": _text("qwen3_next", _EXPERTS, _LINEAR_ATTENTION, shared_expert_intermediate_size=32),
    "Qwen3.5": _wrapped(
        "qwen3_5",
        _text("qwen3_5_text", _LINEAR_ATTENTION),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
        },
    ),
    "Qwen3.5, text": _text("qwen3_5_text", _LINEAR_ATTENTION),
    "Qwen3.5-MoE, text": _text(
        "qwen3_5_moe_text", _EXPERTS, _LINEAR_ATTENTION, shared_expert_intermediate_size=32
    ),
    "Qwen2.5-VL": _wrapped(
        "qwen2_5_vl",
        _text(
            "qwen2_5_vl_text",
            rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
    ),
    "Gemma": _text("gemma"),
    "Gemma 2": _text("gemma2", _GEMMA),
    "Gemma 3, text": _text("gemma3_text", _GEMMA),
    "Gemma 3": _wrapped(
        "gemma3",
        _text("gemma3_text", _GEMMA),
        vision_config={"model_type": "siglip_vision_model", **_SIGLIP},
        mm_tokens_per_image=4,
    ),
    "Gemma 3n, text": _text(
        "gemma3n_text",
        _GEMMA,
        intermediate_size=[128, 128],
        hidden_size_per_layer_input=16,
        laurel_rank=8,
        vocab_size_per_layer_input=400,
        num_kv_shared_layers=0,
        altup_num_inputs=2,
        activation_sparsity_pattern=[0.0, 0.0],
    ),
    "Gemma 4, text": _text(
        "gemma4_text",
        _GEMMA,
        vocab_size_per_layer_input=400,
        hidden_size_per_layer_input=16,
        num_kv_shared_layers=0,
        global_head_dim=16,
    ),
    "gpt-oss": _text(
        "gpt_oss", _EXPERTS, layer_types=["sliding_attention", "full_attention"], sliding_window=32
    ),
    "Llama 4, text": _text("llama4_text", _EXPERTS, intermediate_size_mlp=128, interleave_moe_layer_step=2),
    "Llama 4": _wrapped(
        "llama4",
        _text("llama4_text", _EXPERTS, intermediate_size_mlp=128, interleave_moe_layer_step=2),
        vision_config={
            **_SIGLIP,
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "projector_output_dim": 32,
            "intermediate_size": 128,
        },
    ),
    "Mistral": _text("mistral", sliding_window=None),
    "Ministral": _text("ministral", sliding_window=32, layer_types=["sliding_attention", "full_attention"]),
    "Ministral 3": _text("ministral3"),
    "Mistral-Small-3": _wrapped(
        "mistral3",
        _text("mistral", sliding_window=None),
        vision_config={"model_type": "pixtral", **_SIGLIP, "head_dim": 16},
        spatial_merge_size=1,
    ),
    "Mixtral": _text("mixtral", _EXPERTS, sliding_window=None),
    "Granite": _text("granite"),
    "Granite-MoE": _text("granitemoe", _EXPERTS),
    "Granite-4-H": _text(
        "granitemoehybrid", _EXPERTS, _STATE, layer_types=["mamba", "attention"], shared_intermediate_size=64
    ),
    "Falcon-H1": _text("falcon_h1", _STATE),
    "Nemotron-H": _text(
        "nemotron_h",
        layers_block_type=["mamba", "attention", "mlp"],
        num_hidden_layers=3,
        mamba_num_heads=8,
        mamba_head_dim=16,
        ssm_state_size=16,
        n_groups=1,
        chunk_size=16,
        expand=2,
    ),
    "Nemotron": _text("nemotron"),
    "Bamba": _text("bamba", _STATE, attn_layer_indices=[1]),
    "Zamba2": _text(
        "zamba2",
        mamba_d_state=16,
        mamba_ngroups=1,
        n_mamba_heads=8,
        mamba_headdim=16,
        chunk_size=16,
        num_mem_blocks=1,
        hybrid_layer_ids=[1],
        layers_block_type=["mamba", "hybrid"],
        num_key_value_heads=4,
        attention_head_dim=32,
        attention_hidden_size=128,
        adapter_rank=8,
    ),
    "Mamba": {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "Mamba-2": {
        "model_type": "mamba2",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 16,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 1,
        "chunk_size": 16,
    },
    "RecurrentGemma": _text(
        "recurrent_gemma", lru_width=64, block_types=["recurrent", "attention"], attention_window_size=32
    ),
    "DeepSeek-V3": _text(
        "deepseek_v3", _EXPERTS, _LATENT, n_group=1, topk_group=1, first_k_dense_replace=1, n_shared_experts=1
    ),
    "DeepSeek-V2": _text(
        "deepseek_v2", _EXPERTS, _LATENT, n_group=1, topk_group=1, first_k_dense_replace=1, n_shared_experts=1
    ),
    "Phi": _text("phi", partial_rotary_factor=0.5),
    "Phi-3": _text("phi3", pad_token_id=0),
    "Phi-4-multimodal": _text(
        "phi4_multimodal",
        pad_token_id=0,
        vision_config={**_SIGLIP, "crop_size": 28},
        audio_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "input_size": 16,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 32,
            "bias_max_distance": 8,
        },
    ),
    "PhiMoE": _text("phimoe", _EXPERTS, sliding_window=None),
    "SmolLM3": _text("smollm3", pad_token_id=0),
    "OLMo": _text("olmo"),
    "OLMo2": _text("olmo2"),
    "OLMo3": _text("olmo3", sliding_window=32, layer_types=["sliding_attention", "full_attention"]),
    "OLMoE": _text("olmoe", _EXPERTS),
    "GLM-4": _text("glm4", pad_token_id=0),
    "GLM-4-MoE": _text(
        "glm4_moe",
        _EXPERTS,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        n_shared_experts=1,
        pad_token_id=0,
    ),
    "GPT-2": {"model_type": "gpt2", **_GPT2},
    "GPT-Neo": {
        "model_type": "gpt_neo",
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": 256,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 32,
    },
    "GPT-J": {"model_type": "gptj", **_GPT2, "rotary_dim": 8},
    "GPT-NeoX": _text("gpt_neox"),
    "OPT": {
        "model_type": "opt",
        "hidden_size": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 64,
    },
    "Bloom": {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "Falcon": {
        "model_type": "falcon",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "multi_query": True,
    },
    "MPT": {"model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
    "Cohere": _text("cohere", pad_token_id=0),
    "Cohere2": _text(
        "cohere2", pad_token_id=0, sliding_window=32, layer_types=["sliding_attention", "full_attention"]
    ),
    "LFM2": _text("lfm2", layer_types=["conv", "full_attention"], block_ff_dim=128),
    "StarCoder2": _text("starcoder2", sliding_window=None),
    "StableLM": _text("stablelm"),
    "EXAONE-4": _text("exaone4", sliding_window=None, layer_types=["full_attention", "full_attention"]),
    "Hunyuan": _text("hunyuan_v1_dense"),
    "ERNIE-4.5": _text("ernie4_5"),
    "Seed-OSS": _text("seed_oss"),
    "MiniMax-M2": _text("minimax_m2", _EXPERTS),
}
