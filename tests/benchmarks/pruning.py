"""How much each way of pruning keeps, with no training: torch-pruning's pruners and ours, in one run and one table.

Run it with `python tests/benchmarks/pruning.py --cache FOLDER`. It uses the quickstart checkpoint (top-1) and a
retrieval checkpoint that it trains once (R@1, see `retrieval.py`), and for the cost a CLIP ViT-B/32 of random weights.
Peers and we get the same calibration rows and leave the same number of units in every layer, but for the lines that say
"global": they leave at least as many in each tower. No peer removes blocks, so ours stands beside blocks chosen at
random and beside the last ones.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from datasets import Dataset, load_dataset
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

import hfcompress
from hfcompress.errors import HfcompressError

sys.path.insert(0, str(Path(__file__).parent))
from peers import (
    PEERS,
    block_counts,
    feed_forward_sizes,
    head_counts,
    narrow_with_peer,
    prune_with_peer,
    residual_widths,
    without_blocks,
)
from retrieval import THREADS, make_retrieval_checkpoint, retrieval_recall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from transformers import ProcessorMixin

__all__ = ["main"]

logger = logging.getLogger("pruning")

Axis = Literal["ffn", "heads", "layers", "width"]

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATE = "a photo of the digit {}."

SIZES: dict[Axis, Callable[[CLIPModel], dict[str, int]]] = {
    "ffn": feed_forward_sizes,
    "heads": head_counts,
    "layers": block_counts,
    "width": residual_widths,
}
"""What is counted where ours is compared with others: name of the module → how many it has."""

DRAWS = 8
"""How often blocks are chosen at random."""


@dataclass(frozen=True)
class Way:
    """One way of pruning with hfcompress.

    Attributes:
        label: What the table calls it.
        options: What a recipe would say.
        is_calibrated: Whether it gets the calibration rows.
    """

    label: str
    options: Mapping[str, str]
    is_calibrated: bool = True


def _way(importance: str, compensate: str = "none", allocation: str = "uniform") -> Way:
    label = importance if compensate == "none" else f"{importance} + {compensate}"
    if allocation != "uniform":
        label = f"{label}, {allocation}"
    return Way(label, {"importance": importance, "compensate": compensate, "allocation": allocation})


RATIOS: dict[Axis, tuple[float, ...]] = {
    "ffn": (0.3, 0.5, 0.7, 0.9),
    "heads": (0.25, 0.5),
    "layers": (0.25, 0.5),
    "width": (0.25, 0.5),
}
MULTIPLE_OF: dict[Axis, int] = {"ffn": 8, "heads": 1, "layers": 1, "width": 4}
OURS: dict[Axis, tuple[Way, ...]] = {
    "ffn": (
        _way("random"),
        _way("magnitude"),
        _way("activation"),
        _way("obs"),
        _way("magnitude", "least_squares"),
        _way("activation", "least_squares"),
        _way("obs", "least_squares"),
        _way("obs", "least_squares", "global"),
    ),
    "heads": (
        _way("random"),
        _way("magnitude"),
        _way("activation"),
        _way("taylor"),
        _way("obs"),
        _way("magnitude", "least_squares"),
        _way("taylor", "least_squares"),
        _way("obs", "least_squares"),
    ),
    "layers": (
        Way("least influence, no rows", {}, is_calibrated=False),
        Way("least change of the outputs", {}),
    ),
    "width": (
        _way("magnitude"),
        _way("magnitude", "least_squares"),
        _way("obs", "least_squares"),
    ),
}


@dataclass(frozen=True)
class Subject:
    """A trained checkpoint, and how what it keeps is measured.

    Attributes:
        name: What the table calls it.
        metric: What is measured: `top-1` or `R@1`.
        folder: The checkpoint.
        calibration: Rows with the columns `image` and `text`.
        measure: The metric of a model, in [0, 1].
    """

    name: str
    metric: str
    folder: Path
    calibration: Dataset
    measure: Callable[[CLIPModel], float]


@dataclass(frozen=True)
class Result:
    """One cell of the table.

    Attributes:
        subject: Name of the checkpoint.
        axis: What was removed, or `none` for the source.
        method: Who chose and what was repaired.
        ratio: Share that was removed, in [0, 1).
        value: The metric after it; `None` where the method refused.
        seconds: How long the pruning took, without the measuring.
    """

    subject: str
    axis: str
    method: str
    ratio: float
    value: float | None
    seconds: float


def quickstart() -> Subject:
    """Return the quickstart checkpoint, measured by zero-shot classification of its test split."""
    rows = {
        name: load_dataset("parquet", data_files=str(QUICKSTART / "data" / f"{name}.parquet"), split="train")
        for name in ("calibration", "test")
    }
    processor = AutoProcessor.from_pretrained(QUICKSTART / "clip-digits", use_fast=False)
    captions = [TEMPLATE.format(name) for name in DIGITS]
    inputs = processor(images=rows["test"]["image"][:], text=captions, padding=True, return_tensors="pt")
    labels = torch.tensor(rows["test"]["label"][:])

    @torch.inference_mode()
    def measure(model: CLIPModel) -> float:
        return (model.eval()(**inputs).logits_per_image.argmax(dim=1) == labels).float().mean().item()

    calibration = rows["calibration"].rename_column("caption", "text").remove_columns("label")
    return Subject("quickstart", "top-1", QUICKSTART / "clip-digits", calibration, measure)


def retrieval(cache: Path) -> Subject:
    """Return the retrieval checkpoint, trained where `cache` does not hold it yet."""
    checkpoint = make_retrieval_checkpoint(cache / "retrieval")
    processor = AutoProcessor.from_pretrained(checkpoint.folder, use_fast=False)
    return Subject(
        "retrieval",
        "R@1",
        checkpoint.folder,
        checkpoint.calibration,
        lambda model: retrieval_recall(model, processor, checkpoint.test),
    )


def results_of(subject: Subject, axes: tuple[Axis, ...], scratch: Path) -> Iterator[Result]:
    """Yield one result for each method and ratio of each axis, the source first."""
    source = CLIPModel.from_pretrained(subject.folder).eval()
    processor = AutoProcessor.from_pretrained(subject.folder, use_fast=False)
    inputs = calibration_inputs(processor, subject.calibration)
    yield Result(subject.name, "none", "source", 0.0, subject.measure(source), 0.0)
    for axis in axes:
        for ratio in RATIOS[axis]:
            for way in OURS[axis]:
                yield _ours(subject, axis, ratio, way, scratch)
            if axis == "layers":
                yield from _by_hand(subject, ratio, source)
                continue
            for peer in PEERS:
                yield _peer(subject, axis, ratio, peer, source, inputs)


def calibration_inputs(processor: ProcessorMixin, rows: Dataset) -> Mapping[str, Tensor]:
    """Return all calibration pairs as the model's inputs."""
    return dict(processor(images=rows["image"][:], text=rows["text"][:], padding=True, return_tensors="pt"))


