"""Promises of the example step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from hfcompress_example_step import RoundWeights, RoundWeightsOptions
from safetensors.torch import load_file, save_file

from hfcompress.contracts import Checkpoint, StepContext

if TYPE_CHECKING:
    from pathlib import Path


def test_seven_bits_are_bfloat16_and_all_else_stays(tmp_path: Path) -> None:
    """Float weights take bfloat16's precision and keep their type; integers and other files are copied."""
    source, output = tmp_path / "source", tmp_path / "output"
    source.mkdir()
    output.mkdir()
    weights = {"w": torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), "ids": torch.arange(300)}
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_text("{}", encoding="utf-8")

    detail = RoundWeights(RoundWeightsOptions()).apply(Checkpoint(source, "transformers"), output, StepContext())

    result = load_file(output / "model.safetensors")
    assert detail == {"rounded": 150, "bits": 7}
    torch.testing.assert_close(result["w"], weights["w"].bfloat16().float(), rtol=0, atol=0)
    assert torch.equal(result["ids"], weights["ids"])
    assert (output / "config.json").read_text(encoding="utf-8") == "{}"
