"""Families that read pages, and encoder-decoders put together from a vision and a text model."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .family import Family, composite
from .tensors import pixels, placed_patches, with_mask, words
from .towers import BEGIN, END, PAD, TEXT, VISION, VOCABULARY

GENERATING = {"is_decoder": True, "add_cross_attention": True, "pad_token_id": PAD, "eos_token_id": END}


def _layoutlmv3() -> PretrainedConfig:
    return composite(
        "layoutlmv3",
        "LayoutLMv3ForTokenClassification",
        **TEXT,
        input_size=32,
        patch_size=8,
        coordinate_size=8,
        shape_size=8,
        rel_pos_bins=8,
        rel_2d_pos_bins=12,
        num_labels=7,
    )


def _page(_: PretrainedConfig) -> dict[str, Tensor]:
    corners = words(8, low=0, high=500, seed=1)
    boxes = torch.stack([corners, corners, corners + 100, corners + 40], dim=-1)
    return {**with_mask(words(8)), "bbox": boxes, "pixel_values": pixels()}


def _trocr(encoder: str) -> PretrainedConfig:
    decoder = {
        "model_type": "trocr",
        "d_model": 48,
        "decoder_layers": 4,
        "decoder_attention_heads": 6,
        "decoder_ffn_dim": 104,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 24,
        "cross_attention_hidden_size": 32,
        **GENERATING,
    }
    return composite(
        "vision-encoder-decoder",
        "VisionEncoderDecoderModel",
        encoder={**VISION, "model_type": encoder},
        decoder=decoder,
    )


def _trocr_vit() -> PretrainedConfig:
    return _trocr("vit")


def _trocr_deit() -> PretrainedConfig:
    return _trocr("deit")


def _vit_gpt2() -> PretrainedConfig:
    decoder = {
        "model_type": "gpt2",
        "n_embd": 48,
        "n_layer": 4,
        "n_head": 6,
        "n_positions": 24,
        "vocab_size": VOCABULARY,
        "bos_token_id": BEGIN,
        **GENERATING,
    }
    return composite(
        "vision-encoder-decoder",
        "VisionEncoderDecoderModel",
        encoder={**VISION, "model_type": "vit"},
        decoder=decoder,
    )


def _donut() -> PretrainedConfig:
    encoder = {
        "model_type": "donut-swin",
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [2, 3, 2],
        "num_heads": [2, 4, 8],
        "window_size": 2,
        "mlp_ratio": 3.0,
    }
    decoder = {
        "model_type": "mbart",
        "d_model": 64,  # the encoder's last width, as in the released checkpoint
        "decoder_layers": 4,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 104,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 24,
        "is_encoder_decoder": False,
        "add_final_layer_norm": True,
        "scale_embedding": True,
        **GENERATING,
    }
    return composite("vision-encoder-decoder", "VisionEncoderDecoderModel", encoder=encoder, decoder=decoder)


def _image_to_words(_: PretrainedConfig) -> dict[str, Tensor]:
    return {"pixel_values": pixels(), "decoder_input_ids": words(6)}


def _pix2struct() -> PretrainedConfig:
    # one width: the text attends to the image without a projection
    text = {
        "hidden_size": 48,
        "d_kv": 8,
        "d_ff": 104,
        "num_layers": 4,
        "num_heads": 6,
        "vocab_size": VOCABULARY,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
    }
    vision = {
        "hidden_size": 48,
        "patch_embed_hidden_size": 40,
        "d_ff": 72,
        "d_kv": 16,  # the heads' width together is not the tower's
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "seq_len": 32,
        "initializer_range": 0.02,
    }
    return composite("pix2struct", "Pix2StructForConditionalGeneration", text_config=text, vision_config=vision)


def _pix2struct_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    return {
        "flattened_patches": placed_patches(config.vision_config.patch_embed_hidden_size),
        "attention_mask": torch.ones(2, 12),
        "decoder_input_ids": words(6),
        "decoder_attention_mask": torch.ones(2, 6, dtype=torch.long),
    }


def _udop() -> PretrainedConfig:
    return composite(
        "udop",
        "UdopForConditionalGeneration",
        d_model=48,
        d_kv=16,
        d_ff=104,
        num_layers=4,
        num_decoder_layers=3,
        num_heads=6,
        vocab_size=VOCABULARY,
        image_size=32,
        patch_size=8,
    )


def _udop_inputs(_: PretrainedConfig) -> dict[str, Tensor]:
    corners = words(8, low=0, high=500, seed=1) / 1000
    boxes = torch.stack([corners, corners, corners + 0.1, corners + 0.04], dim=-1)
    return {**with_mask(words(8)), "bbox": boxes, "pixel_values": pixels(), "decoder_input_ids": words(4, seed=2)}


DOCUMENTS = (
    Family("layoutlmv3", _layoutlmv3, _page),
    Family("trocr", _trocr_vit, _image_to_words),
    Family("trocr_deit", _trocr_deit, _image_to_words),
    Family("vit_gpt2", _vit_gpt2, _image_to_words),
    Family("donut", _donut, _image_to_words),
    Family("pix2struct", _pix2struct, _pix2struct_inputs),
    Family("udop", _udop, _udop_inputs),
)
