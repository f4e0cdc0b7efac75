"""Promises of the batches on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from hfcompress.errors import QuantizationError
from hfcompress.quantization.spool import Spool
from hfcompress.quantization.spool import spool as spooled

if TYPE_CHECKING:
    from pathlib import Path


def test_batches_come_again(tmp_path: Path) -> None:
    """What went in comes out, in order and with its types, as often as it is asked for."""
    batches = [{"input_ids": np.array([[number]]), "x/y": np.ones((1, 2), np.float32)} for number in range(3)]
    spool = Spool(tmp_path)
    for batch in batches:
        spool.add(batch)
    for _ in range(2):
        found = list(spool())
        assert [int(batch["input_ids"][0, 0]) for batch in found] == [0, 1, 2]
        assert {batch["x/y"].dtype for batch in found} == {np.dtype(np.float32)}
    assert len(spool) == 3


def test_several_graphs(tmp_path: Path) -> None:
    """Each graph gets its own batches, and one that gets none is an error that names it."""
    feeds = [
        ("encoder.onnx", {"x": np.ones(1)}),
        ("decoder.onnx", {"y": np.zeros(2)}),
        ("encoder.onnx", {"x": np.ones(3)}),
    ]
    found = spooled(tmp_path / "a", feeds, ["encoder.onnx", "decoder.onnx"])
    assert [len(batch["x"]) for batch in found["encoder.onnx"]()] == [1, 3]
    assert [len(batch["y"]) for batch in found["decoder.onnx"]()] == [2]
    with pytest.raises(QuantizationError, match=r"no inputs for decoder_with_past\.onnx, so its errors"):
        spooled(tmp_path / "b", feeds, ["encoder.onnx", "decoder_with_past.onnx"])
