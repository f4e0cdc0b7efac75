"""Families whose towers attend to one another within an encoder."""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from .family import Family, composite
from .tensors import closed, noise, pixels, with_mask, words
from .towers import PROJECTION, SPECIAL, TEXT, VISION, VOCABULARY


def _pairs(_: PretrainedConfig) -> dict[str, Tensor]:
    ids = closed(words(8), 2, 3)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "pixel_values": pixels(),
    }


def _flava() -> PretrainedConfig:
    fusion = {"hidden_size": 56, "intermediate_size": 88, "num_attention_heads": 7, "num_hidden_layers": 3}
    return composite(
        "flava",
        "FlavaModel",
        image_config={**VISION, "vocab_size": 96},
        text_config={**TEXT, "pad_token_id": 0},
        multimodal_config=fusion,
        projection_dim=PROJECTION,
    )


def _vilt() -> PretrainedConfig:
    sizes = {**VISION, **TEXT, "num_labels": 7}
    return composite("vilt", "ViltForQuestionAnswering", **sizes)


def _vilt_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    return {**_pairs(config), "pixel_mask": torch.ones(2, 32, 32, dtype=torch.long)}


def _bridgetower(architecture: str, width: int, vision_width: int) -> PretrainedConfig:
    # the vision tower has one head per 64 of its width; the text config also shapes the cross-modal layers
    text = {**TEXT, **SPECIAL, "type_vocab_size": 1, "hidden_size": width}
    return composite(
        "bridgetower",
        architecture,
        text_config=text,
        vision_config={"hidden_size": vision_width, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8},
        hidden_size=width,
        num_attention_heads=TEXT["num_attention_heads"],
        num_hidden_layers=3,
        contrastive_hidden_size=PROJECTION,
        logit_scale_init_value=2.6592,  # the class reads it, the config class lacks it, the checkpoint has it
    )


def _bridgetower_matching() -> PretrainedConfig:
    return _bridgetower("BridgeTowerForImageAndTextRetrieval", width=48, vision_width=128)


def _bridgetower_contrastive() -> PretrainedConfig:
    # one width: a token of the text tower is added to the patches
    config = _bridgetower("BridgeTowerForContrastiveLearning", width=64, vision_width=64)
    config.text_config.num_attention_heads = config.num_attention_heads = 8
    return config


def _lxmert() -> PretrainedConfig:
    return composite(
        "lxmert",
        "LxmertForPreTraining",
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=104,
        num_attention_heads=6,
        l_layers=5,
        r_layers=4,
        x_layers=3,
        visual_feat_dim=40,
        num_qa_labels=7,
        num_object_labels=11,
        num_attr_labels=9,
        max_position_embeddings=64,
    )


def _lxmert_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    return {
        **with_mask(words(8)),
        "visual_feats": noise(5, config.visual_feat_dim),
        "visual_pos": noise(5, 4, seed=1).sigmoid(),
    }


def _visual_bert() -> PretrainedConfig:
    return composite("visual_bert", "VisualBertForPreTraining", **TEXT, visual_embedding_dim=40)


def _visual_bert_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    return {
        **with_mask(words(8)),
        "visual_embeds": noise(5, config.visual_embedding_dim),
        "visual_attention_mask": torch.ones(2, 5, dtype=torch.long),
    }


FUSION = (
    Family("flava", _flava, _pairs),
    Family("vilt", _vilt, _vilt_inputs),
    Family("bridgetower", _bridgetower_contrastive, _pairs),
    Family("lxmert", _lxmert, _lxmert_inputs),
    Family("visual_bert", _visual_bert, _visual_bert_inputs),
    Family("bridgetower_matching", _bridgetower_matching, _pairs),
)
