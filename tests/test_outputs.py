"""Promises of the outputs that proofs compare."""

from __future__ import annotations

import pytest
import torch

from hfcompress.outputs import run
from hfcompress.probes import find_probes
from tests.families import FAMILIES, build


def test_every_floating_point_output_has_its_path() -> None:
    """Outputs of towers are found inside of the model's own; what is no floating-point tensor is left aside."""
    model = build(FAMILIES["clip"])
    found = run(model, find_probes(model))
    assert {"logits_per_image", "image_embeds", "vision_model_output.pooler_output"} <= found.keys()
    assert all(tensor.is_floating_point() for tensor in found.values())
    assert not any(tensor.requires_grad for tensor in found.values())  # or every activation would stay in memory


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_model_runs_in_its_type(dtype: torch.dtype) -> None:
    """Inputs are cast to the model's type, and outputs come in float32, near those of the float32 model."""
    model = build(FAMILIES["clip"])
    probes = find_probes(model)
    expected, got = run(model, probes), run(model.to(dtype), probes)
    assert {tensor.dtype for tensor in got.values()} == {torch.float32}
    torch.testing.assert_close(got["image_embeds"], expected["image_embeds"], rtol=0.1, atol=0.02)
