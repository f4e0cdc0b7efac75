"""Promises of the statistics that are taken inside of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.onnx_graphs import random_batches, write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_channels(opset: int, tmp_path: Path) -> None:
    """Maxima and means of each channel are those of all batches together, in every version of the operators."""
    import onnx

    from hfcompress.quantization.probing import ChannelMeans, channel_maxima

    model = onnx.load(write_graph(tmp_path / "g.onnx", [("Neg", ["x"], "y")], {}, 3, {"y": 3}, opset))
    batches = random_batches(3, np.array([1.0, 0.0, 5.0]))
    together = -np.concatenate([batch["x"] for batch in batches()]).reshape(-1, 3)

    np.testing.assert_array_equal(channel_maxima(model, {"y": 3}, batches, tmp_path)["y"], np.abs(together).max(axis=0))
    means = ChannelMeans(model, {"y": 3}, tmp_path).over(batches)["y"]
    np.testing.assert_allclose(means, together.mean(axis=0), atol=1e-6)


def test_nothing_asked(tmp_path: Path) -> None:
    """Without tensors there is nothing to run."""
    import onnx

    from hfcompress.quantization.probing import ChannelMeans, channel_maxima

    model = onnx.load(write_graph(tmp_path / "g.onnx", [("Neg", ["x"], "y")], {}, 3, {"y": 3}))
    assert channel_maxima(model, {}, random_batches(3), tmp_path) == {}
    assert ChannelMeans(model, {}, tmp_path).over(random_batches(3)) == {}
    assert [file.name for file in tmp_path.iterdir()] == ["g.onnx"]
