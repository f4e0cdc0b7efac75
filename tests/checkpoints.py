"""Tiny checkpoints with the processors that their rows go through, all made on the spot."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Audio, Dataset
from PIL import Image
from transformers import (
    BertTokenizerFast,
    BlipImageProcessor,
    BlipProcessor,
    ClapFeatureExtractor,
    ClapProcessor,
    PretrainedConfig,
    ProcessorMixin,
    RobertaTokenizerFast,
    SiglipImageProcessor,
    SiglipProcessor,
    TrOCRProcessor,
    ViTImageProcessor,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from hfcompress.contracts import Checkpoint, Rows
from tests.families import FAMILIES, build

RATE = 16_000
SIDE = 32
WORDS = ("a", "cat", "dog", "on", "red", "blue", "mat", "and", "the", "bird")


def _word_tokenizer(folder: Path, **options: Any) -> BertTokenizerFast:  # noqa: ANN401 - as its class
    """Return a tokenizer of whole words; its special tokens have the ids of the tiny models."""
    tokens = ["[PAD]", "[CLS]", "[UNK]", "[SEP]", "[MASK]", *(f"[unused{place}]" for place in range(5)), *WORDS]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=20, **options)


def _letters(folder: Path, first: list[str]) -> tuple[str, str]:
    """Write the files of a byte-level tokenizer of single letters."""
    tokens = [*first, *(chr(code) for code in range(33, 127)), "Ġ"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: place for place, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    return str(vocabulary), str(merges)


def _siglip(_: PretrainedConfig, folder: Path) -> ProcessorMixin:
    # SigLIP was trained without masks, and its own tokenizer makes none
    tokenizer = _word_tokenizer(folder, model_input_names=["input_ids"])
    return SiglipProcessor(SiglipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer)


def _blip(_: PretrainedConfig, folder: Path) -> ProcessorMixin:
    return BlipProcessor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), _word_tokenizer(folder))


def _trocr(_: PretrainedConfig, folder: Path) -> ProcessorMixin:
    return TrOCRProcessor(ViTImageProcessor(size={"height": SIDE, "width": SIDE}), _word_tokenizer(folder))


def _whisper(config: PretrainedConfig, folder: Path) -> ProcessorMixin:
    extractor = WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=1, hop_length=RATE // (2 * config.max_source_positions)
    )
    return WhisperProcessor(extractor, WhisperTokenizer(*_letters(folder, ["<|endoftext|>"]), model_max_length=16))


def _clap(config: PretrainedConfig, folder: Path) -> ProcessorMixin:
    extractor = ClapFeatureExtractor(
        feature_size=config.audio_config.num_mel_bins,
        sampling_rate=RATE,
        hop_length=80,
        max_length_s=1,
        fft_window_size=256,
        frequency_max=RATE // 2,
        truncation="rand_trunc",
    )
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    return ClapProcessor(extractor, RobertaTokenizerFast(*_letters(folder, special), model_max_length=20))


_PROCESSORS: dict[str, Callable[[PretrainedConfig, Path], ProcessorMixin]] = {
    "siglip": _siglip,
    "blip_captioning": _blip,
    "trocr": _trocr,
    "whisper": _whisper,
    "clap": _clap,
}


def save_checkpoint(name: str, folder: Path) -> Checkpoint:
    """Save the tiny model of a family with a processor for it."""
    model = build(FAMILIES[name])
    if name == "trocr":
        model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0  # as released checkpoints have them
        model.generation_config.decoder_start_token_id, model.generation_config.eos_token_id = 1, 2
    model.save_pretrained(folder)
    parts = folder.parent / f"{folder.name}-words"
    parts.mkdir()
    _PROCESSORS[name](model.config, parts).save_pretrained(folder)
    return Checkpoint(folder, "transformers")


def _wav(hertz: float) -> bytes:
    file = io.BytesIO()
    samples = np.sin(2 * np.pi * hertz * np.arange(RATE // 2) / RATE)
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def sound_rows(count: int) -> Rows:
    """Return rows of tones and of words for them, of different lengths."""
    columns = {
        "audio": [{"bytes": _wav(200 + 40 * row), "path": None} for row in range(count)],
        "text": [" ".join(WORDS[: 1 + row % 3]) for row in range(count)],
    }
    return Rows(Dataset.from_dict(columns).cast_column("audio", Audio(decode=False)), "sounds", "0", "all")


def image_rows(count: int) -> Rows:
    """Return rows of coloured noise and of words for it, of different lengths."""
    random = np.random.default_rng(0)
    columns = {
        "image": [Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(count)],
        "text": [" ".join(WORDS[: 1 + row % 3]) for row in range(count)],
    }
    return Rows(Dataset.from_dict(columns), "images", "0", "all")


def without_text(rows: Rows) -> Rows:
    """Return the same rows without their texts."""
    return Rows(rows.dataset.remove_columns("text"), rows.name, rows.revision, rows.split)
