"""Families whose vision tower takes images of any size as one run of patches, and whose positions have three axes."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .family import Family, composite
from .tensors import IMAGE, noise, with_images, with_mask
from .towers import DECODER

MERGED = {
    "image_token_id": IMAGE,
    "video_token_id": 111,
    "vision_start_token_id": 112,
    "vision_end_token_id": 113,
}
MULTIMODAL_ROPE = {"rope_type": "default", "type": "default", "mrope_section": [2, 1, 1]}


def _qwen2_vl() -> PretrainedConfig:
    vision = {
        "depth": 3,
        "embed_dim": 32,
        "hidden_size": DECODER["hidden_size"],
        "num_heads": 4,
        "mlp_ratio": 3,
        "patch_size": 4,
    }
    return composite(
        "qwen2_vl",
        "Qwen2VLForConditionalGeneration",
        vision_config=vision,
        text_config={**DECODER, "rope_scaling": MULTIMODAL_ROPE},
        **MERGED,
    )


def _qwen2_5_vl() -> PretrainedConfig:
    vision = {
        "depth": 5,
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_heads": 4,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1, 4],
        "out_hidden_size": DECODER["hidden_size"],
    }
    return composite(
        "qwen2_5_vl",
        "Qwen2_5_VLForConditionalGeneration",
        vision_config=vision,
        text_config={**DECODER, "rope_scaling": MULTIMODAL_ROPE},
        **MERGED,
    )


def _merged_patches(config: PretrainedConfig) -> dict[str, Tensor]:
    vision, side = config.vision_config, 8
    ids = with_images(IMAGE, (side // vision.spatial_merge_size) ** 2, before=3)
    ids[:, 2] = MERGED["vision_start_token_id"]
    ids[:, -5] = MERGED["vision_end_token_id"]
    inside = 3 * vision.temporal_patch_size * vision.patch_size**2
    return {
        **with_mask(ids),
        "pixel_values": noise(side**2, inside).flatten(0, 1),
        "image_grid_thw": torch.tensor([[1, side, side]] * 2),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }


def _qwen3_vl() -> PretrainedConfig:
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_heads": 4,
        "patch_size": 4,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 2],
        "out_hidden_size": DECODER["hidden_size"],
    }
    return composite(
        "qwen3_vl",
        "Qwen3VLForConditionalGeneration",
        vision_config=vision,
        text_config={**DECODER, "head_dim": 8, "rope_scaling": MULTIMODAL_ROPE},
        **MERGED,
    )


def _glm4v() -> PretrainedConfig:
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_heads": 4,
        "patch_size": 4,
        "image_size": 32,
        "out_hidden_size": DECODER["hidden_size"],
    }
    return composite(
        "glm4v",
        "Glm4vForConditionalGeneration",
        vision_config=vision,
        text_config={**DECODER, "rope_scaling": MULTIMODAL_ROPE},
        image_token_id=IMAGE,
        video_token_id=111,
        image_start_token_id=112,
        image_end_token_id=113,
        video_start_token_id=114,
        video_end_token_id=115,
    )


QWEN_VL = (
    Family("qwen2_vl", _qwen2_vl, _merged_patches),
    Family("qwen2_5_vl", _qwen2_5_vl, _merged_patches),
    Family("qwen3_vl", _qwen3_vl, _merged_patches),
    Family("glm4v", _glm4v, _merged_patches),
)
