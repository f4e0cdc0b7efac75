"""Peak memory of static calibration with few and with many rows, each in a process of its own, for every method.

Run it with `python tests/benchmarks/calibration_memory.py`; it needs no network. The model is a chain of products of
random weights whose activations outweigh the model by far, so that whatever keeps them shows.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ("minmax", "percentile", "entropy")
FEW, MANY = 32, 512
TARGET = 1.2
BATCH, TOKENS, WIDTH, LAYERS = 16, 64, 256, 8


def make_graph(path: Path) -> None:
    """Write the graph."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5, f"w{index}")
        for index in range(LAYERS)
    ]
    nodes = [
        helper.make_node("MatMul", [f"x{index}", f"w{index}"], [f"x{index + 1}"], f"product{index}")
        for index in range(LAYERS)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", TOKENS, WIDTH]) for name in ("x0", f"x{LAYERS}")
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def peak_bytes(path: Path, method: str, rows: int) -> int:
    """Calibrate in this process and return its peak memory."""
    from hfcompress.quantization.ranges import Uncalibrated, calibrate

    def feeds() -> Iterator[tuple[str, dict[str, np.ndarray[Any, Any]]]]:
        for start in range(0, rows, BATCH):
            random = np.random.default_rng(start)
            yield "chain", {"x0": random.standard_normal((BATCH, TOKENS, WIDTH)).astype(np.float32)}

    tensors = frozenset(f"x{index}" for index in range(LAYERS))
    calibrate({"chain": Uncalibrated(path, tensors)}, feeds, method, 99.999, path.parent)  # type: ignore[arg-type]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(path: Path, method: str, rows: int) -> int:
    """Return the peak memory of a calibration in a process of its own."""
    command = [sys.executable, __file__, "--graph", path, "--method", method, "--rows", rows]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)  # noqa: S603
    return int(done.stdout.splitlines()[-1])


def main() -> int:
    """Print a row for each method; return 1 where the ratio exceeds the target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.graph is not None:
        sys.stdout.write(f"{peak_bytes(given.graph, given.method, given.rows)}\n")
        return 0
    table = Table("method", f"{FEW} rows", f"{MANY} rows", "ratio", f"≤ {TARGET}")
    held = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        make_graph(path)
        for method in METHODS:
            few, many = measured(path, method, FEW), measured(path, method, MANY)
            held &= many <= TARGET * few
            cells = (f"{few / 2**20:.0f} MiB", f"{many / 2**20:.0f} MiB", f"{many / few:.2f}")
            table.add_row(method, *cells, "yes" if many <= TARGET * few else "no")
    Console().print(table)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
