"""What int8 keeps and gains: optimum's own defaults and ours, in one run, one table a part.

Run it with `python tests/benchmarks/quantization.py`; it needs no network. The part `quickstart` quantizes the
quickstart checkpoint and measures accuracy, ties, fidelity, size and speed; the part `shapes` has the sizes of CLIP
ViT-B/32 and Whisper-tiny with random weights (some 4 GB and several minutes), and measures size and speed. All get the
same calibration rows, and all of a table are timed in turns in this one process. Each part ends with what is asked of
ours, and whether it holds; what cannot be quantized stands in the table with its error.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import torch
from datasets import disable_progress_bars

sys.path.insert(0, str(Path(__file__).parent))
from quantization_bars import verdicts
from quantization_quickstart import quickstart, quickstart_table
from quantization_shapes import shapes, shapes_table
from retrieval import THREADS

__all__ = ["main"]

PARTS = {"quickstart": (quickstart, quickstart_table), "shapes": (shapes, shapes_table)}


def show(text: str) -> None:
    """Write to stdout, where the tables go; everything else goes to stderr."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table and the verdicts of each part and, where asked, write every result to a file."""
    parser = argparse.ArgumentParser(description="Compare int8 by optimum's defaults and by ours.")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this (default: all)")
    parser.add_argument("--json", type=Path, help="write every result here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("quantization").setLevel(logging.INFO)
    disable_progress_bars()
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    content = {}
    for name, (run, table) in PARTS.items():
        if arguments.part is not None and name not in arguments.part:
            continue
        # onnxruntime and nncf tell on stdout how they get on
        with tempfile.TemporaryDirectory(prefix="hfcompress-benchmark-") as scratch, redirect_stdout(sys.stderr):
            results, bars = run(Path(scratch))
        show(f"\n{table(results)}\n\n{verdicts(bars)}")
        content[name] = {"results": [asdict(row) for row in results], "asked": [asdict(bar) for bar in bars]}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
