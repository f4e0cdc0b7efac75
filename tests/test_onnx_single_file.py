"""Promises of the export without a table: axes are found by trying, and a graph that is not the model is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.families import FAMILIES, build

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]


def test_axes_of_a_dual_encoder(tmp_path: Path) -> None:
    """Images and texts have batches of their own, texts a length, and the similarity both batches."""
    from hfcompress.runtimes.onnx_single_file import single_file

    model = build(FAMILIES["altclip"])
    export = single_file(model.config)
    _, described = export.parts(model, tmp_path)["model"]

    assert (export.task, export.stock_class) == (
        "zero-shot-image-classification",
        "ORTModelForZeroShotImageClassification",
    )
    assert described.inputs["input_ids"] == {0: "text_batch_size", 1: "sequence_length"}
    assert described.inputs["pixel_values"] == {0: "batch_size"}
    assert described.outputs["logits_per_image"] == {0: "batch_size", 1: "text_batch_size"}
    assert described.outputs["text_embeds"] == {0: "text_batch_size"}


def test_sounds_are_no_image_classification(tmp_path: Path) -> None:
    """A dual encoder of sounds goes to the class for any task."""
    from hfcompress.runtimes.onnx_single_file import single_file

    model = build(FAMILIES["clap"])
    export = single_file(model.config)
    _, described = export.parts(model, tmp_path)["model"]

    assert (export.task, export.stock_class) == ("feature-extraction", "ORTModelForCustomTasks")
    assert described.inputs["input_features"] == {0: "batch_size"}


def test_texts_begin_with_the_image(tmp_path: Path) -> None:
    """BLIP-2's texts hold the tokens that stand for its queries, and only one batch."""
    from hfcompress.runtimes.onnx_single_file import with_image_tokens

    model = build(FAMILIES["blip2"])
    _, described = with_image_tokens(model.config).parts(model, tmp_path)["model"]
    inputs = described.generate_dummy_inputs()
    queries = model.config.num_query_tokens

    assert (inputs["input_ids"][:, :queries] == model.config.image_token_index).all()
    assert (inputs["input_ids"][:, queries:] != model.config.image_token_index).all()
    assert torch.equal(inputs["attention_mask"], torch.ones_like(inputs["input_ids"]))
    assert described.inputs["input_ids"] == {0: "batch_size", 1: "sequence_length"}
    assert all(axes[0] == "batch_size" for axes in described.outputs.values())
