"""Tiny checkpoints under the ids of real ones."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPTokenizerFast,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)

from tests.checkpoints import RATE, SIDE, save_checkpoint
from tests.families import FAMILIES, build
from tests.families.tensors import IMAGE
from tests.families.towers import VOCABULARY

_TOKENIZER = Path(__file__).parents[2] / "recipes" / "quickstart" / "clip-digits"
_ENGLISH, _TRANSCRIBE, _TRANSLATE = "<|en|>", "<|transcribe|>", "<|translate|>"


def _card(folder: Path, license_id: str | None) -> None:
    """Write a card that names a license, or none, as the real one does."""
    front = "" if license_id is None else f"---\nlicense: {license_id}\n---\n\n"
    (folder / "README.md").write_text(f"{front}# A stand-in\n", encoding="utf-8")


def _clip(folder: Path, *, patch_size: int) -> None:
    """Save a CLIP; one of smaller patches has more of them, as B/16 has more than B/32."""
    tokenizer = CLIPTokenizerFast.from_pretrained(_TOKENIZER)
    family = FAMILIES["clip"]
    config = family.config()
    config.vision_config.patch_size = patch_size
    text = config.text_config
    text.vocab_size, text.max_position_embeddings = len(tokenizer), 24
    text.bos_token_id, text.eos_token_id, text.pad_token_id = (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    build(type(family)(family.name, lambda: config, family.inputs)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    _card(folder, None)


def _family(folder: Path, *, name: str, license_id: str) -> None:
    save_checkpoint(name, folder)
    _card(folder, license_id)


def _whisper(folder: Path) -> None:
    """Save a multilingual Whisper, which is told its language by tokens, and which soon stops writing."""
    family = FAMILIES["whisper"]
    config = family.config()
    config.max_target_positions = 160
    letters = ["<|endoftext|>", *(chr(code) for code in range(33, 123)), "Ġ"]
    special = ["<|startoftranscript|>", _ENGLISH, _TRANSLATE, _TRANSCRIBE, "<|startofprev|>", "<|notimestamps|>"]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=160)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    ids = dict(zip(special, tokenizer.convert_tokens_to_ids(special), strict=True))
    config.eos_token_id = config.pad_token_id = config.bos_token_id = 0
    config.decoder_start_token_id = ids[special[0]]
    model = build(type(family)(family.name, lambda: config, family.inputs))
    with torch.no_grad():  # the end of the text is a likely next token
        decoder = model.model.decoder
        end = decoder.embed_tokens.weight[0]
        decoder.layer_norm.bias.add_(end / end.norm() ** 2 * 0.6)
    generation = model.generation_config
    generation._from_model_config = False  # noqa: SLF001 - it has a file of its own, as released ones have
    generation.eos_token_id = generation.pad_token_id = generation.bos_token_id = 0
    generation.decoder_start_token_id, generation.max_length = ids[special[0]], 160
    generation.is_multilingual, generation.lang_to_id = True, {_ENGLISH: ids[_ENGLISH]}
    generation.task_to_id = {"transcribe": ids[_TRANSCRIBE], "translate": ids[_TRANSLATE]}
    generation.no_timestamps_token_id = ids["<|notimestamps|>"]
    generation.prev_sot_token_id = ids["<|startofprev|>"]
    model.save_pretrained(folder)
    frames = 2 * config.max_source_positions
    extractor = WhisperFeatureExtractor(feature_size=config.num_mel_bins, chunk_length=1, hop_length=RATE // frames)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    _card(folder, "apache-2.0")


def _smolvlm(folder: Path) -> None:
    """Save an Idefics3, which SmolVLM-256M is: it cuts an image into pieces and reads them among the words."""
    model = build(FAMILIES["idefics3"])
    model.save_pretrained(folder)
    pieces = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *pieces]
    words = ["<pad>", "<s>", "</s>", "<unk>", *special, "User:", "Assistant:"]
    words += [f"w{place}" for place in range(len(words), VOCABULARY)]
    words[IMAGE] = "<image>"
    level = models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")  # noqa: S106
    tokenizer = Tokenizer(level)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=2048,
        model_input_names=["input_ids", "attention_mask"],
        additional_special_tokens=[AddedToken(token, special=True) for token in ["<image>", *special]],
        **dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), words, strict=False)),
    )
    side = model.config.vision_config.image_size
    Idefics3Processor(
        Idefics3ImageProcessor(size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side}),
        fast,
        image_seq_len=(side // model.config.vision_config.patch_size // model.config.scale_factor) ** 2,
        chat_template=(
            "<s>{% for message in messages %}{{ message['role'] | capitalize }}: {% for part in message['content'] %}"
            "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
            "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
        ),
    ).save_pretrained(folder)
    _card(folder, "apache-2.0")


MODELS: dict[str, Callable[[Path], None]] = {
    "openai/clip-vit-base-patch32": partial(_clip, patch_size=16),
    "openai/clip-vit-base-patch16": partial(_clip, patch_size=8),
    "google/siglip-base-patch16-224": partial(_family, name="siglip", license_id="apache-2.0"),
    "laion/clap-htsat-unfused": partial(_family, name="clap", license_id="apache-2.0"),
    "openai/whisper-tiny": _whisper,
    "Salesforce/blip-image-captioning-base": partial(_family, name="blip_captioning", license_id="bsd-3-clause"),
    "HuggingFaceTB/SmolVLM-256M-Instruct": _smolvlm,
}
"""Id of a model → what saves its stand-in into an empty folder."""

CONVERTED = frozenset({"openai/clip-vit-base-patch32", "laion/clap-htsat-unfused"})
"""Those whose main branch holds no safetensors, but a pull request of the Hub's bot."""
