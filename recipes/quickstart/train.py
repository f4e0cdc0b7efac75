"""Make the quickstart's dataset and its trained CLIP again, from scikit-learn's handwritten digits.

Two folders come out, each with its card:

- `data/`: 1,797 scans of handwritten digits with captions, in the splits train, calibration and test;
- `model/`: a small `CLIPModel`, trained on the split train alone and measured on the split test.

Run it with `python recipes/quickstart/train.py`. It needs two CPU cores, a few minutes and no network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from huggingface_hub import DatasetCardData, EvalResult, ModelCardData
from PIL import Image as PILImage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel, ProcessorMixin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

logger = logging.getLogger("quickstart")

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = (
    "a photo of the digit {}",
    "a photo of the digit {}.",
    "a photo of the number {}",
    "a photo of a {}.",
    "a handwritten {}",
    "a handwritten digit: {}",
    "a scan of the digit {}",
    "a blurry scan of the number {}.",
    "the digit {}, written by hand",
    "the number {} in black ink",
    "someone wrote {} on paper",
    "this is a {}",
    "an image of a handwritten {}.",
    "a small picture of the digit {}",
    "{}, in pen on white paper",
    "{}",
)
TEMPLATE = "a photo of the digit {}."

SEED = 0
THREADS = 2
IMAGE_SIZE = 32
CONTEXT_LENGTH = 24
TEST_ROWS = 540
CALIBRATION_ROWS = 257
SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Training:
    """How the model is trained.

    Attributes:
        epochs: Passes over the split train.
        batch_size: Pairs of an image and a caption in a step.
        learning_rate: The peak, reached after a tenth of the steps; half a cosine leads down to zero.
        weight_decay: AdamW's, on all matrices outside the feed-forward layers.
        feed_forward_weight_decay: AdamW's, on the matrices of the feed-forward layers. Both matrices that a hidden
            unit joins shrink together unless it earns its keep, so magnitude tells which units matter.
        max_shift: Largest shift of an image, as a fraction of its side.
        max_degrees: Largest rotation of an image.
        max_zoom: Largest change of scale of an image, as a fraction.
    """

    epochs: int = 45
    batch_size: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    feed_forward_weight_decay: float = 2.0
    max_shift: float = 0.06
    max_degrees: float = 12.0
    max_zoom: float = 0.1


# --- the dataset -----------------------------------------------------------------------------------------------------


def make_dataset() -> DatasetDict:
    """Return the digits as images with labels and captions, in stratified splits that share no image content."""
    digits = load_digits()
    scans = np.rint(255 - digits.images * (255 / 16)).astype(np.uint8)  # 17 grey levels; dark ink on white
    images = [
        PILImage.fromarray(scan).resize((IMAGE_SIZE, IMAGE_SIZE), PILImage.Resampling.BICUBIC).convert("RGB")
        for scan in scans
    ]
    first_row_of = {hashlib.sha256(image.tobytes()).hexdigest(): row for row, image in reversed([*enumerate(images)])}
    rows = sorted(first_row_of.values())
    labels = digits.target

    rest, test = train_test_split(rows, test_size=TEST_ROWS, random_state=SEED, stratify=labels[rows])
    train, calibration = train_test_split(rest, test_size=CALIBRATION_ROWS, random_state=SEED, stratify=labels[rest])
    features = Features({"image": Image(), "label": ClassLabel(names=list(NAMES)), "caption": Value("string")})
    choose = np.random.default_rng(SEED)
    splits = DatasetDict()
    for name, members in zip(SPLITS, (train, calibration, test), strict=True):
        templates = choose.integers(len(CAPTIONS), size=len(members))
        columns = {
            "image": [images[row] for row in members],
            "label": [int(labels[row]) for row in members],
            "caption": [
                CAPTIONS[template].format(NAMES[labels[row]]) for row, template in zip(members, templates, strict=True)
            ],
        }
        splits[name] = Dataset.from_dict(columns, features=features)
    return splits


def save_dataset(dataset: DatasetDict, folder: Path) -> None:
    """Write one parquet file a split, and the card that maps them, to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in dataset.items():
        split.to_parquet(folder / f"{name}.parquet")
    (folder / "README.md").write_text(dataset_card(dataset), encoding="utf-8")


# --- the processor ---------------------------------------------------------------------------------------------------


