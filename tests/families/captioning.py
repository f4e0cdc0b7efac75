"""Families that write or answer in words from cross-attention to an image, or from its queries."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .family import Family, composite
from .tensors import IMAGE, closed, pixels, placed_patches, with_images, with_mask, words
from .towers import BEGIN, END, LLAMA, PAD, PROJECTION, SPECIAL, TEXT, VISION, VOCABULARY

QUERIES = 5


def _blip_text(hidden_size: int) -> dict[str, int]:
    return {**TEXT, **SPECIAL, "hidden_size": hidden_size, "sep_token_id": 3, "projection_dim": PROJECTION}


def _blip() -> PretrainedConfig:
    return composite(
        "blip",
        "BlipForConditionalGeneration",
        text_config=_blip_text(48),
        vision_config=VISION,
        projection_dim=PROJECTION,
        image_text_hidden_size=PROJECTION,
    )


def _blip_inputs(_: PretrainedConfig) -> dict[str, Tensor]:
    ids = closed(words(8), 1, 3)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels()}


def _blip_vqa() -> PretrainedConfig:
    # one width: encoder and decoder of the text are made from one config, and one attends to the other
    return composite(
        "blip",
        "BlipForQuestionAnswering",
        text_config=_blip_text(48),
        vision_config={**VISION, "hidden_size": 48},
        projection_dim=PROJECTION,
        image_text_hidden_size=PROJECTION,
    )


def _blip_vqa_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    answers = closed(words(3, seed=1), 1, 3)
    return {
        **_blip_inputs(config),
        "decoder_input_ids": answers,
        "decoder_attention_mask": torch.ones_like(answers),
        "labels": answers,
    }


Q_FORMER = {
    "hidden_size": 56,
    "intermediate_size": 88,
    "num_attention_heads": 7,
    "num_hidden_layers": 3,
    "cross_attention_frequency": 2,
    "vocab_size": 96,
}
OPT = {
    "model_type": "opt",
    "hidden_size": 48,
    "word_embed_proj_dim": 48,
    "ffn_dim": 104,
    "num_attention_heads": 6,
    "num_hidden_layers": 4,
    "vocab_size": 120,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
T5 = {
    "model_type": "t5",
    "d_model": 48,
    "d_ff": 104,
    "d_kv": 16,  # the heads' width together is not the model's, as in T5-small and Flan-T5
    "num_heads": 6,
    "num_layers": 4,
    "num_decoder_layers": 3,
    "vocab_size": 120,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
}


def _blip2() -> PretrainedConfig:
    return composite(
        "blip-2",
        "Blip2ForConditionalGeneration",
        vision_config=VISION,
        qformer_config=Q_FORMER,
        text_config=OPT,
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )


def _blip2_t5() -> PretrainedConfig:
    return composite(
        "blip-2",
        "Blip2ForConditionalGeneration",
        vision_config=VISION,
        qformer_config=Q_FORMER,
        text_config=T5,
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
        tie_word_embeddings=False,
    )


def _blip2_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    ids = with_images(config.image_token_index, QUERIES, before=0)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels()}


def _blip2_t5_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    return {**_blip2_inputs(config), "decoder_input_ids": words(4, seed=1)}


def _florence2() -> PretrainedConfig:
    vision = {
        "depths": [1, 1, 3, 1],
        "embed_dim": [16, 24, 32, 40],
        "num_heads": [2, 3, 4, 5],
        "num_groups": [2, 3, 4, 5],
        "window_size": 4,
        "mlp_ratio": 3.0,
        "projection_dim": 48,
        "max_position_embeddings": 8,
    }
    text = {
        "model_type": "bart",
        "d_model": 48,
        "encoder_layers": 3,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 88,
        "decoder_layers": 4,
        "decoder_attention_heads": 6,
        "decoder_ffn_dim": 104,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "bos_token_id": BEGIN,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": END,
        "forced_eos_token_id": None,
    }
    return composite(
        "florence2",
        "Florence2ForConditionalGeneration",
        vision_config=vision,
        text_config=text,
        image_token_id=IMAGE,
    )


def _florence2_inputs(_: PretrainedConfig) -> dict[str, Tensor]:
    ids = with_images(IMAGE, 5, before=0)  # the last stage's 2 by 2 patches, and their mean
    return {**with_mask(ids), "pixel_values": pixels(64), "decoder_input_ids": words(4, seed=1)}


def _kosmos2() -> PretrainedConfig:
    text = {
        "embed_dim": 48,
        "ffn_dim": 104,
        "attention_heads": 6,
        "layers": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
    }
    return composite(
        "kosmos-2",
        "Kosmos2ForConditionalGeneration",
        vision_config=VISION,
        text_config=text,
        latent_query_num=5,
    )


def _kosmos2_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    inputs = with_mask(words(12))
    position = torch.zeros_like(inputs["input_ids"])
    position[:, 2 : 2 + config.latent_query_num] = 1
    return {**inputs, "pixel_values": pixels(), "image_embeds_position_mask": position}


def _kosmos2_5() -> PretrainedConfig:
    text = {
        "embed_dim": 48,
        "ffn_dim": 104,
        "attention_heads": 6,
        "layers": 4,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "pad_token_id": PAD,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
    }
    vision = {
        "hidden_size": 32,
        "patch_embed_hidden_size": 40,
        "intermediate_size": 72,
        "head_dim": 16,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "max_num_patches": 16,
    }
    return composite(
        "kosmos-2.5",
        "Kosmos2_5ForConditionalGeneration",
        vision_config=vision,
        text_config=text,
        latent_query_num=5,
    )


def _kosmos2_5_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    inputs = _kosmos2_inputs(config)
    del inputs["pixel_values"]
    return {**inputs, "flattened_patches": placed_patches(config.vision_config.patch_embed_hidden_size)}


def _instructblip() -> PretrainedConfig:
    return composite(
        "instructblip",
        "InstructBlipForConditionalGeneration",
        vision_config=VISION,
        qformer_config=Q_FORMER,
        text_config=LLAMA,
        num_query_tokens=QUERIES,
        image_token_index=IMAGE,
    )


def _instructblip_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    question = words(6, seed=1)
    return {
        **_blip2_inputs(config),
        "qformer_input_ids": question,
        "qformer_attention_mask": torch.ones_like(question),
    }


def _git() -> PretrainedConfig:
    return composite("git", "GitForCausalLM", vision_config=VISION, **TEXT, bos_token_id=BEGIN, eos_token_id=END)


def _git_inputs(_: PretrainedConfig) -> dict[str, Tensor]:
    return {**with_mask(words(8)), "pixel_values": pixels()}


CAPTIONING = (
    Family("blip_captioning", _blip, _blip_inputs),
    Family("blip_vqa", _blip_vqa, _blip_vqa_inputs),
    Family("blip2", _blip2, _blip2_inputs),
    Family("blip2_t5", _blip2_t5, _blip2_t5_inputs),
    Family("instructblip", _instructblip, _instructblip_inputs),
    Family("git", _git, _git_inputs),
    Family("florence2", _florence2, _florence2_inputs),
    Family("kosmos2", _kosmos2, _kosmos2_inputs),
    Family("kosmos2_5", _kosmos2_5, _kosmos2_5_inputs),
)
