"""Sizes of the towers: no two towers of a model agree in any, so that a mixed-up axis shows."""

from typing import Any

Sizes = dict[str, Any]

PROJECTION = 40
VOCABULARY = 120
PAD, BEGIN, END = 0, 1, 2

VISION: Sizes = {
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: Sizes = {
    "hidden_size": 48,
    "intermediate_size": 104,
    "num_attention_heads": 6,
    "num_hidden_layers": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
# an end id other than 2: transformers reads 2 as "pool at the highest id", kept for the first CLIP checkpoints
SPECIAL: Sizes = {"pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": 3}
DECODER: Sizes = {**TEXT, "num_key_value_heads": 2, "pad_token_id": PAD, "bos_token_id": BEGIN, "eos_token_id": END}

LLAMA: Sizes = {"model_type": "llama", **DECODER}
QWEN2: Sizes = {"model_type": "qwen2", **DECODER}
# heads wider together than the residual stream, as in the released ones
GEMMA: Sizes = {"model_type": "gemma", **DECODER, "head_dim": 16}
CLIP_VISION: Sizes = {"model_type": "clip_vision_model", **VISION}
SIGLIP_VISION: Sizes = {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False}
MISTRAL: Sizes = {"model_type": "mistral", **DECODER, "head_dim": 16, "sliding_window": None}
# three of its layers look at a window, one at all
COHERE2: Sizes = {
    "model_type": "cohere2",
    **DECODER,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
}
PIXTRAL_VISION: Sizes = {"model_type": "pixtral", **VISION}
