"""Makers of files with a mistake in them, by the names that the cases of `tests/bad` call them by.

Each takes the case's folder and paths in it.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

__all__: list[str] = []

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart"


def copied(folder: Path, source: str, to: str) -> None:
    """Copy a file or folder."""
    start = folder / source  # an absolute path stays
    if start.is_dir():
        shutil.copytree(start, folder / to)
    else:
        shutil.copyfile(start, folder / to)


def removed(folder: Path, path: str) -> None:
    """Remove a file."""
    (folder / path).unlink()


def raw(folder: Path, path: str, hexadecimal: str) -> None:
    """Write bytes."""
    (folder / path).write_bytes(bytes.fromhex(hexadecimal))


def repeated(folder: Path, path: str, text: str, times: int) -> None:
    """Write a text many times over."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text * times, encoding="utf-8")


def sparse(folder: Path, path: str, size: int) -> None:
    """Write a file of zeros that takes no room."""
    with (folder / path).open("wb") as file:
        file.truncate(size)


def directory(folder: Path, path: str) -> None:
    """Make an empty folder."""
    (folder / path).mkdir(parents=True)


def link(folder: Path, path: str, target: str) -> None:
    """Make a symbolic link."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).symlink_to(target)


def cut(folder: Path, path: str, size: int) -> None:
    """Cut a file to a number of bytes."""
    (folder / path).write_bytes((folder / path).read_bytes()[:size])


def edited(folder: Path, path: str, key: str, value: Any) -> None:  # noqa: ANN401 - JSON
    """Set a key of a JSON file, `a.b.c`."""
    rows = json.loads((folder / path).read_text(encoding="utf-8"))
    held = rows
    *outer, last = key.split(".")
    for part in outer:
        held = held[part]
    held[last] = value
    (folder / path).write_text(json.dumps(rows), encoding="utf-8")


def reweighted(folder: Path, path: str, how: str) -> None:
    """Change the weights of a safetensors file."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / path)
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    if how == "not a number":
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    elif how == "missing":
        del tensors[name]
    elif how == "transposed":
        tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, folder / path, {"format": "pt"})


def pickled(folder: Path, path: str) -> None:
    """Write weights as a pickle."""
    import torch

    torch.save({}, folder / path)


def rows(folder: Path, path: str, how: str) -> None:
    """Write a dataset of eight rows with images, labels and captions."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature
    from PIL import Image
    from pyarrow import parquet

    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    count = 0 if how == "none" else 8
    columns: dict[str, list[Any]] = {
        "image": [{"bytes": file.getvalue(), "path": None}] * count,
        "label": list(range(count)),
        "text": [f"a photo of the digit {row}" for row in range(count)],
    }
    features = {
        "image": ImageFeature(),
        "label": ClassLabel(names=[str(digit) for digit in range(10)]),
        "text": Value("string"),
    }
    if how == "broken image":
        columns["image"][3] = {"bytes": file.getvalue()[:40], "path": None}
    elif how == "no image":
        columns["image"][3] = None
    elif how == "empty captions":
        columns["text"] = [""] * count
    elif how == "null caption":
        columns["text"][2] = None
    elif how == "labels without names":
        features["label"] = Value("int64")
    elif how == "label out of range":
        features["label"] = Value("int64")
        columns["label"][2] = 99
    elif how == "null label":
        columns["label"][2] = None
    elif how == "text for image":
        features["image"], columns["image"] = Value("string"), ["picture.png"] * count
    elif how == "numbers for text":
        features["text"], columns["text"] = Value("int64"), list(range(count))
    (folder / path).mkdir(parents=True)
    dataset = Dataset.from_dict(columns, features=Features(features))
    parquet.write_table(dataset.data.table, folder / path / "test-00000-of-00001.parquet")


def artifact(folder: Path, path: str) -> None:
    """Write an artifact: what `hfcompress run` on the good recipe gives."""
    shutil.copytree(_artifact(folder / "good.yaml"), folder / path)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hfcompress-artifact-")


def _artifact(recipe: Path) -> Path:
    made = Path(_scratch().name, "artifact")
    if not made.exists():
        import hfcompress

        hfcompress.run(recipe, output=made)
    return made
