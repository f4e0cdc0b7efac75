"""Promises of what a configuration says of quantized weights, and of what is refused because of it."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from transformers import CLIPConfig

import hfcompress
from hfcompress.errors import CheckpointError, MissingExtraError, RecipeError
from hfcompress.quantized import described_tensors, quantization_method, readers, require_float, require_readers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Write

RECORD = {"quant_method": "hfcompress", "version": 1, "modules": {}}
TORCHAO = {"use": "quantize", "runtime": "torchao", "mode": "weight_only"}
REFUSED = r"weights of 'torchao' are kept in safetensors, .+ transformers>=5 alone .+: pip install 'transformers>=5'$"
NEW_ENOUGH = not version("transformers").startswith("4.")


@pytest.mark.parametrize(
    ("fields", "method"),
    [
        (None, None),
        ({"quant_method": "hfcompress", "version": 1, "modules": {}}, None),
        ({"quant_method": "torchao"}, "torchao"),
        (
            {"quant_method": "hfcompress", "version": 1, "modules": {}, "weights": {"quant_method": "torchao"}},
            "torchao",
        ),
    ],
    ids=["float", "record of shapes", "torchao", "both"],
)
def test_method(fields: dict[str, Any] | None, method: str | None) -> None:
    """A record of shapes is no quantization, and does not hide the one that stands in it."""
    config = CLIPConfig()
    if fields is not None:
        config.quantization_config = fields
    assert quantization_method(config) == method


def test_float_weights_are_asked_for() -> None:
    """A quantized model is refused with what to do instead."""
    config = CLIPConfig()
    require_float(config)
    config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(CheckpointError, match=r"quantized with 'bitsandbytes'.+ put the step before the one that"):
        require_float(config)


def test_quantized_source_is_refused_before_its_weights_are_read(clip: Path, write: Write) -> None:
    """The plan of a recipe puts the refusal at the step; a step called from Python says the same."""
    quantized = write().parent / "quantized"
    quantized.mkdir()
    values = json.loads((clip / "config.json").read_text(encoding="utf-8"))
    values["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (quantized / "config.json").write_text(json.dumps(values), encoding="utf-8")

    with pytest.raises(RecipeError, match=r"recipe\.yaml:12:3: steps\[0\]: the weights are quantized with 'gptq'"):
        hfcompress.plan(write(model={"id": "quantized"}))
    with pytest.raises(CheckpointError, match="the weights are quantized with 'gptq'"):
        hfcompress.prune(quantized, towers={"all": {"ffn": 0.5}}, output=quantized.parent / "out")


def test_readers_are_looked_for() -> None:
    """What reads a method is named, and what of it is missing here is refused with the command that installs it."""
    assert (readers(None), readers("torchao")) == ((), ("torchao>=0.18", "transformers>=5"))
    require_readers(None)
    if NEW_ENOUGH:
        require_readers("torchao")
    else:
        with pytest.raises(MissingExtraError, match=REFUSED):
            require_readers("torchao")


def test_version_4_of_transformers_is_refused_in_the_plan(recipe: Callable[..., dict[str, Any]]) -> None:
    """It would keep such weights in a pickle, so nothing is quantized for it."""
    values = recipe(steps=[TORCHAO])
    if NEW_ENOUGH:
        assert hfcompress.plan(values).forecasts[-1].format == "transformers"
    else:
        with pytest.raises(RecipeError, match=rf"steps\[0\]: {REFUSED}"):
            hfcompress.plan(values)


def test_ordinary_tensors_need_no_description() -> None:
    """Only quantized tensors are described in a file: the name of an ordinary one stops torchao's reader."""
    quantized, ordinary = json.dumps({"_type": "Int8Tensor"}), json.dumps({"_type": "Tensor"})
    names = json.dumps(["logit_scale", "proj.weight"])
    found = described_tensors({"logit_scale": ordinary, "proj.weight": quantized, "tensor_names": names})
    assert found == {"proj.weight": quantized, "tensor_names": '["proj.weight"]'}
