"""Promises of the evaluations: the numbers of an independent computation, each text and image encoded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
from pydantic import ValidationError

from hfcompress.contracts import Model, Progress, Rows
from hfcompress.data import load_rows
from hfcompress.errors import CheckpointError, DataError
from hfcompress.evaluation.zero_shot_image_classification import (
    ZeroShotImageClassification,
    ZeroShotOptions,
    ZeroShotPredictions,
)
from hfcompress.recipe import DataReference
from hfcompress.runtimes import runtime_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEMPLATES = ("a photo of the digit {label}.", "a handwritten {label}.")


def task(**options: Any) -> ZeroShotImageClassification:  # noqa: ANN401 - any option
    """Return the task with options."""
    return ZeroShotImageClassification(ZeroShotOptions(data="rows", **({"templates": TEMPLATES} | options)))


@pytest.fixture(scope="module")
def rows(quickstart_folder: Path) -> Rows:
    """Return some digits."""
    columns = {"image": "image", "label": "label"}
    reference = DataReference(dataset=str(quickstart_folder / "data"), split="test[:37]", columns=columns)
    return load_rows(reference, ("image", "label"))


@pytest.fixture(scope="module")
def model(clip: Path) -> Model:
    """Return the quickstart's model."""
    return runtime_of("transformers").load(clip)


class Counted(Model):
    """Counts the rows of each input that go through a model."""

    def __init__(self, model: Model, spoil: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> None:
        self.model, self.spoil = model, spoil
        self.config, self.processor, self.inputs = model.config, model.processor, model.inputs
        self.seen = {"pixel_values": 0, "input_ids": 0}

    def __call__(self, inputs: Any) -> dict[str, Any]:  # noqa: ANN401 - arrays by name
        """Count, run, and change the outputs."""
        for name in self.seen:
            self.seen[name] += len(inputs[name])
        return self.spoil(self.model(inputs))


def test_predictions_do_not_depend_on_the_batches(model: Model, rows: Rows) -> None:
    """Embeddings are unit vectors, and the same whatever goes through the model at once."""
    one, other = (task(batch_size=size).predict(model, rows, Progress()) for size in (5, 64))
    np.testing.assert_allclose(one.images, other.images, atol=1e-5)
    np.testing.assert_allclose(one.texts, other.texts, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(one.images, axis=1), 1, atol=1e-6)
    assert (one.images.shape[0], one.texts.shape[0], one.classes.tolist()) == (37, 20, other.classes.tolist())


def test_each_text_and_image_is_encoded_once(model: Model, rows: Rows) -> None:
    """Beside one companion a batch, nothing goes through the model twice."""
    counted = Counted(model)
    task(batch_size=10).predict(counted, rows, Progress())
    text_batches, image_batches = 2, 4
    assert counted.seen == {"pixel_values": 37 + text_batches, "input_ids": 20 + image_batches}


def test_measures_are_those_of_an_independent_computation(rows: Rows) -> None:
    """Accuracy, agreement and cosines are what their definitions give."""
    random = np.random.default_rng(0)
    labels = np.asarray(rows.dataset["label"])
    wrong = labels.copy()
    wrong[:7] = (wrong[:7] + 1) % 10
    images, texts = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in random.normal(size=(2, 37, 8))
    )
    source = ZeroShotPredictions(images, texts, labels)
    compressed = ZeroShotPredictions(np.roll(images, 1, axis=0), texts, wrong)
    found = {row.name: row for row in task().compare(source, compressed, rows)}

    assert set(found) == set(ZeroShotImageClassification.measures)
    assert found["zero_shot_accuracy"].compressed.value == 30 / 37
    assert found["zero_shot_accuracy"].source is not None
    assert found["zero_shot_accuracy"].source.value == 1
    assert found["top1_agreement"].compressed.value == 30 / 37
    cosine = np.mean([one @ other for one, other in zip(images, np.roll(images, 1, axis=0), strict=True)])
    assert found["embedding_cosine_image"].compressed.value == pytest.approx(cosine)
    assert found["embedding_cosine_text"].compressed.value == pytest.approx(1)
    assert {row.n for row in found.values()} == {37}
    assert {(row.dataset, row.revision, row.split) for row in found.values()} == {
        (rows.name, rows.revision, rows.split)
    }


def test_recipe_names_win_over_the_datasets(model: Model, rows: Rows) -> None:
    """`labels` of the recipe take the place of the dataset's own names."""
    names = ("nought", *"abcdefghi")
    theirs, ours = (task(**options).predict(model, rows, Progress()).texts for options in ({}, {"labels": names}))
    assert theirs.shape == ours.shape
    assert not np.allclose(theirs, ours)


@pytest.mark.parametrize(
    ("labels", "options", "match"),
    [
        ([0, 1], {}, r"^the labels of rows have no names; give them with `labels: \[\.\.\.\]` under the task$"),
        ([0, 2], {"labels": ("a", "b")}, r"^row 1 of rows has the label 2, expected an integer from 0 to 1$"),
        ([0, -1], {"labels": ("a", "b")}, r"^row 1 of rows has the label -1, expected"),
        (["a", "b"], {"labels": ("a", "b")}, r"^row 0 of rows has the label 'a', expected"),
        ([0, None], {"labels": ("a", "b")}, r"^row 1 of rows has the label None, expected"),
    ],
)
def test_wrong_labels(labels: list[object], options: dict[str, Any], match: str, model: Model) -> None:
    """A label that names no class would make the accuracy a lie, so it is an error."""
    rows = Rows(datasets.Dataset.from_dict({"image": labels, "label": labels}), "rows", "r", "test")
    with pytest.raises(DataError, match=match):
        task(**options).predict(model, rows, Progress())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"templates": ("a photo",)}, "the template 'a photo' has no {label} to put the class name in"),
        ({"templates": ()}, "at least 1 item"),
        ({"labels": ("one",)}, "at least 2 items"),
        ({"batch_size": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], match: str) -> None:
    """Options that would measure nothing are refused."""
    with pytest.raises(ValidationError, match=match):
        task(**options)


def test_embeddings_that_are_not_finite(model: Model, rows: Rows) -> None:
    """A model that overflowed is an error, not an accuracy of chance."""
    spoiled = Counted(model, lambda outputs: {**outputs, "image_embeds": outputs["image_embeds"] * np.nan})
    with pytest.raises(CheckpointError, match=r"^the model gives image_embeds that are not finite$"):
        task().predict(spoiled, rows, Progress())


def test_model_without_embeddings(model: Model, rows: Rows) -> None:
    """A model that is no dual encoder says what it gives."""
    spoiled = Counted(model, lambda outputs: {"logits": outputs["text_embeds"]})
    with pytest.raises(CheckpointError, match=r"^a 'clip' model gives logits and no text_embeds, so it is not a dual"):
        task().predict(spoiled, rows, Progress())
