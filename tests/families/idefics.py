"""Families that take several images a row, shuffled or resampled to a few tokens each, or crossed into the words."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .family import Family, composite
from .tensors import IMAGE, noise, with_images, with_mask, words
from .towers import DECODER, LLAMA, MISTRAL, PAD, VISION


def _idefics3(model_type: str, architecture: str) -> PretrainedConfig:
    return composite(
        model_type,
        architecture,
        vision_config=VISION,
        text_config=LLAMA,
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=PAD,
    )


def _idefics3_own() -> PretrainedConfig:
    return _idefics3("idefics3", "Idefics3ForConditionalGeneration")


def _smolvlm() -> PretrainedConfig:
    return _idefics3("smolvlm", "SmolVLMForConditionalGeneration")


def _one_of_many_images(_: PretrainedConfig) -> dict[str, Tensor]:
    return {
        **with_mask(with_images(IMAGE, 4)),
        "pixel_values": noise(1, 3, 32, 32),
        "pixel_attention_mask": torch.ones(2, 1, 32, 32, dtype=torch.bool),
    }


def _idefics2() -> PretrainedConfig:
    resampler = {
        "hidden_size": 48,
        "resampler_n_latents": 4,
        "resampler_depth": 3,
        "resampler_n_heads": 4,
        "resampler_head_dim": 16,
        "num_key_value_heads": 2,
    }
    return composite(
        "idefics2",
        "Idefics2ForConditionalGeneration",
        vision_config=VISION,
        perceiver_config=resampler,
        text_config=MISTRAL,
        image_token_id=IMAGE,
    )


def _mllama() -> PretrainedConfig:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 72,
        "attention_heads": 4,
        "num_hidden_layers": 4,
        "num_global_layers": 3,
        "intermediate_layers_indices": [0, 2],
        "vision_output_dim": 3 * 32,
        "image_size": 32,
        "patch_size": 8,
        "max_num_tiles": 2,
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }
    text = {
        **DECODER,
        "num_hidden_layers": 5,
        "cross_attention_layers": [1, 3],
        "rope_scaling": {"rope_type": "default"},
    }
    return composite(
        "mllama",
        "MllamaForConditionalGeneration",
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
    )


def _tiles(_: PretrainedConfig) -> dict[str, Tensor]:
    inputs = with_mask(words(10))
    inputs["input_ids"][:, 1] = IMAGE
    return {
        **inputs,
        "pixel_values": noise(1, 2, 3, 32, 32),
        "aspect_ratio_ids": torch.tensor([[2], [3]]),
        "aspect_ratio_mask": torch.ones(2, 1, 2, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, 10, 1, 2, dtype=torch.long),
    }


IDEFICS = (
    Family("idefics2", _idefics2, _one_of_many_images),
    Family("idefics3", _idefics3_own, _one_of_many_images),
    Family("smolvlm", _smolvlm, _one_of_many_images),
    Family("mllama", _mllama, _tiles),
)
