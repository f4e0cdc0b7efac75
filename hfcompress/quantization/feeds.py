"""What each graph of an export is given when rows pass through the real pipeline: the inputs that calibration sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from hfcompress.inputs import load_processor, row_inputs
from hfcompress.runtimes.onnxruntime import ONNX_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from hfcompress.contracts import Checkpoint, Progress, Rows

__all__ = ["feeds"]


def feeds(
    exported: Checkpoint, rows: Rows, batch_size: int, progress: Progress
) -> Iterator[tuple[str, Mapping[str, np.ndarray[Any, Any]]]]:
    """Yield the file name of a graph and one batch of its inputs, batch by batch, for all graphs of an export.

    Args:
        exported: A float32 export: graphs under `onnx/`, processor beside them.
        rows: Calibration rows.
        batch_size: Rows that go through the model at once.
        progress: Hears how many batches are done.

    Raises:
        DataError: The rows lack what the model reads.
    """
    processor = load_processor(exported.path)
    wanted = {
        graph.name: {put.name for put in onnx.load(graph, load_external_data=False).graph.input}
        for graph in sorted((exported.path / ONNX_FOLDER).glob("*.onnx"))
    }
    total = -(-len(rows) // batch_size)
    for batch in progress.track(rows.batches(batch_size), total, "calibration batches"):
        for name, inputs in wanted.items():
            yield name, row_inputs(processor, inputs, batch)