def kept(size: int, ratio: float, multiple_of: int) -> int:
    """Return how many of `size` stay when `ratio` of them go, rounded up to a multiple."""
    stay = size - int(size * ratio)
    return min(size, -(-stay // multiple_of) * multiple_of)


def _ours(subject: Subject, axis: Axis, ratio: float, way: Way, scratch: Path) -> Result:
    """Prune with hfcompress, load the result as a user would, and measure it."""
    output = scratch / "out"
    shutil.rmtree(output, ignore_errors=True)
    method = f"ours: {way.label}"
    started = time.perf_counter()
    try:
        hfcompress.prune(
            subject.folder,
            output=output,
            calibration=subject.calibration if way.is_calibrated else None,
            towers={"all": {axis: ratio}},
            multiple_of=MULTIPLE_OF[axis],
            **way.options,
        )
    except HfcompressError as error:
        logger.warning("%s, %s %g, %s: %s", subject.name, axis, ratio, method, error)
        return Result(subject.name, axis, method, ratio, None, time.perf_counter() - started)
    seconds = time.perf_counter() - started
    model = AutoModel.from_pretrained(output)
    is_uniform = way.options.get("allocation", "uniform") == "uniform"
    _check_sizes(CLIPModel.from_pretrained(subject.folder), model, axis, ratio, is_uniform=is_uniform)
    return Result(subject.name, axis, method, ratio, subject.measure(model), seconds)


def _sizes_to_keep(source: CLIPModel, axis: Axis, ratio: float) -> dict[str, int]:
    """Return how many units, heads or blocks stay in each module."""
    return {name: kept(size, ratio, MULTIPLE_OF[axis]) for name, size in SIZES[axis](source).items()}


def _check_sizes(source: CLIPModel, pruned: CLIPModel, axis: Axis, ratio: float, *, is_uniform: bool) -> None:
    """Stop where a comparison would not be between equals.

    Raises:
        RuntimeError: A layer has another size than the others are asked for; where layers need not be alike, a tower
            has fewer units, or so many more that rounding up does not tell why.
    """
    expected = _sizes_to_keep(source, axis, ratio)
    got = SIZES[axis](pruned)
    if is_uniform:
        is_equal = got == expected
    else:
        more = [_of_tower(got, tower) - _of_tower(expected, tower) for tower in ("text_model.", "vision_model.")]
        is_equal = all(0 <= surplus < MULTIPLE_OF[axis] * len(expected) for surplus in more)
    if not is_equal:
        msg = f"hfcompress left other sizes than the others are asked for: {got}, expected {expected}"
        raise RuntimeError(msg)


def _of_tower(sizes: Mapping[str, int], prefix: str) -> int:
    return sum(size for name, size in sizes.items() if name.startswith(prefix))


def _peer(
    subject: Subject, axis: Axis, ratio: float, peer: str, source: CLIPModel, inputs: Mapping[str, Tensor]
) -> Result:
    """Prune with torch-pruning to the sizes that ours leaves, and measure."""
    sizes = _sizes_to_keep(source, axis, ratio)
    started = time.perf_counter()
    if axis == "width":
        pruned = narrow_with_peer(source, inputs, peer, ratio)
    elif axis == "heads":
        pruned = prune_with_peer(source, inputs, peer, heads=sizes)
    else:
        pruned = prune_with_peer(source, inputs, peer, units=sizes)
    seconds = time.perf_counter() - started
    return Result(subject.name, axis, f"torch-pruning: {peer}", ratio, subject.measure(pruned), seconds)


def _by_hand(subject: Subject, ratio: float, source: CLIPModel) -> Iterator[Result]:
    """Remove the last blocks, and blocks chosen at random, as many as ours removes, and measure."""
    before, after = block_counts(source), _sizes_to_keep(source, "layers", ratio)
    generator = torch.Generator().manual_seed(0)
    choices = {
        "by hand: last blocks": [{name: list(range(count)) for name, count in after.items()}],
        f"by hand: random blocks, mean of {DRAWS}": [
            {
                name: sorted(torch.randperm(before[name], generator=generator)[:count].tolist())
                for name, count in after.items()
            }
            for _ in range(DRAWS)
        ],
    }
    for method, draws in choices.items():
        values = [subject.measure(without_blocks(source, blocks)) for blocks in draws if before != after]
        value = sum(values) / len(values) if values else None
        yield Result(subject.name, "layers", method, ratio, value, 0.0)


# --- the cost --------------------------------------------------------------------------------------------------------

COSTS = (("magnitude", "none", 0), ("obs", "least_squares", 128))
"""Importance, compensation and calibration pairs of each run on the large model."""

MEASURED = """
import json, pathlib, sys, time
import datasets, torch, torch_pruning, transformers, hfcompress
from transformers import CLIPModel, CLIPProcessor
folder, output, rows, importance, compensate, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
def peak_bytes():
    # getrusage would tell the peak of the parent too, which a process inherits when it starts
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
calibration = None if rows is None else datasets.load_dataset("parquet", data_files=rows, split="train")
before = peak_bytes()
started = time.perf_counter()
hfcompress.prune(
    folder,
    output=output,
    calibration=calibration,
    towers={"all": {"ffn": 0.5}},
    importance=importance,
    compensate=compensate,
)
seconds = time.perf_counter() - started
print(json.dumps([seconds, peak_bytes() - before]))
"""


@dataclass(frozen=True)
class Cost:
    """What a run on the large model takes.

    Attributes:
        method: Importance and compensation.
        pairs: Number of calibration pairs.
        seconds: Wall time of the call, from the folder to the saved folder.
        peak_bytes: Largest memory of the process beyond what the libraries take.
        weights_bytes: Size of the checkpoint.
    """

    method: str
    pairs: int
    seconds: float
    peak_bytes: int
    weights_bytes: int


def costs(subject: Subject, scratch: Path) -> Iterator[Cost]:
    """Yield the cost of pruning half of the feed-forward units of a CLIP ViT-B/32 with random weights.

    Args:
        subject: Its processor files and its calibration rows are used.
        scratch: An empty folder.
    """
    folder = scratch / "vit-b-32"
    _save_large_model(subject.folder, folder)
    weights_bytes = (folder / "model.safetensors").stat().st_size
    for importance, compensate, pairs in COSTS:
        rows = scratch / f"{pairs}.parquet"
        if pairs:
            subject.calibration.select(range(pairs)).to_parquet(rows)
        output = scratch / f"{importance}-{compensate}"
        arguments = [str(folder), str(output), str(rows) if pairs else None, importance, compensate, THREADS]
        done = subprocess.run(  # noqa: S603 - this interpreter, on a script that stands above
            [sys.executable, "-c", MEASURED, json.dumps(arguments)], check=True, stdout=subprocess.PIPE, text=True
        )
        seconds, peak_bytes = json.loads(done.stdout.splitlines()[-1])
        shutil.rmtree(output)
        yield Cost(f"{importance} + {compensate}", pairs, seconds, peak_bytes, weights_bytes)


def _save_large_model(processor_folder: Path, folder: Path) -> None:
    """Write a CLIP ViT-B/32 of random weights, with processor files that prepare images of its size."""
    folder.mkdir(parents=True)
    config = CLIPConfig()
    for source in processor_folder.iterdir():
        if source.suffix != ".safetensors" and source.name != "config.json":
            shutil.copy(source, folder)
    side = config.vision_config.image_size
    path = folder / "preprocessor_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content |= {"do_resize": True, "do_center_crop": True, "size": {"shortest_edge": side}}
    content["crop_size"] = {"height": side, "width": side}
    path.write_text(json.dumps(content), encoding="utf-8")
    special = json.loads((processor_folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, special[name])
    CLIPModel(config).save_pretrained(folder)


# --- the tables ------------------------------------------------------------------------------------------------------


def table(results: list[Result], subject: Subject, axis: Axis) -> str:
    """Return one Markdown table: methods down, ratios across, then the seconds of the slowest run."""
    source = next(result.value for result in results if result.subject == subject.name and result.method == "source")
    ratios = RATIOS[axis]
    here = [result for result in results if result.subject == subject.name and result.axis == axis]
    lines = [
        f"\n{subject.name}: {subject.metric}, source {source:.3f}; {axis} removed in all towers\n",
        "| method | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " | seconds |",
        "| --- |" + " --- |" * (len(ratios) + 1),
    ]
    for method in dict.fromkeys(result.method for result in here):
        row = {result.ratio: result for result in here if result.method == method}
        values = ["refused" if row[ratio].value is None else f"{row[ratio].value:.3f}" for ratio in ratios]
        lines.append(f"| {method} | {' | '.join(values)} | {max(result.seconds for result in row.values()):.1f} |")
    return "\n".join(lines)


def show(text: str) -> None:
    """Write a line to stdout, where the tables go; everything else goes to stderr."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Print all tables and, where asked, write every result to a file."""
    parser = argparse.ArgumentParser(description="Compare ways of pruning, with no training.")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the checkpoint that is trained")
    parser.add_argument("--axis", choices=[*RATIOS, "cost"], action="append", help="only this (default: all)")
    parser.add_argument("--subject", choices=["quickstart", "retrieval"], action="append", help="only this")
    parser.add_argument("--json", type=Path, help="write every result here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(THREADS)
    axes: tuple[Axis, ...] = tuple(axis for axis in RATIOS if arguments.axis is None or axis in arguments.axis)
    subjects = [retrieval(arguments.cache), quickstart()]
    results: list[Result] = []
    spent: list[Cost] = []
    with tempfile.TemporaryDirectory() as scratch:
        for subject in subjects:
            if arguments.subject is not None and subject.name not in arguments.subject:
                continue
            for result in results_of(subject, axes, Path(scratch)):
                results.append(result)
                logger.info("%s", result)
            for axis in axes:
                show(table(results, subject, axis))
        if arguments.axis is None or "cost" in arguments.axis:
            show("\n| CLIP ViT-B/32, random weights, ffn 0.5 | pairs | seconds | peak memory / checkpoint |")
            show("| --- | --- | --- | --- |")
            for cost in costs(subjects[0], Path(scratch)):
                spent.append(cost)
                ratio = cost.peak_bytes / cost.weights_bytes
                show(f"| {cost.method} | {cost.pairs} | {cost.seconds:.1f} | {ratio:.2f} |")
    if arguments.json is not None:
        content = {"results": [asdict(result) for result in results], "costs": [asdict(cost) for cost in spent]}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
