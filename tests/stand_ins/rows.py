"""Small datasets under the ids of real ones, as parquet."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from datasets import Audio, ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Pictures

_WORDS = ["a", "cat", "dog", "on", "red", "blue", "mat", "and", "the", "bird"]
_CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

_FILE = {"bytes": Value("binary"), "path": Value("string")}

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class StandIn:
    """A dataset.

    Attributes:
        features: Its columns.
        splits: Configuration and split → rows.
        rows: Makes columns of so many rows.
    """

    features: Features
    splits: dict[tuple[str, str], int]
    rows: Callable[[int, np.random.Generator], Columns]

    def write(self, folder: Path) -> None:
        """Write parquet files and the card that says which split is where."""
        configs: dict[str, list[dict[str, str]]] = {}
        # files of sounds as they are: to make them from samples takes another library
        stored = {name: _FILE if isinstance(kind, Audio) else kind for name, kind in self.features.items()}
        for number, ((config, split), count) in enumerate(self.splits.items()):
            file = folder / config / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            made = self.rows(count, np.random.default_rng(number))
            Dataset.from_dict(made, features=Features(stored)).cast(self.features).to_parquet(file)
            configs.setdefault(config, []).append({"split": split, "path": f"{config}/{split}-*"})
        metadata = {"configs": [{"config_name": name, "data_files": files} for name, files in configs.items()]}
        (folder / "README.md").write_text(f"---\n{yaml.safe_dump(metadata)}---\n", encoding="utf-8")


def _pictures(count: int, random: np.random.Generator) -> list[Pictures.Image]:
    noise = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Pictures.fromarray(pixels) for pixels in noise]


def _sounds(count: int, random: np.random.Generator, rate: int) -> list[dict[str, Any]]:
    files = []
    for row in range(count):
        file = io.BytesIO()
        noise = random.uniform(-0.5, 0.5, rate // 20)
        soundfile.write(file, noise, rate, format="WAV", subtype="PCM_16")
        files.append({"bytes": file.getvalue(), "path": f"{row}.wav"})
    return files


def _sentence(random: np.random.Generator) -> str:
    return " ".join(random.choice(_WORDS, random.integers(2, 6)))


def _sentences(count: int, random: np.random.Generator, many: int) -> list[list[str]]:
    return [[_sentence(random) for _ in range(many)] for _ in range(count)]


def _flickr30k(count: int, random: np.random.Generator) -> Columns:
    return {
        "image": _pictures(count, random),
        "caption": _sentences(count, random, 5),
        "sentids": [[str(5 * row + place) for place in range(5)] for row in range(count)],
        "img_id": [str(row) for row in range(count)],
        "filename": [f"{row}.jpg" for row in range(count)],
    }


def _cifar10(count: int, random: np.random.Generator) -> Columns:
    return {"img": _pictures(count, random), "label": [row % 10 for row in range(count)]}


def _pets(count: int, random: np.random.Generator) -> Columns:
    return {
        "image": _pictures(count, random),
        "label": [37 * row // count for row in range(count)],
        "image_id": [f"pet_{row}" for row in range(count)],
        "label_cat_dog": [row % 2 for row in range(count)],
    }


def _esc50(count: int, random: np.random.Generator) -> Columns:
    return {
        "filename": [f"{row}.wav" for row in range(count)],
        "fold": [1 + 5 * row // count for row in range(count)],
        "target": [row % 50 for row in range(count)],
        "category": [f"sound_{row % 50}" for row in range(count)],
        "esc10": [False] * count,
        "src_file": list(range(count)),
        "take": ["A"] * count,
        "audio": _sounds(count, random, 44_100),
    }


def _librispeech(count: int, random: np.random.Generator) -> Columns:
    return {
        "file": [f"{row}.flac" for row in range(count)],
        "audio": _sounds(count, random, 16_000),
        "text": [_sentence(random).upper() for _ in range(count)],
        "speaker_id": [row // 10 for row in range(count)],
        "chapter_id": [row // 10 for row in range(count)],
        "id": [str(row) for row in range(count)],
    }


def _textvqa(count: int, random: np.random.Generator) -> Columns:
    questions = [f"{_sentence(random)}?" for _ in range(count)]
    return {
        "image_id": [f"{row:016x}" for row in range(count)],
        "question_id": list(range(count)),
        "question": questions,
        "question_tokens": [question.split() for question in questions],
        "image": _pictures(count, random),
        "image_width": [8] * count,
        "image_height": [8] * count,
        "flickr_original_url": [""] * count,
        "flickr_300k_url": [""] * count,
        "answers": _sentences(count, random, 10),
        "image_classes": [["Cat"]] * count,
        "set_name": ["val"] * count,
        "ocr_tokens": [["w"]] * count,
    }


_TEXT, _NUMBER = Value("string"), Value("int64")
_PETS = [f"breed_{place}" for place in range(37)]

DATASETS: dict[str, StandIn] = {
    "lmms-lab/flickr30k": StandIn(
        Features(
            {"image": Image(), "caption": List(_TEXT), "sentids": List(_TEXT), "img_id": _TEXT, "filename": _TEXT}
        ),
        {("default", "test"): 1256},
        _flickr30k,
    ),
    "uoft-cs/cifar10": StandIn(
        Features({"img": Image(), "label": ClassLabel(names=_CIFAR10)}),
        {("plain_text", "train"): 20, ("plain_text", "test"): 2000},
        _cifar10,
    ),
    "timm/oxford-iiit-pet": StandIn(
        Features(
            {
                "image": Image(),
                "label": ClassLabel(names=_PETS),
                "image_id": _TEXT,
                "label_cat_dog": ClassLabel(names=["cat", "dog"]),
            }
        ),
        {("default", "train"): 300, ("default", "test"): 370},
        _pets,
    ),
    "ashraq/esc50": StandIn(
        Features(
            {
                "filename": _TEXT,
                "fold": _NUMBER,
                "target": _NUMBER,
                "category": _TEXT,
                "esc10": Value("bool"),
                "src_file": _NUMBER,
                "take": _TEXT,
                "audio": Audio(sampling_rate=44_100),
            }
        ),
        {("default", "train"): 600},
        _esc50,
    ),
    "openslr/librispeech_asr": StandIn(
        Features(
            {
                "file": _TEXT,
                "audio": Audio(sampling_rate=16_000),
                "text": _TEXT,
                "speaker_id": _NUMBER,
                "chapter_id": _NUMBER,
                "id": _TEXT,
            }
        ),
        {("clean", "train.100"): 10, ("clean", "validation"): 10, ("clean", "test"): 100, ("other", "test"): 10},
        _librispeech,
    ),
    "lmms-lab/textvqa": StandIn(
        Features(
            {
                "image_id": _TEXT,
                "question_id": Value("int32"),
                "question": _TEXT,
                "question_tokens": List(_TEXT),
                "image": Image(),
                "image_width": Value("int32"),
                "image_height": Value("int32"),
                "flickr_original_url": _TEXT,
                "flickr_300k_url": _TEXT,
                "answers": List(_TEXT),
                "image_classes": List(_TEXT),
                "set_name": _TEXT,
                "ocr_tokens": List(_TEXT),
            }
        ),
        {("default", "train"): 10, ("default", "validation"): 200},
        _textvqa,
    ),
}
"""Id of a dataset → its stand-in."""
