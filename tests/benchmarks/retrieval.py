"""Train a small CLIP that retrieves captioned scenes: the checkpoint that tells pruning methods apart.

Run it with `python tests/benchmarks/retrieval.py --cache FOLDER`. It needs two CPU cores, some minutes and no network,
and does nothing where the folder already holds the checkpoint of this very script.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import load_dataset
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch.nn import functional
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

sys.path.insert(0, str(Path(__file__).parent))
from scenes import IMAGE_SIZE, draw_scenes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedModel, ProcessorMixin

__all__ = ["RetrievalCheckpoint", "make_retrieval_checkpoint", "retrieval_recall"]

logger = logging.getLogger("retrieval")

SEED = 0
THREADS = 2
PATCH_SIZE = 12
CONTEXT_LENGTH = 24
SIZES = {"train": 16_000, "calibration": 256, "test": 500}
TOWER = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}


@dataclass(frozen=True)
class Training:
    """How the model is trained.

    Attributes:
        steps: Optimizer steps.
        batch_size: Pairs of an image and a caption in a step.
        learning_rate: The peak, reached after a tenth of the steps; half a cosine leads down to zero.
        weight_decay: AdamW's, on matrices.
        max_shift: Largest shift of an image, in pixels.
    """

    steps: int = 1400
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    max_shift: int = 1


@dataclass(frozen=True)
class RetrievalCheckpoint:
    """A trained checkpoint and the rows that go with it.

    Attributes:
        folder: The checkpoint.
        calibration: Rows that the model was not trained on, for calibration.
        test: Rows that the model was not trained on, for measuring.
    """

    folder: Path
    calibration: Dataset
    test: Dataset


def train_tokenizer(captions: Iterable[str]) -> Tokenizer:
    """Return CLIP's byte-level BPE with merges learned from `captions`."""
    tokenizer = Tokenizer(BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"<\|startoftext\|>|<\|endoftext\|>|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        captions, BpeTrainer(vocab_size=2_000, min_frequency=2, end_of_word_suffix="</w>", show_progress=False)
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
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    half = [0.5, 0.5, 0.5]
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "CLIPProcessor",
            "do_convert_rgb": True,
            "do_resize": False,
            "do_center_crop": False,
            "size": {"shortest_edge": IMAGE_SIZE},
            "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": half,
            "image_std": half,
        },
    )
    special = {f"{name}_token": "<|endoftext|>" for name in ("eos", "pad", "unk")}
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "processor_class": "CLIPProcessor",
            "model_max_length": CONTEXT_LENGTH,
            "bos_token": "<|startoftext|>",
            **special,
            "clean_up_tokenization_spaces": False,
        },
    )


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write `content` to `path` as indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def make_model(tokenizer: Tokenizer) -> CLIPModel:
    """Return an untrained CLIP of two small towers, with the vocabulary and special tokens of `tokenizer`."""
    eos = tokenizer.token_to_id("<|endoftext|>")
    words = {
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": CONTEXT_LENGTH,
        "bos_token_id": tokenizer.token_to_id("<|startoftext|>"),
        "eos_token_id": eos,
        "pad_token_id": eos,
    }
    config = CLIPConfig(
        vision_config={**TOWER, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "projection_dim": 64},
        text_config={**TOWER, **words, "projection_dim": 64},
        projection_dim=64,
    )
    return CLIPModel(config)


def train(model: CLIPModel, processor: ProcessorMixin, rows: Dataset, training: Training) -> None:
    """Train `model` in place on the images and captions of `rows`."""
    inputs = processor(images=rows["image"][:], text=rows["text"][:], padding=True, return_tensors="pt")
    generator = torch.Generator().manual_seed(SEED)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=training.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=training.learning_rate, total_steps=training.steps, pct_start=0.1, cycle_momentum=False
    )
    target = torch.arange(training.batch_size)
    order = torch.empty(0, dtype=torch.long)
    model.train()
    running = 0.0
    for step in range(training.steps):
        if len(order) < training.batch_size:
            order = torch.randperm(len(rows), generator=generator)
        batch, order = order[: training.batch_size], order[training.batch_size :]
        shift = torch.randint(-training.max_shift, training.max_shift + 1, (2,), generator=generator)
        logits = model(
            pixel_values=inputs["pixel_values"][batch].roll(tuple(shift.tolist()), dims=(2, 3)),
            input_ids=inputs["input_ids"][batch],
            attention_mask=inputs["attention_mask"][batch],
        ).logits_per_image
        loss = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        schedule.step()
        running += (loss.item() - running) / min(step + 1, 50)
        if (step + 1) % 100 == 0:
            logger.info("step %d of %d: loss %.4f", step + 1, training.steps, running)
    model.eval()


