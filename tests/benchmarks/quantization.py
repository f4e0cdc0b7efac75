"""What int8 keeps and gains: optimum's own defaults and ours, in one run, one table a part.

Run it with `python tests/benchmarks/quantization.py`; it needs no network. The part `quickstart` quantizes the
quickstart checkpoint and measures accuracy, ties, fidelity, size and speed; the part `retrieval` does so with the
checkpoint of `retrieval.py`, whose R@1 tells the ways apart where the quickstart's top-1 is the same for all of them
(`--cache FOLDER` says where that checkpoint is kept, or is to be made); the part `shapes` has the sizes of CLIP
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
from functools import partial
from pathlib import Path

import torch
from datasets import disable_progress_bars

sys.path.insert(0, str(Path(__file__).parent))
from quantization_bars import verdicts
from quantization_quickstart import quickstart, quickstart_table
from quantization_retrieval import retrieval, retrieval_table
from quantization_shapes import SHAPES, shapes, shapes_table
from retrieval import THREADS

__all__ = ["main"]

TABLES = {"quickstart": quickstart_table, "retrieval": retrieval_table, "shapes": shapes_table}


def show(text: str) -> None:
    """Write to stdout, where the tables go; everything else goes to stderr."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Print the table and the verdicts of each part and, where asked, write every result to a file."""
    parser = argparse.ArgumentParser(description="Compare int8 by optimum's defaults and by ours.")
    parser.add_argument("--part", choices=TABLES, action="append", help="only this (default: all)")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="of the part shapes, only this (default: all)")
    parser.add_argument("--cache", type=Path, help="folder of the checkpoint of the part retrieval")
    parser.add_argument("--json", type=Path, help="write every result here")
    arguments = parser.parse_args()
    wanted = tuple(TABLES) if arguments.part is None else arguments.part
    if "retrieval" in wanted and arguments.cache is None:
        parser.error("the part retrieval needs --cache FOLDER, where its trained checkpoint is kept")
    runs = {
        "quickstart": quickstart,
        "retrieval": partial(retrieval, cache=arguments.cache),
        "shapes": partial(shapes, wanted=arguments.shape or SHAPES),
    }
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("quantization").setLevel(logging.INFO)
    disable_progress_bars()
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    content = {}
    for name, table in TABLES.items():
        if name not in wanted:
            continue
        # onnxruntime and nncf tell on stdout how they get on
        with tempfile.TemporaryDirectory(prefix="hfcompress-benchmark-") as scratch, redirect_stdout(sys.stderr):
            results, bars = runs[name](Path(scratch))
        show(f"\n{table(results)}\n\n{verdicts(bars)}")
        content[name] = {"results": [asdict(row) for row in results], "asked": [asdict(bar) for bar in bars]}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
