"""Promises of BLIP's export: its parts, and the configuration that optimum's class reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.families import FAMILIES, build

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]


def test_captioning_has_three_parts(tmp_path: Path) -> None:
    """The captioning model becomes an encoder, a decoder, and one that goes on from the cache of each of its layers."""
    from hfcompress.runtimes.onnx_blip import blip

    model = build(FAMILIES["blip_captioning"])
    export = blip(model.config)
    parts = export.parts(model, tmp_path)
    layers = model.config.text_config.num_hidden_layers
    inputs = {name: set(described.inputs) for name, (_, described) in parts.items()}

    assert (export.task, export.stock_class) == ("image-to-text", "ORTModelForVision2Seq")
    assert inputs["encoder_model"] == {"pixel_values"}
    assert inputs["decoder_model"] == {"input_ids", "encoder_hidden_states"}
    past = {name for name in inputs["decoder_with_past_model"] if name.startswith("past_key_values.")}
    assert inputs["decoder_with_past_model"] - past == {"input_ids", "encoder_hidden_states"}
    assert len(past) == 4 * layers  # keys and values, of the text and of the image
    cached = parts["decoder_with_past_model"][1].generate_dummy_inputs()
    assert len(cached["past_key_values"]) == layers
    assert cached["input_ids"].shape[1] == 1


def test_configuration_for_the_stock_class() -> None:
    """What the class asks of a decoder stands beside BLIP's own fields; the source's configuration stays as it is."""
    from hfcompress.runtimes.onnx_blip import blip

    config = FAMILIES["blip_captioning"].config()
    before = config.to_dict()
    described = blip(config).describe(config)
    text = config.text_config

    assert (described.vocab_size, described.hidden_size) == (text.vocab_size, text.hidden_size)
    assert described.decoder_start_token_id == text.bos_token_id
    assert (described.eos_token_id, described.pad_token_id) == (text.sep_token_id, text.pad_token_id)
    assert described.text_config.to_dict() == text.to_dict()
    assert config.to_dict() == before