def train_tokenizer(captions: Sequence[str]) -> Tokenizer:
    """Return CLIP's byte-level BPE with merges learned from `captions`.

    As in CLIP, each of the 256 bytes is a token inside and at the end of a word, so that any text can be encoded.
    """
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        captions, BpeTrainer(vocab_size=10_000, min_frequency=2, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bos, eos = "<|startoftext|>", "<|endoftext|>"
    tokens = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(merge) for merge in merges), bos, eos]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer.model = BPE(
        vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=eos
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        (eos, vocabulary[eos]), (bos, vocabulary[bos]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens([bos, eos])
    return tokenizer


def save_processor(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer and the image preprocessing to `folder`, in the files every transformers release reads."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    half = [0.5, 0.5, 0.5]
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "CLIPProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": IMAGE_SIZE},
            "resample": int(PILImage.Resampling.BICUBIC),
            "do_center_crop": True,
            "crop_size": side,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": half,
            "image_std": half,
        },
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "processor_class": "CLIPProcessor",
            "model_max_length": CONTEXT_LENGTH,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
        },
    )


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write `content` to `path` as indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# --- the model -------------------------------------------------------------------------------------------------------


def make_model(tokenizer: Tokenizer) -> CLIPModel:
    """Return an untrained CLIP of two small towers, with the vocabulary and special tokens of `tokenizer`."""
    vision = {"hidden_size": 112, "intermediate_size": 896, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    special = {
        "bos_token_id": tokenizer.token_to_id("<|startoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }
    vocabulary = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": CONTEXT_LENGTH}
    config = CLIPConfig(
        vision_config={**vision, "image_size": IMAGE_SIZE, "patch_size": 4, "projection_dim": 64},
        text_config={**text, **vocabulary, **special, "projection_dim": 64},
        projection_dim=64,
    )
    return CLIPModel(config)


def contrastive_loss(logits_per_image: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of both directions' cross-entropy, where every caption of an image's class is right.

    Args:
        logits_per_image: Scaled cosine similarities, images by captions, of shape (n, n).
        labels: The class of each pair, of shape (n,).
    """
    same = (labels[:, None] == labels[None, :]).float()
    target = same / same.sum(dim=1, keepdim=True)  # symmetric in what it selects, so it serves both directions
    to_caption = functional.cross_entropy(logits_per_image, target)
    to_image = functional.cross_entropy(logits_per_image.T, target)
    return (to_caption + to_image) / 2


def augment(pixel_values: Tensor, training: Training, generator: torch.Generator) -> Tensor:
    """Return `pixel_values`, of shape (n, 3, height, width) in [-1, 1], each shifted, turned and zoomed at random."""
    draw = torch.rand(4, len(pixel_values), generator=generator) * 2 - 1
    angle = draw[0] * math.radians(training.max_degrees)
    zoom = 1 + draw[1] * training.max_zoom
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    shift_x, shift_y = draw[2:] * training.max_shift * 2  # the grid runs from -1 to 1
    affine = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1)
    grid = functional.affine_grid(affine, list(pixel_values.shape), align_corners=False)
    return functional.grid_sample(pixel_values - 1, grid, align_corners=False) + 1  # what comes in is white paper


def parameter_groups(model: CLIPModel, training: Training) -> list[dict[str, object]]:
    """Return the parameters in groups by weight decay; vectors (biases, norms) do not decay."""
    groups: dict[float, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        decay = training.feed_forward_weight_decay if ".mlp." in name else training.weight_decay
        groups.setdefault(decay if parameter.ndim > 1 else 0.0, []).append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of `count` rows in a random order, `size` at a time; a short rest is left out."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def train(model: CLIPModel, processor: ProcessorMixin, rows: Dataset, training: Training) -> None:
    """Train `model` in place on the images and captions of `rows`."""
    inputs = processor(
        images=rows["image"][:], text=rows["caption"][:], padding=True, truncation=True, return_tensors="pt"
    )
    labels = torch.tensor(rows["label"][:])
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(parameter_groups(model, training), lr=training.learning_rate, betas=(0.9, 0.98))
    steps = training.epochs * (len(rows) // training.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=training.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    for epoch in range(training.epochs):
        total, count = 0.0, 0
        for batch in batches(len(rows), training.batch_size, generator):
            output = model(
                pixel_values=augment(inputs["pixel_values"][batch], training, generator),
                input_ids=inputs["input_ids"][batch],
                attention_mask=inputs["attention_mask"][batch],
            )
            loss = contrastive_loss(output.logits_per_image, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            schedule.step()
            total, count = total + loss.item(), count + 1
        logger.info("epoch %d of %d: loss %.4f", epoch + 1, training.epochs, total / count)
    model.eval()


@torch.inference_mode()
def zero_shot_accuracy(model: CLIPModel, processor: ProcessorMixin, rows: Dataset) -> float:
    """Return the share of `rows` whose image is nearest to the caption made from `TEMPLATE` and its own class."""
    texts = [TEMPLATE.format(name) for name in NAMES]
    inputs = processor(images=rows["image"][:], text=texts, padding=True, return_tensors="pt")
    predicted = model(**inputs).logits_per_image.argmax(dim=1)
    return (predicted == torch.tensor(rows["label"][:])).float().mean().item()


# --- the cards -------------------------------------------------------------------------------------------------------


def dataset_card(dataset: DatasetDict) -> str:
    """Return the README of the dataset."""
    files = [{"split": name, "path": f"{name}.parquet"} for name in dataset]
    metadata = DatasetCardData(
        pretty_name="Handwritten digits with captions",
        license="cc-by-4.0",
        language="en",
        task_categories=["zero-shot-image-classification", "image-classification"],
        size_categories="1K<n<10K",
        configs=[{"config_name": "default", "data_files": files}],
    )
    counts = "\n".join(f"| {name} | {len(split)} |" for name, split in dataset.items())
    return f"""---
{metadata.to_yaml()}
---

# Handwritten digits with captions

The {sum(map(len, dataset.values())):,} scans of handwritten digits that ship with scikit-learn, resized from 8x8 to
{IMAGE_SIZE}x{IMAGE_SIZE} pixels, dark ink on white, each with its class and one of {len(CAPTIONS)} caption templates
drawn at random. The splits are stratified by class, and no image content occurs twice.

| split | rows |
| --- | --- |
{counts}

Features: `image` (RGB), `label` (the class, `zero` to `nine`), `caption` (English text).

Made by `train.py`, one folder up, with a fixed seed.

## Source and license

E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning Repository, 1998,
[doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), licensed under
[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/). Changed here: resized, inverted, captioned and split.
"""


def model_card(model: CLIPModel, dataset: DatasetDict, training: Training, accuracy: float, seconds: float) -> str:
    """Return the README of the model, with the numbers just measured."""
    result = EvalResult(
        task_type="zero-shot-image-classification",
        dataset_type="parquet",
        dataset_name="Handwritten digits with captions",
        dataset_split="test",
        metric_type="accuracy",
        metric_value=round(accuracy, 4),
    )
    metadata = ModelCardData(
        model_name="clip-digits-tiny",
        license="apache-2.0",
        language="en",
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "digits"],
        eval_results=[result],
    )
    vision, text = model.config.vision_config, model.config.text_config
    return f"""---
{metadata.to_yaml()}
---

# clip-digits-tiny

A stock `CLIPModel` of {model.num_parameters():,} parameters that matches handwritten digits to captions. It is trained,
so that compressing it has something to lose, and small, so that compressing it takes seconds. It knows nothing but the
ten digits.

| tower | layers | width | feed-forward | heads | input |
| --- | --- | --- | --- | --- | --- |
| vision | {vision.num_hidden_layers} | {vision.hidden_size} | {vision.intermediate_size} | \
{vision.num_attention_heads} | {vision.image_size}x{vision.image_size}, patches of {vision.patch_size} |
| text | {text.num_hidden_layers} | {text.hidden_size} | {text.intermediate_size} | \
{text.num_attention_heads} | {text.max_position_embeddings} tokens of {text.vocab_size} |

## Use

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("recipes/quickstart/clip-digits")
processor = AutoProcessor.from_pretrained("recipes/quickstart/clip-digits")
```

## Training

`train.py`, one folder up: {training.epochs} epochs over {len(dataset["train"]):,} image-caption pairs with the
contrastive loss in which every caption of an image's class is right, AdamW, random shifts, turns and zooms. It took
{seconds:.0f} s on {torch.get_num_threads()} CPU threads.

## Measured

| task | template | rows | top-1 |
| --- | --- | --- | --- |
| zero-shot image classification, split test | `{TEMPLATE}` | {len(dataset["test"])} | {accuracy:.4f} |

## Data and license

The weights and the script are under Apache 2.0. The training data are E. Alpaydin and C. Kaynak, *Optical Recognition
of Handwritten Digits*, UCI Machine Learning Repository, 1998,
[doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), under CC BY 4.0.
"""


def main() -> None:
    """Make the dataset, train the model on it, measure it and write both folders."""
    parser = argparse.ArgumentParser(description="Make the quickstart's dataset and its trained CLIP again.")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, help="where data/ and model/ go (default: beside me)"
    )
    output: Path = parser.parse_args().output
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    started = time.perf_counter()

    dataset = make_dataset()
    save_dataset(dataset, output / "data")

    folder = output / "clip-digits"
    tokenizer = train_tokenizer(dataset["train"]["caption"][:])
    save_processor(tokenizer, folder)
    processor = AutoProcessor.from_pretrained(folder)

    model = make_model(tokenizer)
    training = Training()
    train(model, processor, dataset["train"], training)
    model.save_pretrained(folder)

    # measured on what a user loads, not on what is in memory
    model = AutoModel.from_pretrained(folder).eval()
    accuracy = zero_shot_accuracy(model, processor, dataset["test"])
    seconds = time.perf_counter() - started
    card = model_card(model, dataset, training, accuracy, seconds)
    (folder / "README.md").write_text(card, encoding="utf-8")
    logger.info("zero-shot top-1 on test: %.4f, after %.0f s", accuracy, seconds)


if __name__ == "__main__":
    main()
