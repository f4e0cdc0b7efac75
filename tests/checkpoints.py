"""Whole tiny checkpoints of several families: a model made from its config, and a processor made on the spot."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
from datasets import Audio, Dataset
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    BlipImageProcessor,
    BlipProcessor,
    ClapFeatureExtractor,
    ClapProcessor,
    CLIPImageProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
    TrOCRProcessor,
    ViTImageProcessor,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from hfcompress.contracts import Rows
from tests.families import FAMILIES, build
from tests.families.tensors import IMAGE
from tests.families.towers import BEGIN, VOCABULARY

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PretrainedConfig

RATE = 16_000
SIZE = {"height": 32, "width": 32}
WORDS = ("red", "green", "blue", "square", "circle", "what", "color", "is", "the", "shape", "it", "yes", "no", "one")


def save(family: str, folder: Path) -> Path:
    """Write the checkpoint of a family that has a processor here, and return its folder."""
    model = build(FAMILIES[family])
    if family == "trocr":
        model.generation_config.decoder_start_token_id = BEGIN
    model.save_pretrained(folder)
    (folder / "words").mkdir()
    _PROCESSORS[family](model.config, folder / "words").save_pretrained(folder)
    return folder


def pictures(count: int) -> list[Image.Image]:
    """Return images of noise, each of its own size and brightness."""
    random = np.random.default_rng(0)
    return [
        Image.fromarray(random.integers(0, 100 + 10 * index, (40 + index, 48, 3), dtype=np.uint8).astype(np.uint8))
        for index in range(count)
    ]


def sounds(count: int, seconds: float = 0.5) -> list[dict[str, Any]]:
    """Return tones of rising pitch as files."""
    times = np.arange(int(RATE * seconds)) / RATE
    found = []
    for index in range(count):
        file = io.BytesIO()
        soundfile.write(file, 0.5 * np.sin(2 * np.pi * (200 + 60 * index) * times), RATE, format="WAV")
        found.append({"bytes": file.getvalue(), "path": None})
    return found


def spoken_rows(**columns: list[Any]) -> Rows:
    """Return rows with the column `audio` left as files."""
    return Rows(Dataset.from_dict(columns).cast_column("audio", Audio(decode=False)), "sounds", "0", "all")


def _word_tokenizer() -> PreTrainedTokenizerFast:
    tokens = [*(["<pad>", "<s>", "</s>", "<unk>"]), *WORDS]
    tokens += [f"w{index}" for index in range(len(tokens), VOCABULARY)]
    tokens[IMAGE] = "<image>"
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        additional_special_tokens=["<image>"],
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def _whisper(config: PretrainedConfig, folder: Path) -> WhisperProcessor:
    # the ids of the config's special tokens, and then what a byte-level tokenizer has
    tokens = ["<pad>", "<s>", "<|endoftext|>", "<start>", *(chr(code) for code in range(33, 127)), "Ġ"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)
    extractor = WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=1, hop_length=RATE // (2 * config.max_source_positions)
    )
    return WhisperProcessor(extractor, tokenizer)


def _clap(config: PretrainedConfig, folder: Path) -> ClapProcessor:
    audio = config.audio_config
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(chr(code) for code in range(33, 123)), "Ġ"]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=40)
    extractor = ClapFeatureExtractor(
        feature_size=audio.num_mel_bins,
        sampling_rate=RATE,
        hop_length=160,
        max_length_s=1,
        fft_window_size=512,
        truncation="rand_trunc",
        frequency_max=RATE // 2,
    )
    return ClapProcessor(extractor, tokenizer)


def _blip(_: PretrainedConfig, folder: Path) -> BlipProcessor:
    tokens = ["[PAD]", "[CLS]", "[UNK]", "[SEP]", "[MASK]", *WORDS, *(f"w{index}" for index in range(85))]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=32)
    return BlipProcessor(BlipImageProcessor(size=SIZE), tokenizer)


def _trocr(_: PretrainedConfig, folder: Path) -> TrOCRProcessor:
    del folder
    return TrOCRProcessor(ViTImageProcessor(size=SIZE), _word_tokenizer())


def _llava(config: PretrainedConfig, folder: Path) -> LlavaProcessor:
    del folder
    return LlavaProcessor(
        CLIPImageProcessor(size=SIZE, crop_size=SIZE),
        _word_tokenizer(),
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        image_token="<image>",  # noqa: S106 - no password
        num_additional_image_tokens=1,
        chat_template=(
            "{% for m in messages %}{% for part in m['content'] %}"
            "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
            "{% endfor %}{% endfor %}"
        ),
    )


_PROCESSORS = {
    "whisper": _whisper,
    "clap": _clap,
    "blip_captioning": _blip,
    "blip_vqa": _blip,
    "trocr": _trocr,
    "llava": _llava,
}