@torch.inference_mode()
def retrieval_recall(model: PreTrainedModel, processor: ProcessorMixin, rows: Dataset) -> float:
    """Return R@1, the mean of image to text and text to image.

    A tie at the top counts as what a random choice among the tied would get on average, so that a model that gives the
    same score to everything does not come out well.

    Args:
        model: A dual encoder with `logits_per_image` in its output.
        processor: Its processor.
        rows: The columns `image` and `text`; row i of one belongs to row i of the other alone.
    """
    inputs = processor(images=rows["image"][:], text=rows["text"][:], padding=True, return_tensors="pt")
    similarity = model.eval()(**inputs).logits_per_image
    return (_expected_hits(similarity) + _expected_hits(similarity.T)) / 2


def _expected_hits(similarity: Tensor) -> float:
    """Return the share of rows whose largest entry is on the diagonal, a tie shared among the tied."""
    best = similarity == similarity.max(dim=1, keepdim=True).values
    return (best.diagonal().double() / best.sum(dim=1).clamp_min(1)).mean().item()


def make_retrieval_checkpoint(cache: Path, training: Training | None = None) -> RetrievalCheckpoint:
    """Return the trained checkpoint and its rows; make them where `cache` does not hold those of this very script.

    Args:
        cache: Folder for the checkpoint (`model/`) and the rows (`calibration.parquet`, `test.parquet`).
        training: How it is trained.
    """
    training = Training() if training is None else training
    sources = [Path(__file__), Path(__file__).with_name("scenes.py")]
    recipe = b"".join(source.read_bytes() for source in sources) + repr(training).encode()
    digest = hashlib.sha256(recipe).hexdigest()
    done = cache / "made_by.sha256"
    if not (done.exists() and done.read_text(encoding="utf-8") == digest):
        shutil.rmtree(cache, ignore_errors=True)
        _make(cache, training)
        done.write_text(digest, encoding="utf-8")
    rows = {
        name: load_dataset("parquet", data_files=str(cache / f"{name}.parquet"), split="train")
        for name in ("calibration", "test")
    }
    return RetrievalCheckpoint(cache / "model", rows["calibration"], rows["test"])


def _make(cache: Path, training: Training) -> None:
    """Draw the scenes, train the model, and write both to `cache`."""
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    folder = cache / "model"
    folder.mkdir(parents=True)
    splits = draw_scenes(SIZES, SEED)
    for name in ("calibration", "test"):
        splits[name].to_parquet(cache / f"{name}.parquet")
    tokenizer = train_tokenizer(splits["train"]["text"][:])
    save_processor(tokenizer, folder)
    model = make_model(tokenizer)
    train(model, AutoProcessor.from_pretrained(folder), splits["train"], training)
    model.save_pretrained(folder)


def main() -> None:
    """Make the checkpoint and print its R@1."""
    parser = argparse.ArgumentParser(description="Train the retrieval checkpoint of the pruning benchmark.")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the checkpoint and its rows")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.perf_counter()
    checkpoint = make_retrieval_checkpoint(parser.parse_args().cache)
    seconds = time.perf_counter() - started
    model = AutoModel.from_pretrained(checkpoint.folder)
    recall = retrieval_recall(model, AutoProcessor.from_pretrained(checkpoint.folder), checkpoint.test)
    logger.info("R@1 on %d pairs: %.4f, after %.0f s", len(checkpoint.test), recall, seconds)


if __name__ == "__main__":
    main()
