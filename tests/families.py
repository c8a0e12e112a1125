"""Small random models of every family, built from their configs."""

from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from helpers.models.load import LanguageModel
from helpers.models.sources import Source
from helpers.words.settings import SourceOptions

SMALL = {
    "vocab_size": 49152, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    "initializer_range": 0.3,
}  # fmt: skip
GPT = {  # the names that these sizes had before they were agreed on
    "vocab_size": 49152, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "n_inner": 64, "bos_token_id": 1,
    "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
FALCON = {"num_kv_heads": 2, "ffn_hidden_size": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
LINEAR = {"num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
          "linear_value_head_dim": 8}  # fmt: skip

# name -> model type, its config, whether its attention can share the prefix (helpers/engine/attention.py): not with
# capped scores, sinks, or attention that isn't called through transformers' interface
FAMILIES = {
    "Llama": ("llama", SMALL, True),
    "Llama, a key for each head": ("llama", SMALL | {"num_key_value_heads": 4}, True),
    "Llama, one key": ("llama", SMALL | {"num_key_value_heads": 1}, True),
    "Mistral": ("mistral", SMALL, True),
    "Mistral, short window": ("mistral", SMALL | {"sliding_window": 8}, False),
    "Ministral": ("ministral", SMALL | {"head_dim": 8}, True),
    "Ministral 3": ("ministral3", SMALL | {"head_dim": 8}, True),
    "Qwen 2": ("qwen2", SMALL, True),
    "Qwen 3": ("qwen3", SMALL | {"head_dim": 16}, True),
    "Gemma": ("gemma", SMALL | {"head_dim": 8}, True),
    "Gemma 2": ("gemma2", SMALL | {"head_dim": 8}, False),
    "Gemma 3 (text)": ("gemma3_text", SMALL | {"head_dim": 8}, True),
    "Gemma 3 (with images)": ("gemma3", {"text_config": SMALL | {"head_dim": 8}, "vision_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 28,
        "patch_size": 14}, "mm_tokens_per_image": 4}, True),
    "OLMo": ("olmo", SMALL, True),
    "OLMo 2": ("olmo2", SMALL, True),
    "OLMo 3": ("olmo3", SMALL, True),
    "Phi-1, Phi-2": ("phi", SMALL, True),
    "Phi, a key for each head": ("phi", SMALL | {"num_key_value_heads": 4}, True),
    "Phi-3, Phi-4": ("phi3", SMALL, True),
    "Phi-3, a key for each head": ("phi3", SMALL | {"num_key_value_heads": 4}, True),
    "GPT-2": ("gpt2", GPT, True),
    "GPT-Neo": ("gpt_neo", SMALL | {"num_layers": 3, "attention_types": [[["global", "local", "global"], 1]]}, False),
    "GPT-NeoX, Pythia": ("gpt_neox", SMALL, True),
    "GPT-NeoX, one branch after the other": ("gpt_neox", SMALL | {"use_parallel_residual": False}, True),
    "GPT-J": ("gptj", GPT | {"rotary_dim": 4}, False),
    "OPT": ("opt", SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32}, True),
    "BLOOM": ("bloom", SMALL | {"n_head": 4, "n_layer": 3}, False),
    "Falcon": ("falcon", SMALL | {"multi_query": True}, False),
    "Falcon, several keys": ("falcon", SMALL | {"new_decoder_architecture": True} | FALCON, False),
    "Falcon, one branch after the other": ("falcon", SMALL | {"parallel_attn": False, "multi_query": False}, False),
    "StableLM": ("stablelm", SMALL, False),
    "StableLM, parallel": ("stablelm", SMALL | {"use_parallel_residual": True}, False),
    "Granite": ("granite", SMALL | {"attention_multiplier": 0.3, "residual_multiplier": 0.7}, True),
    "Cohere": ("cohere", SMALL, True),
    "Cohere 2": ("cohere2", SMALL, True),
    "SmolLM3": ("smollm3", SMALL, True),
    "MiniCPM3": ("minicpm3", SMALL | LATENT | {"scale_depth": 2.4}, False),
    "GLM-4": ("glm4", SMALL | {"head_dim": 8}, True),
    "EXAONE 4": ("exaone4", SMALL, True),
    "StarCoder 2": ("starcoder2", SMALL, True),
    "MPT": ("mpt", SMALL | {"d_model": 32, "n_heads": 4, "n_layers": 3, "expansion_ratio": 2, "max_seq_len": 64,
        "use_cache": True}, False),
    "XGLM": ("xglm", {**SMALL, "d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 64}, False),
    "Llama 4 (text)": ("llama4_text", SMALL | {"head_dim": 8, "num_local_experts": 4,
        "intermediate_size_mlp": 64}, True),
    "Mixtral": ("mixtral", SMALL | {"num_local_experts": 4}, True),
    "Qwen 2 MoE": ("qwen2_moe", SMALL | EXPERTS | {"shared_expert_intermediate_size": 32}, True),
    "Qwen 3 MoE": ("qwen3_moe", SMALL | EXPERTS, True),
    "Granite MoE": ("granitemoe", SMALL | {"num_local_experts": 4, "residual_multiplier": 0.7}, True),
    "DeepSeek 3": ("deepseek_v3", SMALL | LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                   "topk_group": 1, "moe_intermediate_size": 32}, False),
    "Qwen3-Next": ("qwen3_next", SMALL | EXPERTS | LINEAR | {"shared_expert_intermediate_size": 32,
        "head_dim": 8}, False),
    "Qwen 3.5 (text)": ("qwen3_5_text", SMALL | LINEAR | {"head_dim": 8}, False),
    "LFM2": ("lfm2", SMALL | {"layer_types": ["conv", "full_attention", "conv"]}, False),
    "Granite 4 without experts": ("granitemoehybrid", SMALL | {"num_local_experts": 0, "layer_types": ["attention"] * 3,
        "shared_intermediate_size": 64, "residual_multiplier": 0.7, "mamba_n_heads": 8, "mamba_d_head": 8}, True),
    "BioGPT": ("biogpt", SMALL, False),
    "gpt-oss": ("gpt_oss", SMALL | {"num_local_experts": 4, "head_dim": 8}, False),
}  # fmt: skip

KINDS = (  # that differ in kind; the fast tests are of these, the slow ones of the others
    "Llama", "Mistral, short window", "Phi-3, Phi-4", "Gemma 3 (with images)", "GPT-2", "GPT-NeoX, Pythia", "OPT", "BLOOM",
    "Falcon, several keys", "Granite", "Qwen 3.5 (text)", "Mixtral", "gpt-oss",
)  # fmt: skip


def each(families=FAMILIES) -> list:
    """Return families as parameters of a test: those of KINDS for the fast tests, the others for the slow ones."""
    return [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in families]


@cache
def small_model(family: str, tokenizer) -> LanguageModel:
    """Make a family's model with random weights, float32."""
    kind, settings, _ = FAMILIES[family]
    return random_model(family, CONFIG_MAPPING[kind](**settings), tokenizer)


def random_model(name: str, config, tokenizer, **source_options) -> LanguageModel:
    """Make a model of a config with random weights, float32; its parts are not proved yet."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    source = Source(name, Path(), None, SourceOptions.of(source_options))
    return LanguageModel(source, model.config, tokenizer, model=model, dtype="float32", fingerprint="")
