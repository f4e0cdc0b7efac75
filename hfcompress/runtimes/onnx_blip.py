"""BLIP's captioning model as an encoder and two decoders, in the files that optimum's class for captioning reads."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from optimum.exporters.onnx import OnnxSeq2SeqConfigWithPast
from optimum.exporters.onnx.base import ConfigBehavior
from optimum.exporters.onnx.config import VisionOnnxConfig
from optimum.utils import NormalizedSeq2SeqConfig, NormalizedVisionConfig
from torch.utils._pytree import tree_map

from hfcompress.anatomy import model_class
from hfcompress.errors import QuantizationError
from hfcompress.runtimes.onnx_export import Export, is_dual_encoder
from hfcompress.runtimes.onnx_single_file import single_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from optimum.exporters.onnx import OnnxConfig
    from transformers import PretrainedConfig, PreTrainedModel

    Axes: TypeAlias = dict[str, dict[int, str]]

__all__ = ["blip"]

_ROWS, _TOKENS, _PLACES = 2, 6, 5


class _Encoder(VisionOnnxConfig):  # type: ignore[misc] # optimum has no types
    """The vision tower: an image in, one state for each of its patches out."""

    NORMALIZED_CONFIG_CLASS = NormalizedVisionConfig

    @property
    def inputs(self) -> Axes:
        return {"pixel_values": {0: "batch_size"}}

    @property
    def outputs(self) -> Axes:
        return {"last_hidden_state": {0: "batch_size"}}


class _Decoder(OnnxSeq2SeqConfigWithPast):  # type: ignore[misc] # optimum has no types
    """The text decoder: tokens and the encoder's states in, logits and the cache of keys and values out.

    Args:
        decoder: The module, whose own cache it is traced with: pruned layers have other numbers of heads.
        is_continuing: Whether it goes on from a cache.
    """

    NORMALIZED_CONFIG_CLASS = NormalizedSeq2SeqConfig.with_args(decoder_num_layers="num_hidden_layers", allow_new=True)

    def __init__(self, decoder: PreTrainedModel, *, is_continuing: bool) -> None:
        super().__init__(
            decoder.config,
            task="image-to-text",
            use_past=True,
            use_past_in_inputs=is_continuing,
            behavior=ConfigBehavior.DECODER,
        )
        self._decoder = decoder

    @property
    def inputs(self) -> Axes:
        axes: Axes = {
            "input_ids": {0: "batch_size", 1: "decoder_sequence_length"},
            "encoder_hidden_states": {0: "batch_size", 1: "encoder_sequence_length"},
        }
        if self.use_past_in_inputs:
            self.add_past_key_values(axes, direction="inputs")
        return axes

    @property
    def torch_to_onnx_input_map(self) -> dict[str, str]:
        return {}  # the module that is traced is the decoder, and its inputs have their names already

    def generate_dummy_inputs(self, framework: str = "pt", **shapes: int) -> dict[str, Any]:
        del shapes
        config = self._config
        inputs: dict[str, Any] = {
            "input_ids": torch.randint(0, config.vocab_size, (_ROWS, _TOKENS)),
            "encoder_hidden_states": torch.randn(_ROWS, _PLACES, config.encoder_hidden_size),
        }
        if self.use_past_in_inputs:
            with torch.no_grad():
                begun: Any = self._decoder(**inputs, use_cache=True)
            inputs["input_ids"] = inputs["input_ids"][:, :1]
            inputs["past_key_values"] = list(begun.past_key_values.to_legacy_cache())
        return inputs if framework == "pt" else tree_map(lambda tensor: tensor.numpy(), inputs)


def blip(config: PretrainedConfig) -> Export:
    """Export BLIP: the captioning model as encoder and decoders, the dual encoder as one graph.

    Raises:
        QuantizationError: It is another architecture of BLIP, whose forward pass does not return what it is for.
    """
    if is_dual_encoder(config):
        return single_file(config)
    if (name := model_class(config).__name__) != "BlipForConditionalGeneration":
        msg = (
            f"hfcompress exports BlipForConditionalGeneration and BlipModel to ONNX through optimum, and not {name}, "
            f"whose forward pass does not return its answer"
        )
        raise QuantizationError(msg)
    return Export("image-to-text", "ORTModelForVision2Seq", _parts, _described)


def _parts(model: PreTrainedModel, path: Path) -> Mapping[str, tuple[torch.nn.Module, OnnxConfig]]:
    del path
    text: Any = model.text_decoder
    vision: Any = model.vision_model
    return {
        "encoder_model": (vision, _Encoder(vision.config)),
        "decoder_model": (text, _Decoder(text, is_continuing=False)),
        "decoder_with_past_model": (text, _Decoder(text, is_continuing=True)),
    }


def _described(config: PretrainedConfig) -> PretrainedConfig:
    """Put what optimum's class asks of a decoder's configuration beside BLIP's own fields, which stay as they are."""
    described = copy.deepcopy(config)
    text = config.text_config
    described.update(
        {
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "num_attention_heads": text.num_attention_heads,
            "decoder_start_token_id": text.bos_token_id,
            "eos_token_id": text.sep_token_id,
            "pad_token_id": text.pad_token_id,
        }
    )
    return described
