"""Promises of ONNX graphs in float16: what is said of their weights is what is in the files, and they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from hfcompress.anatomy import load_model
from hfcompress.casting import Cast, CastOptions
from hfcompress.contracts import Checkpoint, StepContext
from hfcompress.errors import QuantizationError
from hfcompress.rounding import Rounding, rounded
from tests.families import FAMILIES, build
from tests.onnx_graphs import run, write_graph

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.onnxruntime, pytest.mark.filterwarnings("ignore")]


def cast(source: Path, output: Path) -> dict[str, Any]:
    """Cast a checkpoint for ONNX Runtime into a new folder."""
    output.mkdir()
    options = CastOptions(dtype="float16", runtime="onnxruntime")
    return dict(Cast(options).apply(Checkpoint(source, "transformers"), output, StepContext()))


def test_figures_are_those_of_the_files(tmp_path: Path) -> None:
    """A value below float16's smallest is raised to it; weights of operators that stay in float32 are not rounded."""
    from hfcompress.runtimes.onnx_float16 import kept_in_float32, rounded_weights, write_float16

    graphs, output = tmp_path / "float32", tmp_path / "float16"
    graphs.mkdir()
    weights = {"w": np.array([[0.5, 1e-9], [2048.75, 1.0]]), "floor": np.array([0.1, 0.2, 0.3])[:2]}
    nodes = [("MatMul", ["x", "w"], "product"), ("Max", ["product", "floor"], "y")]
    write_graph(graphs / "model.onnx", nodes, weights, 2, {"y": 2})
    write_float16(graphs, output)
    pairs = {name: after.ravel().tolist() for name, _, after in rounded_weights(graphs, output)}

    assert [file.name for file in output.iterdir()] == ["model_fp16.onnx"]
    assert pairs == {"w": [0.5, 2.0**-24, 2048.0, 1.0]}
    assert rounded(rounded_weights(graphs, output)) == Rounding(4, 2, 0.75, "w")
    assert kept_in_float32(graphs, output) == 2
    batch = {"x": np.ones((1, 3, 2), np.float32)}
    (expected,), (got,) = run(graphs / "model.onnx", batch), run(output / "model_fp16.onnx", batch)
    np.testing.assert_allclose(got, expected, rtol=1e-3)


def test_model_that_writes(tmp_path: Path) -> None:
    """An encoder and both decoders are cast; the stock class loads them and gives torch's logits, from a cache too."""
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq

    build(FAMILIES["whisper"]).save_pretrained(tmp_path / "source")
    detail = cast(tmp_path / "source", tmp_path / "out")
    model: Any = load_model(tmp_path / "source")
    stock = ORTModelForSpeechSeq2Seq.from_pretrained(tmp_path / "out")
    inputs = FAMILIES["whisper"].inputs(model.config)
    ids = inputs["decoder_input_ids"]
    with torch.no_grad():
        expected = model(**inputs).logits
    begun = stock(input_features=inputs["input_features"], decoder_input_ids=ids[:, :-1], use_cache=True)
    last = stock(
        input_features=inputs["input_features"], decoder_input_ids=ids[:, -1:], past_key_values=begun.past_key_values
    )

    assert sorted(file.name for file in (tmp_path / "out/onnx").iterdir()) == [
        "decoder_model_fp16.onnx",
        "decoder_with_past_model_fp16.onnx",
        "encoder_model_fp16.onnx",
    ]
    found = torch.cat([begun.logits, last.logits], dim=1)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
    assert detail["weights"] >= sum(weight.numel() for weight in model.parameters()) * 0.9
    assert 0 < detail["changed"] <= detail["weights"]


def test_module_that_only_transformers_keeps_in_float32(tmp_path: Path) -> None:
    """BLIP-2's query transformer, float32 in torch, is float16 in a graph: what overflows there is refused."""
    model: Any = build(FAMILIES["blip2"])
    with torch.no_grad():
        for layer in model.qformer.encoder.layer:
            layer.intermediate_query.dense.weight.mul_(1e4)
            layer.intermediate_query.dense.bias.fill_(65000.0)
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(
        QuantizationError, match=r"^the output '\S+' is not finite in float16, .+ use `dtype: bfloat16`"
    ):
        cast(tmp_path / "source", tmp_path / "out")


def test_output_that_is_not_finite(tmp_path: Path) -> None:
    """Graphs are run as they were written: an infinite weight in the file shows, and its output is named."""
    import onnx
    from onnx import numpy_helper

    from hfcompress.runtimes.onnx_float16 import check_finite, outputs_of

    build(FAMILIES["clip"]).save_pretrained(tmp_path / "source")
    cast(tmp_path / "source", tmp_path / "out")
    inputs = FAMILIES["clip"].inputs(load_model(tmp_path / "source").config)
    expected = outputs_of(tmp_path / "out", inputs)
    check_finite(expected, expected)
    file = tmp_path / "out/onnx/model_fp16.onnx"
    graph = onnx.load(file)
    table = next(tensor for tensor in graph.graph.initializer if "token_embedding" in tensor.name)
    broken = np.full(table.dims, np.inf, np.float16)
    table.CopyFrom(numpy_helper.from_array(broken, table.name))
    onnx.save(graph, file)
    match = r"^the output '(text_embeds|logits_per_\w+)' of the ONNX graph is not finite in float16, .+ use `dtype"
    with pytest.raises(QuantizationError, match=match):
        check_finite(expected, outputs_of(tmp_path / "out", inputs))


def test_graph_that_does_not_run(tmp_path: Path) -> None:
    """What the runtime says while it runs a graph reaches the user with the folder."""
    from hfcompress.runtimes.onnx_float16 import outputs_of

    build(FAMILIES["clip"]).save_pretrained(tmp_path / "source")
    cast(tmp_path / "source", tmp_path / "out")
    inputs = dict(FAMILIES["clip"].inputs(load_model(tmp_path / "source").config))
    inputs["input_ids"] = inputs["input_ids"] + 10**6
    with pytest.raises(QuantizationError, match=r"^ONNX Runtime cannot run the graphs of .*onnx: "):
        outputs_of(tmp_path / "out", inputs)
