"""Peak memory, encodings and speed of a zero-shot evaluation with few and with many rows, each in its own process.

Run it with `python tests/benchmarks/evaluation_memory.py`; it needs no network, and Linux, for the peak of a process
alone. The model is a CLIP of random weights that is small beside the 224 x 224 pixels that its processor gives it, so
that whatever keeps pixels shows, and so does the time that decoding takes.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hfcompress.contracts import Model

FEW, MANY = 200, 2000
TARGET = 1.2
CLASSES, TEMPLATES = 100, 7
BATCH = 32
WIDTH, HEIGHT = 500, 375
QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart"


class Counted(Model):
    """Counts what goes through a model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.config, self.processor, self.inputs = model.config, model.processor, model.inputs
        self.texts = self.images = 0

    def __call__(self, inputs: Any) -> dict[str, Any]:  # noqa: ANN401 - arrays by name
        """Count and run; one text goes along with a batch of images, and one image with a batch of texts."""
        texts, images = len(inputs["input_ids"]), len(inputs["pixel_values"])
        self.texts += texts if images == 1 else 0
        self.images += images if images > 1 else 0
        return self._model(inputs)


def make_checkpoint(folder: Path) -> None:
    """Write the model and its processor."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART / "clip-digits")
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {**tower, "image_size": 224, "patch_size": 32}
    config = CLIPConfig(text_config={**text, **ends}, vision_config=vision, projection_dim=64)
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)


def make_rows(folder: Path, rows: int) -> None:
    """Write photograph-like JPEGs with labels; the same few again and again, each decoded each time."""
    import numpy as np
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Picture

    encoded = []
    for seed in range(16):
        coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
        stream = io.BytesIO()
        Picture.fromarray(coarse).resize((WIDTH, HEIGHT), Picture.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        encoded.append(stream.getvalue())
    columns = {
        "image": [{"bytes": encoded[row % 16], "path": None} for row in range(rows)],
        "label": [row % CLASSES for row in range(rows)],
    }
    Dataset.from_dict(columns, Features({"image": Image(), "label": Value("int64")})).save_to_disk(folder)


def evaluate(model: Path, data: Path, workers: int) -> dict[str, float]:
    """Evaluate in this process and return what it took."""
    from datasets import load_from_disk

    from hfcompress.contracts import Progress, Rows
    from hfcompress.evaluation.zero_shot_image_classification import ZeroShotImageClassification, ZeroShotImageOptions
    from hfcompress.runtimes import runtime_of

    options = ZeroShotImageOptions(
        data="rows",
        batch_size=BATCH,
        workers=workers,
        labels=tuple(f"thing {index}" for index in range(CLASSES)),
        templates=tuple(f"photo {index} of a {{label}}." for index in range(TEMPLATES)),
    )
    counted = Counted(runtime_of("transformers").load(model))
    rows = Rows(load_from_disk(data), "rows", "1", "all")
    start = time.perf_counter()
    ZeroShotImageClassification(options).predict(counted, rows, Progress())
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"peak_kib": peak, "texts": counted.texts, "images": counted.images, "seconds": seconds}


def main() -> int:
    """Print a row for each evaluation; return 1 where memory grows, or anything is encoded twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, nargs="*", default=[0])
    given = parser.parse_args()
    if given.child is not None:
        model, data, workers = given.child
        sys.stdout.write(json.dumps(evaluate(Path(model), Path(data), int(workers))))
        return 0
    table = Table("rows", "workers", "texts encoded", "images encoded", "peak memory", "seconds")
    held = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(folder / "model")
        for rows in (FEW, MANY):
            make_rows(folder / str(rows), rows)
        for workers in given.workers:
            peaks = []
            for rows in (FEW, MANY):
                command = [sys.executable, __file__, "--child", folder / "model", folder / str(rows), workers]
                done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
                found = json.loads(done.stdout)
                peaks.append(found["peak_kib"])
                held &= (found["texts"], found["images"]) == (CLASSES * TEMPLATES, rows)
                counts = (str(found[key]) for key in ("texts", "images"))
                table.add_row(
                    str(rows), str(workers), *counts, f"{found['peak_kib'] / 1024:.0f} MiB", f"{found['seconds']:.1f}"
                )
            held &= peaks[1] <= TARGET * peaks[0]
    Console().print(table)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
