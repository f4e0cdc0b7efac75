"""Promises of what optimum's exporters know of an architecture."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.onnxruntime, pytest.mark.openvino, pytest.mark.filterwarnings("ignore")]


def test_each_exporter_knows_its_own_types() -> None:
    """Types that only one exporter has are no obstacle to asking the other, in the same process."""
    import hfcompress.runtimes.openvino  # noqa: F401 - registers types of its own
    from hfcompress.runtimes.tasks import model_types

    task = ("zero-shot-image-classification",)
    assert {"clip", "siglip"} <= {*model_types(task, "openvino")}
    assert "clip" in model_types(task, "onnx")
    assert "llava" in model_types(("image-text-to-text",), "openvino")
    assert "llava" not in model_types(("image-text-to-text",), "onnx")
