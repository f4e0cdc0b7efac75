"""Families whose language model reads an image, projected, among its words."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .family import Family, composite
from .tensors import IMAGE, noise, pixels, with_images, with_mask
from .towers import (
    CLIP_VISION,
    COHERE2,
    DECODER,
    GEMMA,
    LLAMA,
    MISTRAL,
    PIXTRAL_VISION,
    QWEN2,
    SIGLIP_VISION,
    VISION,
    Sizes,
)

PATCHES = 16


def _llava(text: Sizes) -> PretrainedConfig:
    return composite(
        "llava",
        "LlavaForConditionalGeneration",
        vision_config=CLIP_VISION,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        vision_feature_layer=-2,
    )


def _llava_llama() -> PretrainedConfig:
    return _llava(LLAMA)


def _llava_qwen2() -> PretrainedConfig:
    return _llava(QWEN2)


def _llava_layers() -> PretrainedConfig:
    config = _llava(LLAMA)
    config.vision_feature_layer = [-3, -1]
    return config


def _all_patches(_: PretrainedConfig) -> dict[str, Tensor]:
    return {**with_mask(with_images(IMAGE, PATCHES)), "pixel_values": pixels()}


def _quarter_patches(_: PretrainedConfig) -> dict[str, Tensor]:
    return {**with_mask(with_images(IMAGE, PATCHES // 4)), "pixel_values": pixels()}


def _paligemma() -> PretrainedConfig:
    return composite(
        "paligemma",
        "PaliGemmaForConditionalGeneration",
        vision_config=SIGLIP_VISION,
        text_config={**GEMMA, "num_key_value_heads": 1},
        image_token_index=IMAGE,
        projection_dim=GEMMA["hidden_size"],
        hidden_size=GEMMA["hidden_size"],
    )


def _paligemma_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    inputs = _all_patches(config)
    return {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])}


def _gemma3() -> PretrainedConfig:
    # the released checkpoint has no pooling head; without that entry there is one, which the forward never reaches
    vision = {key: value for key, value in SIGLIP_VISION.items() if key != "vision_use_head"}
    text = {
        **GEMMA,
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 16,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    }
    return composite(
        "gemma3",
        "Gemma3ForConditionalGeneration",
        vision_config=vision,
        text_config=text,
        mm_tokens_per_image=PATCHES // 4,
        boi_token_index=108,
        eoi_token_index=109,
        image_token_index=IMAGE,
    )


def _gemma3_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    inputs = _quarter_patches(config)
    return {**inputs, "token_type_ids": (inputs["input_ids"] == IMAGE).long()}


def _internvl() -> PretrainedConfig:
    vision = {**VISION, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8]}
    return composite(
        "internvl",
        "InternVLForConditionalGeneration",
        vision_config=vision,
        text_config=QWEN2,
        image_token_id=IMAGE,
        image_seq_length=PATCHES // 4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


def _vipllava() -> PretrainedConfig:
    return composite(
        "vipllava",
        "VipLlavaForConditionalGeneration",
        vision_config=CLIP_VISION,
        text_config=LLAMA,
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        vision_feature_layers=[-1, -2, 1],
    )


def _llava_next() -> PretrainedConfig:
    return composite(
        "llava_next",
        "LlavaNextForConditionalGeneration",
        vision_config=CLIP_VISION,
        text_config=MISTRAL,
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        image_grid_pinpoints=[[32, 64], [64, 32]],
    )


def _llava_onevision() -> PretrainedConfig:
    return composite(
        "llava_onevision",
        "LlavaOnevisionForConditionalGeneration",
        vision_config=SIGLIP_VISION,
        text_config=QWEN2,
        image_token_index=IMAGE,
        video_token_index=111,
        image_grid_pinpoints=[[32, 64], [64, 32]],
    )


def _wide_images(_: PretrainedConfig) -> dict[str, Tensor]:
    # the whole image, then its two halves, with a new-line token after each of their four rows
    return {
        **with_mask(with_images(IMAGE, 3 * PATCHES + 4)),
        "pixel_values": noise(3, 3, 32, 32),
        "image_sizes": torch.tensor([[32, 64]] * 2),
    }


def _video_llava() -> PretrainedConfig:
    return composite(
        "video_llava",
        "VideoLlavaForConditionalGeneration",
        vision_config=CLIP_VISION,
        text_config=LLAMA,
        image_token_index=IMAGE,
        video_token_index=111,
        image_seq_length=PATCHES,
        video_seq_length=2 * (PATCHES + 1),
    )


def _images_and_videos(_: PretrainedConfig) -> dict[str, Tensor]:
    ids = torch.cat([with_images(IMAGE, PATCHES), with_images(111, 2 * (PATCHES + 1), after=2)], dim=1)
    return {
        **with_mask(ids),
        "pixel_values_images": pixels(),
        "pixel_values_videos": noise(2, 3, 32, 32, seed=1),
    }


def _pixtral() -> PretrainedConfig:
    return composite(
        "llava",
        "LlavaForConditionalGeneration",
        vision_config=PIXTRAL_VISION,
        text_config=MISTRAL,
        image_token_index=IMAGE,
        image_seq_length=1,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def _mistral3() -> PretrainedConfig:
    return composite(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        tie_word_embeddings=False,
        vision_config=PIXTRAL_VISION,
        text_config=MISTRAL,
        image_token_index=IMAGE,
        spatial_merge_size=2,
    )


def _sized_patches(_: PretrainedConfig) -> dict[str, Tensor]:
    return {**_all_patches(_), "image_sizes": torch.tensor([[32, 32]] * 2)}


def _sized_quarter_patches(_: PretrainedConfig) -> dict[str, Tensor]:
    return {**_quarter_patches(_), "image_sizes": torch.tensor([[32, 32]] * 2)}


def _aya_vision() -> PretrainedConfig:
    return composite(
        "aya_vision",
        "AyaVisionForConditionalGeneration",
        vision_config=SIGLIP_VISION,
        text_config=COHERE2,
        image_token_index=IMAGE,
        alignment_intermediate_size=88,
    )


def _cohere2_vision() -> PretrainedConfig:
    return composite(
        "cohere2_vision",
        "Cohere2VisionForConditionalGeneration",
        vision_config=SIGLIP_VISION,
        text_config=COHERE2,
        image_token_id=IMAGE,
        alignment_intermediate_size=88,
    )


def _ovis2() -> PretrainedConfig:
    indicators = [111, 112, 113, 114, 115]
    return composite(
        "ovis2",
        "Ovis2ForConditionalGeneration",
        tie_word_embeddings=False,
        vision_config={**VISION, "vocab_size": 64, "num_visual_indicator_tokens": len(indicators)},
        text_config=QWEN2,
        image_token_id=IMAGE,
        visual_indicator_token_ids=indicators,
        vocab_size=QWEN2["vocab_size"],
        hidden_size=QWEN2["hidden_size"],
    )


def _deepseek_vl() -> PretrainedConfig:
    return composite(
        "deepseek_vl",
        "DeepseekVLForConditionalGeneration",
        tie_word_embeddings=False,
        vision_config=SIGLIP_VISION,
        text_config=LLAMA,
        image_token_id=IMAGE,
    )


def _janus() -> PretrainedConfig:
    vision = {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "mlp_ratio": 3.0,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": LLAMA["hidden_size"],
        "num_image_tokens": PATCHES,
    }
    codes = {
        "embed_dim": 8,
        "num_embeddings": 40,
        "latent_channels": 32,
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "num_res_blocks": 1,
        "num_patches": 4,
        "projection_dim": 40,
        "image_token_embed_dim": LLAMA["hidden_size"],
    }
    return composite(
        "janus",
        "JanusForConditionalGeneration",
        tie_word_embeddings=False,
        vision_config=vision,
        vq_config=codes,
        text_config=LLAMA,
        image_token_id=IMAGE,
    )


def _got_ocr2() -> PretrainedConfig:
    vision = {
        "hidden_size": 32,
        "output_channels": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "mlp_dim": 72,
        "image_size": 64,
        "patch_size": 4,
        "window_size": 6,
        "global_attn_indexes": [1],
        "initializer_range": 0.02,
    }
    return composite(
        "got_ocr2",
        "GotOcr2ForConditionalGeneration",
        tie_word_embeddings=False,
        vision_config=vision,
        text_config=QWEN2,
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        pad_token_id=0,
    )


def _large_images(_: PretrainedConfig) -> dict[str, Tensor]:
    return {**with_mask(with_images(IMAGE, PATCHES)), "pixel_values": pixels(64)}


def _lfm2_vl() -> PretrainedConfig:
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    text = {
        **DECODER,
        "model_type": "lfm2",
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    }
    return composite(
        "lfm2_vl",
        "Lfm2VlForConditionalGeneration",
        vision_config={**vision, "model_type": "siglip2_vision_model", "num_patches": 16, "vision_use_head": False},
        text_config=text,
        image_token_id=IMAGE,
        projector_hidden_size=56,
        downsample_factor=2,
    )


def _flat_patches(config: PretrainedConfig) -> dict[str, Tensor]:
    return {
        **with_mask(with_images(IMAGE, PATCHES // 4)),
        "pixel_values": noise(PATCHES, 3 * config.vision_config.patch_size**2),
        "pixel_attention_mask": torch.ones(2, PATCHES, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]] * 2),
    }


LLAVA = (
    Family("llava", _llava_llama, _all_patches),
    Family("llava_qwen2", _llava_qwen2, _all_patches),
    Family("llava_feature_layers", _llava_layers, _all_patches),
    Family("vipllava", _vipllava, _all_patches),
    Family("llava_next", _llava_next, _wide_images),
    Family("llava_onevision", _llava_onevision, _wide_images),
    Family("video_llava", _video_llava, _images_and_videos),
    Family("pixtral", _pixtral, _sized_patches),
    Family("mistral3", _mistral3, _sized_quarter_patches),
    Family("paligemma", _paligemma, _paligemma_inputs),
    Family("gemma3", _gemma3, _gemma3_inputs),
    Family("aya_vision", _aya_vision, _quarter_patches),
    Family("cohere2_vision", _cohere2_vision, _quarter_patches),
    Family("internvl", _internvl, _quarter_patches),
    Family("ovis2", _ovis2, _all_patches),
    Family("deepseek_vl", _deepseek_vl, _all_patches),
    Family("janus", _janus, _all_patches),
    Family("lfm2_vl", _lfm2_vl, _flat_patches),
    Family("got_ocr2", _got_ocr2, _large_images),
)
