"""Promise: every task gives the same numbers for a torch model and for its float32 export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import pytest
from datasets import Image, load_dataset

from hfcompress.contracts import Checkpoint, Measurement, Progress, Rows, Task
from hfcompress.evaluation.generation import Generated
from hfcompress.registry import TASKS
from hfcompress.runtimes import runtime_of
from tests.checkpoints import WORDS, pictures, save_checkpoint, sounds, spoken_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hfcompress.contracts import Format

pytestmark = pytest.mark.filterwarnings("ignore")  # of exporters, about what is traced

ROWS = 6


def digits(**columns: str) -> Rows:
    """Return rows of the quickstart under other names."""
    dataset = load_dataset("recipes/quickstart/data", split="test[:40]").select_columns(list(columns))
    return Rows(dataset.rename_columns(columns), "digits", "0", "test[:40]")


def images(**columns: list[Any]) -> Rows:
    """Return pictures with columns beside them."""
    dataset = datasets.Dataset.from_dict({"image": pictures(ROWS), **columns}).cast_column("image", Image())
    return Rows(dataset, "pictures", "0", "all")


CASES: dict[str, tuple[str, str, dict[str, Any], Callable[[list[str]], Rows]]] = {
    "classified images": ("zero-shot-image-classification", "clip", {}, lambda _: digits(image="image", label="label")),
    "found images": ("image-text-retrieval", "clip", {}, lambda _: digits(image="image", caption="text")),
    "classified sounds": (
        "zero-shot-audio-classification",
        "clap",
        {"labels": WORDS[:3]},
        lambda _: spoken_rows(audio=sounds(ROWS, 1.2), label=[row % 3 for row in range(ROWS)]),
    ),
    "transcripts": (
        "automatic-speech-recognition",
        "whisper",
        {"max_new_tokens": 6},
        lambda texts: spoken_rows(audio=sounds(ROWS), text=texts),
    ),
    "frames": (
        "automatic-speech-recognition",
        "wav2vec2",
        {},
        lambda texts: spoken_rows(audio=sounds(ROWS, 0.1), text=texts),
    ),
    "captions": ("image-to-text", "blip_captioning", {"max_new_tokens": 6}, lambda texts: images(text=texts)),
    "answers": (
        "visual-question-answering",
        "llava",
        {"max_new_tokens": 6},
        lambda texts: images(
            question=["a cat", "on", "the red mat", "a", "dog and bird", "cat"], answer=[[text] * 10 for text in texts]
        ),
    ),
    "readings": ("image-to-text", "trocr", {"max_new_tokens": 6}, lambda texts: images(text=texts)),
}


def source(family: str, clip: Path, folder: Path) -> Checkpoint:
    """Return a checkpoint of the family, which for CLIP is a trained one."""
    return Checkpoint(clip, "transformers") if family == "clip" else save_checkpoint(family, folder)


def compared(case: str, checkpoint_format: Format, clip: Path, folder: Path) -> list[Measurement]:
    """Return what a task measures of a checkpoint and of its export."""
    name, family, options, make = CASES[case]
    original = source(family, clip, folder / "source")
    (folder / "export").mkdir()
    runtime = runtime_of(checkpoint_format)
    exported = runtime.export(original, folder / "export")
    task: Task = TASKS.get(name)(TASKS.get(name).Options(data="rows", batch_size=4, **options))
    rows = make(["-"] * ROWS)
    before = task.predict(runtime_of("transformers").load(original.path), rows, Progress())
    if isinstance(before, Generated):  # references that are partly right, so that no score is nothing
        rows = make([f"{WORDS[row]} {text[2:]}" for row, text in enumerate(before.texts)])
    after = task.follow(runtime.load(exported.path), rows, before, Progress())
    found = task.compare(before, after, rows)
    assert {row.name for row in found} == set(task.measures)
    return found


@pytest.mark.onnxruntime
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"answers"}))
def test_onnx_export(case: str, clip: Path, tmp_path: Path) -> None:
    """ONNX Runtime gives the numbers of torch, and the result is in every respect what the source is."""
    for row in compared(case, "onnx", clip, tmp_path):
        expected = row.source.value if row.source else float(row.name != "output_kl_divergence")
        assert row.compressed.value == pytest.approx(expected, abs=1e-4), row.name


@pytest.mark.openvino
@pytest.mark.parametrize("case", ["answers", "classified images", "readings"])
def test_openvino_export(case: str, clip: Path, tmp_path: Path) -> None:
    """OpenVINO's stock objects go through the same tasks; on some processors they compute in bfloat16 by themselves."""
    found = {row.name: row.compressed.value for row in compared(case, "openvino", clip, tmp_path)}
    assert found.get("output_kl_divergence", 0) < 0.01
    assert found["top1_agreement"] >= 0.8
    assert found.get("embedding_cosine_image", 1) > 0.999
