"""Promises of graphs for each tower: they are cut out of the whole, and found under whatever suffix they have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from transformers import PretrainedConfig

from hfcompress.errors import QuantizationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.onnxruntime

TOWERS = [("Neg", ["input_ids"], "text_embeds"), ("Abs", ["pixel_values"], "image_embeds")]
SIMILARITY = ("Mul", ["text_embeds", "image_embeds"], "logits_per_text")


def write(folder: Path, nodes: Sequence[tuple[str, list[str], str]]) -> None:
    """Write a graph of two inputs, every node of which is an output."""
    import onnx
    from onnx import TensorProto, helper

    def put(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 3])

    made = [helper.make_node(kind, inputs, [output], output) for kind, inputs, output in nodes]
    ends = [[put(name) for name in names] for names in (("input_ids", "pixel_values"), [node[2] for node in nodes])]
    graph = helper.make_graph(made, "graph", *ends)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "model.onnx"
    )


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("combined", ["model.onnx"]),
        ("towers", ["text_model.onnx", "vision_model.onnx"]),
        ("both", ["model.onnx", "text_model.onnx", "vision_model.onnx"]),
    ],
)
def test_layouts(tmp_path: Path, layout: str, expected: list[str]) -> None:
    """Each layout has its files."""
    from hfcompress.runtimes.onnx_towers import lay_out

    write(tmp_path, [*TOWERS, SIMILARITY])
    lay_out(tmp_path, PretrainedConfig(projection_dim=3), layout)  # type: ignore[arg-type] # cases of the table
    assert sorted(file.name for file in tmp_path.iterdir()) == expected


@pytest.mark.parametrize(("projected", "names"), [(True, {"image_embeds"}), (False, {"image_embeds", "pooler_output"})])
def test_tower_reads_its_own_input(tmp_path: Path, projected: bool, names: set[str]) -> None:  # noqa: FBT001 - a case
    """A tower reads one input and computes what the whole does; without a projection it gives the pooled output too."""
    import onnxruntime

    from hfcompress.runtimes.onnx_towers import lay_out, tower_graphs

    write(tmp_path, [*TOWERS, SIMILARITY])
    lay_out(tmp_path, PretrainedConfig(**{"projection_dim": 3} if projected else {}), "towers")
    file = tower_graphs(tmp_path)["image_embeds"]
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    pixels = np.array([[-1.0, 2.0, -3.0]], np.float32)

    assert [put.name for put in session.get_inputs()] == ["pixel_values"]
    assert {put.name for put in session.get_outputs()} == names
    for found in session.run(None, {"pixel_values": pixels}):
        np.testing.assert_array_equal(found, np.abs(pixels))


@pytest.mark.parametrize(
    "nodes", [TOWERS[:1], [("Add", ["input_ids", "pixel_values"], "text_embeds"), TOWERS[1]]], ids=["one", "fused"]
)
def test_no_towers(tmp_path: Path, nodes: list[tuple[str, list[str], str]]) -> None:
    """One tower alone, or towers that read each other's input, are refused, and the graph stays."""
    from hfcompress.runtimes.onnx_towers import lay_out

    write(tmp_path, nodes)
    with pytest.raises(QuantizationError, match=r"gives .*text_embeds, so it has no two towers .* `layout: combined`$"):
        lay_out(tmp_path, PretrainedConfig(), "towers")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("suffix", ["", "_fp16", "_quantized", "_q4"])
def test_towers_are_found(tmp_path: Path, suffix: str) -> None:
    """A tower is found by its name, whatever type its weights have."""
    from hfcompress.runtimes.onnx_towers import tower_graphs

    for name in ("text_model", "audio_model"):
        (tmp_path / f"{name}{suffix}.onnx").touch()
    (tmp_path / f"model{suffix}.onnx").touch()
    assert tower_graphs(tmp_path) == {
        "text_embeds": tmp_path / f"text_model{suffix}.onnx",
        "audio_embeds": tmp_path / f"audio_model{suffix}.onnx",
    }
