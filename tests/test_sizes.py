"""Promises of `hfcompress.sizes`: which bytes and which parameters count."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from hfcompress.contracts import Checkpoint
from hfcompress.sizes import files_of, parameters_of, size_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a checkpoint with weights for several libraries."""
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(100)}, tmp_path / "consolidated.safetensors")
    (tmp_path / "onnx").mkdir()
    for name, size in {"config.json": 10, "README.md": 999, "report.json": 999, "flax_model.msgpack": 999}.items():
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"x" * 70)
    return tmp_path


def test_size_is_what_loading_needs(folder: Path) -> None:
    """Weights in the checkpoint's own format count, and what describes them; other libraries' weights do not."""
    weights = (folder / "model.safetensors").stat().st_size
    assert size_bytes(Checkpoint(folder, "transformers")) == weights + 10
    assert size_bytes(Checkpoint(folder, "onnx")) == 70 + 10
    assert files_of(Checkpoint(folder, "onnx")) == {"config.json": 10, "onnx/model.onnx": 70}


def test_parameters_are_read_from_headers(folder: Path) -> None:
    """The weights that transformers loads are counted, whatever else lies there."""
    assert parameters_of(folder) == 17


def test_sharded_weights_count_once(tmp_path: Path) -> None:
    """Shards add up."""
    for shard in (1, 2):
        save_file({f"a{shard}": torch.zeros(shard, 10)}, tmp_path / f"model-0000{shard}-of-00002.safetensors")
    assert parameters_of(tmp_path) == 30


def test_scales_of_quantized_weights_do_not_count(tmp_path: Path) -> None:
    """Values are weights, two in a byte where they are packed; what lies beside them, in whatever file, is none."""
    packed = {"a._weight_qdata": torch.zeros(4, 8, dtype=torch.uint8), "b._weight_scale": torch.zeros(4, 1)}
    plain = {"b._weight_qdata": torch.zeros(4, 8, dtype=torch.int8), "a._weight_scale": torch.zeros(4, 1)}
    save_file({**packed, "a.bias": torch.zeros(4)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({**plain, "c._weight_scale": torch.zeros(3)}, tmp_path / "model-00002-of-00002.safetensors")
    assert parameters_of(tmp_path) == 64 + 32 + 4 + 3  # no values lie beside the last, so it is a weight of that name
