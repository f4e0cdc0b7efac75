"""Families that match images with texts in one space, and those built upon them."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .family import Family, composite
from .tensors import closed, noise, pixels, words
from .towers import BEGIN, PROJECTION, SPECIAL, TEXT, VISION


def _texts(config: PretrainedConfig) -> Tensor:
    return closed(words(8), BEGIN, config.text_config.eos_token_id)


def _pairs(config: PretrainedConfig) -> dict[str, Tensor]:
    ids = _texts(config)
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels()}


def _bert_pairs(_: PretrainedConfig) -> dict[str, Tensor]:
    ids = closed(words(8), 2, 3)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "pixel_values": pixels(),
    }


def _clip() -> PretrainedConfig:
    return composite(
        "clip", "CLIPModel", text_config={**TEXT, **SPECIAL}, vision_config=VISION, projection_dim=PROJECTION
    )


def _siglip() -> PretrainedConfig:
    # one size: the two towers are compared without a projection
    text = {**TEXT, **SPECIAL, "projection_size": 32}
    return composite("siglip", "SiglipModel", text_config=text, vision_config=VISION)


def _siglip2() -> PretrainedConfig:
    vision = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
    text = {**TEXT, **SPECIAL, "projection_size": 32}
    return composite("siglip2", "Siglip2Model", text_config=text, vision_config=vision)


def _siglip2_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    shapes = torch.tensor([[4, 4], [3, 5]])
    mask = torch.arange(16)[None] < shapes.prod(dim=1)[:, None]
    return {
        "input_ids": _texts(config),
        "pixel_values": noise(16, 3 * config.vision_config.patch_size**2),
        "pixel_attention_mask": mask.long(),
        "spatial_shapes": shapes,
    }


def _chinese_clip() -> PretrainedConfig:
    return composite(
        "chinese_clip",
        "ChineseCLIPModel",
        text_config={**TEXT, "pad_token_id": 0},
        vision_config=VISION,
        projection_dim=PROJECTION,
    )


def _altclip() -> PretrainedConfig:
    text = {**TEXT, "project_dim": 56, "type_vocab_size": 1, **SPECIAL}
    return composite("altclip", "AltCLIPModel", text_config=text, vision_config=VISION, projection_dim=PROJECTION)


def _clipseg() -> PretrainedConfig:
    return composite(
        "clipseg",
        "CLIPSegForImageSegmentation",
        text_config={**TEXT, **SPECIAL},
        vision_config={**VISION, "num_hidden_layers": 5},
        projection_dim=PROJECTION,
        extract_layers=[0, 1, 3],  # the last vision block feeds nothing, as in the released checkpoint
        reduce_dim=24,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=56,
    )


def _owlvit() -> PretrainedConfig:
    return composite(
        "owlvit",
        "OwlViTForObjectDetection",
        text_config={**TEXT, **SPECIAL},
        vision_config=VISION,
        projection_dim=48,  # the class head compares in the width of the texts
    )


def _owlv2() -> PretrainedConfig:
    return composite(
        "owlv2",
        "Owlv2ForObjectDetection",
        text_config={**TEXT, **SPECIAL},
        vision_config=VISION,
        projection_dim=48,  # the class head compares in the width of the texts
    )


def _queries(_: PretrainedConfig) -> dict[str, Tensor]:
    ids = closed(torch.cat([words(6), words(6, seed=1)]), BEGIN, 99)  # two an image; the highest id pools
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels()}


def _groupvit() -> PretrainedConfig:
    vision = {
        **VISION,
        "patch_size": 4,
        "depths": [2, 2, 1],
        "num_hidden_layers": 5,
        "num_group_tokens": [16, 8, 0],
        "num_output_groups": [16, 8, 8],
    }
    return composite(
        "groupvit",
        "GroupViTModel",
        text_config={**TEXT, **SPECIAL},
        vision_config=vision,
        projection_dim=PROJECTION,
        projection_intermediate_dim=88,
    )


def _xclip() -> PretrainedConfig:
    vision = {
        **VISION,
        "num_frames": 3,
        "mit_hidden_size": 56,
        "mit_intermediate_size": 88,
        "mit_num_hidden_layers": 3,
        "mit_num_attention_heads": 7,
    }
    return composite(
        "xclip",
        "XCLIPModel",
        text_config={**TEXT, **SPECIAL},
        vision_config=vision,
        projection_dim=56,  # the frames' tower works in it
        prompt_layers=3,
        prompt_num_attention_heads=2,
    )


def _videos(config: PretrainedConfig) -> dict[str, Tensor]:
    return {**_pairs(config), "pixel_values": noise(config.vision_config.num_frames, 3, 32, 32)}


def _align() -> PretrainedConfig:
    vision = {
        "image_size": 32,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "kernel_sizes": [3, 5, 3],
        "in_channels": [32, 16, 24],
        "out_channels": [16, 24, PROJECTION],
        "strides": [1, 2, 1],
        "num_block_repeats": [1, 2, 3],
        "expand_ratios": [1, 4, 6],
        "depthwise_padding": [],
        "hidden_dim": PROJECTION,
    }
    return composite(
        "align",
        "AlignModel",
        text_config={**TEXT, "pad_token_id": 0},
        vision_config=vision,
        projection_dim=PROJECTION,
    )


def _dual_encoder() -> PretrainedConfig:
    return composite(
        "vision-text-dual-encoder",
        "VisionTextDualEncoderModel",
        vision_config={**VISION, "model_type": "clip_vision_model"},
        text_config={**TEXT, "model_type": "bert"},
        projection_dim=PROJECTION,
    )


def _metaclip2() -> PretrainedConfig:
    return composite(
        "metaclip_2",
        "MetaClip2Model",
        text_config={**TEXT, **SPECIAL},
        vision_config=VISION,
        projection_dim=PROJECTION,
    )


def _grounding_dino() -> PretrainedConfig:
    backbone = {
        "model_type": "swin",
        "image_size": 64,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [2, 3, 2],
        "num_heads": [2, 4, 4],
        "window_size": 4,
        "mlp_ratio": 3.0,
        "out_features": ["stage1", "stage2", "stage3"],
    }
    return composite(
        "grounding-dino",
        "GroundingDinoForObjectDetection",
        backbone_config=backbone,
        text_config={**TEXT, "model_type": "bert", "pad_token_id": 0},
        d_model=64,
        encoder_layers=3,
        encoder_ffn_dim=88,
        encoder_attention_heads=8,
        decoder_layers=4,
        decoder_ffn_dim=96,
        decoder_attention_heads=8,
        num_queries=9,
        num_feature_levels=3,
        max_text_len=16,
        disable_custom_kernels=True,
    )


def _phrases(config: PretrainedConfig) -> dict[str, Tensor]:
    return {**_bert_pairs(config), "pixel_values": pixels(64), "pixel_mask": torch.ones(2, 64, 64, dtype=torch.long)}


CONTRASTIVE = (
    Family("clip", _clip, _pairs),
    Family("siglip", _siglip, _pairs),
    Family("siglip2", _siglip2, _siglip2_inputs),
    Family("chinese_clip", _chinese_clip, _bert_pairs),
    Family("altclip", _altclip, _pairs),
    Family("clipseg", _clipseg, _pairs),
    Family("owlvit", _owlvit, _queries),
    Family("owlv2", _owlv2, _queries),
    Family("groupvit", _groupvit, _pairs),
    Family("xclip", _xclip, _videos),
    Family("align", _align, _bert_pairs),
    Family("vision_text_dual_encoder", _dual_encoder, _bert_pairs),
    Family("grounding_dino", _grounding_dino, _phrases),
    Family("metaclip2", _metaclip2, _pairs),
)
