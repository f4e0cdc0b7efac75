"""Promises of the task `image-text-retrieval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import datasets
import numpy as np
import pytest
from datasets import load_dataset

from hfcompress.contracts import Model, Progress, Rows
from hfcompress.errors import DataError
from hfcompress.evaluation.image_text_retrieval import ImageTextRetrieval, RetrievalOptions, RetrievalPredictions
from hfcompress.evaluation.ranking import places
from hfcompress.inputs import possible_inputs
from hfcompress.runtimes import runtime_of
from tests.test_ranking import unit
from tests.test_zero_shot import Counted

if TYPE_CHECKING:
    from pathlib import Path

TASK = ImageTextRetrieval(RetrievalOptions(data="rows", batch_size=8))


@pytest.fixture(scope="module")
def model(clip: Path) -> Model:
    """Return the quickstart's model."""
    return runtime_of("transformers").load(clip)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Return some digits with one to three captions each."""
    dataset = load_dataset("recipes/quickstart/data", split="test[:20]").select_columns(["image", "label"])
    names = dataset.features["label"].names
    captions = [
        [f"a photo of the digit {names[label]}.", f"a handwritten {names[label]}.", names[label]][: 1 + row % 3]
        for row, label in enumerate(dataset["label"])
    ]
    return Rows(dataset.remove_columns("label").add_column("text", captions), "digits", "0", "test[:20]")


def recall(similarity: np.ndarray, right: np.ndarray, k: int) -> float:
    """Return how many queries have a right answer among their first k, by a plain sort; no scores are equal."""
    first = np.argsort(-similarity, axis=1)[:, :k]
    return float(np.take_along_axis(right, first, axis=1).any(axis=1).mean())


def test_recalls_are_those_of_a_plain_sort() -> None:
    """Both directions equal recalls of sorted similarities, several captions an image, of source and result."""
    owners = np.sort(np.concatenate([np.arange(30), np.random.default_rng(0).integers(0, 30, 45)]))
    images = unit(30, 8)
    texts = images[owners] + 0.8 * unit(75, 8, seed=1)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    worse = texts + 0.5 * unit(75, 8, seed=2)
    worse /= np.linalg.norm(worse, axis=1, keepdims=True)
    right = owners[None] == np.arange(30)[:, None]
    own = [np.flatnonzero(row) for row in right]
    before, after = (
        RetrievalPredictions(
            images, each, owners, places(images, each, own), places(each, images, list(owners[:, None]))
        )
        for each in (texts, worse)
    )
    rows = Rows(datasets.Dataset.from_dict({"text": ["-"] * 30}), "rows", "0", "all")
    found = {row.name: row for row in TASK.compare(before, after, rows)}

    assert set(found) == set(ImageTextRetrieval.measures)
    for k in (1, 5, 10):
        image_side, text_side = found[f"image_to_text_recall_at_{k}"], found[f"text_to_image_recall_at_{k}"]
        assert image_side.compressed.value == pytest.approx(recall(images @ worse.T, right, k))
        assert text_side.compressed.value == pytest.approx(recall(worse @ images.T, right.T, k))
        assert image_side.source is not None
        assert image_side.source.value == pytest.approx(recall(images @ texts.T, right, k))
        assert (image_side.n, text_side.n) == (30, 75)
        assert text_side.difference is not None
        assert text_side.difference.low <= text_side.difference.value <= text_side.difference.high  # type: ignore[operator]


def test_ranks_are_those_of_the_models_own_similarities(model: Model, rows: Rows) -> None:
    """What a model finds first is what its own similarity matrix says, and its captions belong to their rows."""
    found = TASK.predict(model, rows, Progress())
    captions = [caption for own in rows.dataset["text"] for caption in own]
    made = possible_inputs(model.processor, {"image": rows.dataset["image"], "text": captions})
    logits = model({name: made[name] for name in made if name in model.inputs})["logits_per_image"]
    assert found.row_of.tolist() == [row for row, own in enumerate(rows.dataset["text"]) for _ in own]
    assert found.of_images.first.tolist() == logits.argmax(axis=1).tolist()
    assert found.of_texts.first.tolist() == logits.argmax(axis=0).tolist()


def test_each_text_and_image_is_encoded_once(model: Model, rows: Rows) -> None:
    """Beside one companion a batch, nothing goes through the model twice."""
    counted = Counted(model)
    captions = sum(map(len, rows.dataset["text"]))
    TASK.predict(counted, rows, Progress())
    assert counted.seen == {"pixel_values": 20 + -(-captions // 8), "input_ids": captions + 3}


@pytest.mark.parametrize("text", [[["a"], []], ["a", None], [[1], [2]]])
def test_rows_without_captions(text: list[object], model: Model) -> None:
    """A row that no caption describes cannot be found, so it is an error."""
    rows = Rows(datasets.Dataset.from_dict({"text": text}), "rows", "0", "all")
    with pytest.raises(
        DataError, match=r"^row [01] of rows has the text .*, expected a caption or a list of captions$"
    ):
        TASK.predict(model, rows, Progress())


def test_the_first_caption_calibrates(model: Model, rows: Rows) -> None:
    """Where a row has several captions, a step that reads texts reads the first."""
    batch = rows.dataset[:5]
    first = {**batch, "text": [own[0] for own in batch["text"]]}
    several, one = (possible_inputs(model.processor, columns) for columns in (batch, first))
    assert several["input_ids"].tolist() == one["input_ids"].tolist()
