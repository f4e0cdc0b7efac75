"""Tiny checkpoints with processors, as rows of a dataset need them, and rows for each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, Features, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GemmaTokenizerFast,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)

from hfcompress.contracts import Rows
from tests.families import FAMILIES, build
from tests.families.tensors import IMAGE
from tests.families.towers import VISION, VOCABULARY

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["made_rows", "save_gemma3", "save_llava", "save_siglip", "save_whisper"]

_FRAMES_A_SECOND = 40
_IMAGE_WORD = "<image>"
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def made_rows(count: int = 6) -> Rows:
    """Return rows of noise: an image, a text and a sound each."""
    random = np.random.default_rng(0)
    made = Dataset.from_dict(
        {
            "text": [f"w{row + 10} w{row + 20}" for row in range(count)],
            "image": [Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)) for _ in range(count)],
            "audio": [{"array": random.normal(size=16000).tolist(), "sampling_rate": 16000} for _ in range(count)],
        },
        features=Features(
            {
                "text": Value("string"),
                "image": ImageFeature(),
                "audio": {"array": Sequence(Value("float32")), "sampling_rate": Value("int64")},
            }
        ),
    )
    return Rows(made, "noise", "0", "all")


def save_siglip(folder: Path) -> None:
    """Save a tiny SigLIP."""
    build(FAMILIES["siglip"]).save_pretrained(folder)
    side = VISION["image_size"]
    SiglipImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def save_llava(folder: Path, **changes: Any) -> None:  # noqa: ANN401 - fields of the text config
    """Save a tiny LLaVA."""
    family = FAMILIES["llava"]
    model = build(family)
    for name, value in changes.items():
        setattr(model.config.text_config, name, value)
    model.save_pretrained(folder)
    side = VISION["image_size"]
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    LlavaProcessor(
        images,
        _tokenizer(),
        patch_size=VISION["patch_size"],
        vision_feature_select_strategy="default",
        image_token=_IMAGE_WORD,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def save_gemma3(folder: Path) -> None:
    """Save a tiny Gemma 3, whose image tokens attend to one another."""
    model = build(FAMILIES["gemma3"])
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    begin, end = (f"w{model.config.boi_token_index}", f"w{model.config.eoi_token_index}")
    special = {"image_token": _IMAGE_WORD, "boi_token": begin, "eoi_token": end}
    words = str(folder / "tokenizer.json")
    tokenizer = GemmaTokenizerFast(tokenizer_file=words, extra_special_tokens=special, **_SPECIAL)
    tokenizer.chat_template = (
        "{% for said in messages %}{% for part in said.content %}"
        "{{ part.text if part.type == 'text' else '" + begin + "' }} {% endfor %}{% endfor %}"
    )
    side = VISION["image_size"]
    Gemma3Processor(
        Gemma3ImageProcessor(size={"height": side, "width": side}),
        tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=model.config.mm_tokens_per_image,
    ).save_pretrained(folder)


def save_whisper(folder: Path) -> None:
    """Save a tiny Whisper whose towers have the same heads: the exporter takes the encoder's for both."""
    family = FAMILIES["whisper"]
    config = family.config()
    config.encoder_attention_heads = config.decoder_attention_heads = 4
    model = WhisperForConditionalGeneration(config).eval()
    model.generation_config.update(decoder_start_token_id=1, pad_token_id=0, eos_token_id=90, bos_token_id=1)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(
        feature_size=config.num_mel_bins, chunk_length=1, hop_length=16000 // _FRAMES_A_SECOND
    ).save_pretrained(folder)
    letters = {chr(place + 33): place for place in range(90)} | {"<|endoftext|>": 90}
    (folder / "vocab.json").write_text(json.dumps(letters), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {word: place for place, word in enumerate(_SPECIAL.values())} | {_IMAGE_WORD: IMAGE}
    words |= {f"w{place}": place for place in range(4, VOCABULARY) if place != IMAGE}
    tokenizer = Tokenizer(WordLevel(words, _SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=[_IMAGE_WORD], model_max_length=16, **_SPECIAL
    )
