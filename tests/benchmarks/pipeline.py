"""How long a whole run takes on a model of real size, and how much memory, stage by stage.

The quickstart's two recipes (dynamic and static) are run as they stand on a CLIP ViT-B/32: 151M parameters made from
its configuration with random weights, 224-pixel images, 64 rows to calibrate and 64 to evaluate on. The scores mean
nothing, so the gates are lifted. Run it with `python tests/benchmarks/pipeline.py`; it needs no network.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
RECIPES = {"dynamic": "recipe.yaml", "static": "static.yaml"}
ROWS = 64
IMAGE_SIZE = 224
TARGET_S = 6 * 60
TARGET_BYTES = 6e9
STAGE = re.compile(r"\[ *[\d.]+ s\] (.+)")
SAMPLING_S = 0.01


@dataclass
class Stage:
    """A stage of a run: when it began, and the largest resident memory of the process until the next one."""

    name: str
    start_s: float
    peak_bytes: int = 0


class MemoryWatch(threading.Thread):
    """Samples the resident memory of a process and its children into the stage that is under way."""

    def __init__(self, process: psutil.Process, stages: list[Stage]) -> None:
        super().__init__(daemon=True)
        self._process = process
        self._stages = stages

    def run(self) -> None:
        """Sample until the process is gone."""
        try:
            while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
                family = [self._process, *self._process.children(recursive=True)]
                used = sum(member.memory_info().rss for member in family)
                self._stages[-1].peak_bytes = max(self._stages[-1].peak_bytes, used)
                time.sleep(SAMPLING_S)
        except psutil.NoSuchProcess:
            return


def make_model(folder: Path) -> None:
    """Write a CLIP ViT-B/32 of random weights, with the quickstart's tokenizer and 224-pixel images."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    small = AutoConfig.from_pretrained(QUICKSTART / "clip-digits").text_config
    special = {key: getattr(small, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(text_config=special)
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        QUICKSTART / "clip-digits", model_max_length=config.text_config.max_position_embeddings
    )
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder)


def make_data(folder: Path) -> None:
    """Write rows of the quickstart's splits calibration and test with images of the size that the model reads."""
    from datasets import Dataset, disable_progress_bars, load_dataset

    disable_progress_bars()
    folder.mkdir()
    for split in ("calibration", "test"):
        rows = load_dataset(str(QUICKSTART / "data"), split=split).select(range(ROWS))
        columns = {name: rows[name][:] for name in rows.column_names}
        columns["image"] = [image.resize((IMAGE_SIZE, IMAGE_SIZE)) for image in columns["image"]]
        Dataset.from_dict(columns, features=rows.features).to_parquet(folder / f"{split}.parquet")
    card = (QUICKSTART / "data" / "README.md").read_text(encoding="utf-8")
    without_train = card.replace("  - split: train\n    path: train.parquet\n", "")
    (folder / "README.md").write_text(without_train, encoding="utf-8")


def run(recipe: str, model: Path, data: Path, output: Path) -> list[Stage]:
    """Run a recipe of the quickstart on another model and other rows, in a process of its own; return its stages."""
    overrides = {
        "model.id": model,
        "data.test.dataset": data,
        **({"data.calibration.dataset": data} if recipe == RECIPES["static"] else {}),
        "steps.0.towers.vision.ffn": 0.5,
        "gates": "{latency_ms: null}",
    }
    command = [sys.executable, "-m", "hfcompress", "run", str(QUICKSTART / recipe), "-o", str(output)]
    for key, value in overrides.items():
        command += ["--set", f"{key}={value}"]
    begin = time.perf_counter()
    stages = [Stage("start", 0.0)]
    process = subprocess.Popen(  # noqa: S603 - our own program
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    watch = MemoryWatch(psutil.Process(process.pid), stages)
    watch.start()
    told = []
    for line in process.stderr or ():
        told.append(line)
        if found := STAGE.match(line):
            stages.append(Stage(found[1], time.perf_counter() - begin))
    watch.join()
    stages.append(Stage("end", time.perf_counter() - begin))
    if process.wait():
        sys.exit("".join(told))
    return stages


def table_of(mode: str, stages: list[Stage]) -> Table:
    """Return seconds and peak memory of each stage, and of the whole run against its targets."""
    table = Table(title=f"prune + quantize {mode}", title_justify="left")
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory, MB", justify="right")
    for stage, following in itertools.pairwise(stages):
        table.add_row(stage.name, f"{following.start_s - stage.start_s:.1f}", f"{stage.peak_bytes / 1e6:,.0f}")
    table.add_section()
    total_s, peak_bytes = stages[-1].start_s, max(stage.peak_bytes for stage in stages)
    table.add_row("all", f"{total_s:.1f}", f"{peak_bytes / 1e6:,.0f}")
    table.add_row("target", f"{TARGET_S}", f"{TARGET_BYTES / 1e6:,.0f}")
    return table


def main() -> None:
    """Make the model and the rows in a scratch folder, run both recipes, and print a table for each."""
    parser = argparse.ArgumentParser(description="Time the quickstart's recipes on a CLIP ViT-B/32, stage by stage.")
    parser.add_argument("--mode", choices=RECIPES, help="one of the two; both by default")
    mode = parser.parse_args().mode
    console = Console()
    with tempfile.TemporaryDirectory(prefix="hfcompress-benchmark-") as scratch:
        model, data = Path(scratch, "clip-vit-base-patch32-random"), Path(scratch, "data")
        make_model(model)
        make_data(data)
        for name in [mode] if mode else RECIPES:
            console.print(table_of(name, run(RECIPES[name], model, data, Path(scratch, name))))


if __name__ == "__main__":
    main()
