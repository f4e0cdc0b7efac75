"""A dual encoder as one graph for each tower, cut out of the graph of both: what browsers and phones load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import onnx
from onnx.utils import Extractor

from hfcompress.errors import QuantizationError
from hfcompress.runtimes.onnx_files import save_graph

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

__all__ = ["EMBEDDINGS", "Layout", "lay_out", "tower_graphs"]

Layout: TypeAlias = Literal["combined", "towers", "both"]

EMBEDDINGS = {"text_model": "text_embeds", "vision_model": "image_embeds", "audio_model": "audio_embeds"}
"""Name of a tower's file, as transformers.js looks for it → the output that it gives."""
_POOLED = "pooler_output"
_COMBINED = "model.onnx"


def lay_out(graphs: Path, config: PretrainedConfig, layout: Layout) -> None:
    """Turn the graph of a dual encoder into those that a layout has. Changes the folder.

    Args:
        graphs: Folder with `model.onnx`.
        config: The model's configuration.
        layout: `combined` leaves it, `towers` puts one graph for each tower in its place, `both` beside it.

    Raises:
        QuantizationError: The model has no towers that can be told apart.
    """
    if layout == "combined":
        return
    model = onnx.load(graphs / _COMBINED)
    extractor = Extractor(model)
    outputs = {put.name for put in model.graph.output}
    towers = {file: output for file, output in EMBEDDINGS.items() if output in outputs}
    read = {output: _inputs_of(model.graph, output) for output in towers.values()}
    if len(towers) != 2 or set.intersection(*read.values()):  # noqa: PLR2004 - a dual encoder
        msg = (
            f"a {config.model_type!r} model gives {', '.join(sorted(outputs))}, so it has no two towers to export "
            f"apart; use `layout: combined`"
        )
        raise QuantizationError(msg)
    for file, output in towers.items():
        tower = extractor.extract_model(sorted(read[output]), [output])
        if not hasattr(config, "projection_dim"):
            _add_pooled(tower.graph, output)
        save_graph(tower, graphs / f"{file}.onnx")
    if layout == "towers":
        for whole in graphs.glob(f"{_COMBINED}*"):
            whole.unlink()


def tower_graphs(folder: Path) -> dict[str, Path]:
    """Return the graph of each tower under a folder, by the embeddings that it gives."""
    return {output: graph for name, output in EMBEDDINGS.items() for graph in sorted(folder.glob(f"{name}*.onnx"))[:1]}


def _inputs_of(graph: onnx.GraphProto, output: str) -> set[str]:
    """Return the names of the graph's inputs that an output depends on."""
    made_by = {name: node for node in graph.node for name in node.output}
    inputs = {put.name for put in graph.input}
    seen: set[str] = set()
    waiting = [output]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += list(made_by[name].input) if name in made_by else []
    return seen & inputs


def _add_pooled(graph: onnx.GraphProto, output: str) -> None:
    """Give the embeddings the name under which transformers has them in towers without a projection, too."""
    (put,) = graph.output
    pooled = onnx.ValueInfoProto()
    pooled.CopyFrom(put)
    pooled.name = _POOLED
    graph.node.append(onnx.helper.make_node("Identity", [output], [_POOLED], name=f"/{_POOLED}"))
    graph.output.append(pooled)
