"""Promises of the zero-shot tasks: the numbers of an independent computation, each text and image encoded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, recall_score, top_k_accuracy_score

from hfcompress.contracts import Model, Progress, Rows
from hfcompress.data import load_rows
from hfcompress.errors import CheckpointError, DataError
from hfcompress.evaluation.ranking import places
from hfcompress.evaluation.zero_shot import ZeroShotPredictions
from hfcompress.evaluation.zero_shot_audio_classification import ZeroShotAudioClassification, ZeroShotAudioOptions
from hfcompress.evaluation.zero_shot_image_classification import ZeroShotImageClassification, ZeroShotImageOptions
from hfcompress.inputs import possible_inputs
from hfcompress.recipe import DataReference
from hfcompress.runtimes import runtime_of
from tests.checkpoints import save_checkpoint, sounds, spoken_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEMPLATES = ("a photo of the digit {label}.", "a handwritten {label}.")


def task(**options: Any) -> ZeroShotImageClassification:  # noqa: ANN401 - any option
    """Return the task with options."""
    return ZeroShotImageClassification(ZeroShotImageOptions(data="rows", **({"templates": TEMPLATES} | options)))


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
    np.testing.assert_allclose(one.media, other.media, atol=1e-5)
    np.testing.assert_allclose(one.texts, other.texts, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(one.media, axis=1), 1, atol=1e-6)
    assert (one.media.shape[0], one.texts.shape[0]) == (37, 20)
    assert one.places.first.tolist() == other.places.first.tolist()


def test_each_text_and_image_is_encoded_once(model: Model, rows: Rows) -> None:
    """Beside one companion a batch, nothing goes through the model twice."""
    counted = Counted(model)
    task(batch_size=10).predict(counted, rows, Progress())
    text_batches, image_batches = 2, 4
    assert counted.seen == {"pixel_values": 37 + text_batches, "input_ids": 20 + image_batches}


def unit(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return random unit vectors."""
    vectors = np.random.default_rng(seed).normal(size=shape)
    unit_vectors: np.ndarray[Any, Any] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit_vectors


def predictions(media: np.ndarray[Any, Any], anchors: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401
    """Return what a model with these embeddings predicts; one template."""
    return ZeroShotPredictions(media, anchors, places(media, anchors, list(labels[:, None])), len(anchors))


def test_measures_are_those_of_an_independent_computation(rows: Rows) -> None:
    """Accuracies, recalls, agreement and cosines are what scikit-learn makes of the same predictions."""
    labels = np.asarray(rows.dataset["label"])
    anchors = unit(10, 8, seed=1)
    media = anchors[labels] + 0.5 * unit(37, 8)
    media /= np.linalg.norm(media, axis=1, keepdims=True)
    other = media + 0.2 * unit(37, 8, seed=2)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    source, compressed = predictions(media, anchors, labels), predictions(other, anchors, labels)
    found = {row.name: row for row in task().compare(source, compressed, rows)}
    chosen, before = (other @ anchors.T).argmax(axis=1), (media @ anchors.T).argmax(axis=1)
    recalls = recall_score(labels, chosen, labels=np.unique(labels), average=None)

    assert set(found) == set(ZeroShotImageClassification.measures)
    values = {name: row.compressed.value for name, row in found.items()}
    assert 0 < values["zero_shot_accuracy"] < 1
    assert values["zero_shot_accuracy"] == pytest.approx(accuracy_score(labels, chosen))
    top5 = top_k_accuracy_score(labels, other @ anchors.T, k=5, labels=range(10))
    assert values["zero_shot_top5_accuracy"] == pytest.approx(top5)
    assert values["mean_per_class_recall"] == pytest.approx(recalls.mean())
    assert values["worst_class_recall"] == pytest.approx(recalls.min())
    assert values["top1_agreement"] == pytest.approx(accuracy_score(before, chosen))
    assert values["embedding_cosine_image"] == pytest.approx(np.diag(media @ other.T).mean())
    assert values["embedding_cosine_text"] == pytest.approx(1)
    assert {name for name, row in found.items() if row.n != 37} == {"embedding_cosine_text"}
    assert {(row.dataset, row.revision, row.split) for row in found.values()} == {
        (rows.name, rows.revision, rows.split)
    }


def test_difference_is_of_the_same_rows(rows: Rows) -> None:
    """What has a source has a difference with an interval around it; fidelity has neither."""
    labels = np.asarray(rows.dataset["label"])
    anchors = unit(10, 8, seed=1)
    wrong = np.where(np.arange(37) < 7, (labels + 1) % 10, labels)
    source, compressed = (predictions(anchors[chosen], anchors, labels) for chosen in (labels, wrong))
    found = {row.name: row for row in task().compare(source, compressed, rows)}

    assert {name for name, row in found.items() if row.difference is None} == {
        "top1_agreement",
        "embedding_cosine_image",
        "embedding_cosine_text",
        "neighbour_overlap_at_10_image",
    }
    for row in found.values():
        if row.difference is not None and row.source is not None:
            assert row.difference.value == pytest.approx(row.compressed.value - row.source.value)
            assert row.difference.low <= row.difference.value <= row.difference.high  # type: ignore[operator]
    accuracy = found["zero_shot_accuracy"]
    assert accuracy.difference is not None
    assert accuracy.difference.value == pytest.approx(-7 / 37)
    assert accuracy.difference.high < 0  # type: ignore[operator] # seven of 37 lost and none won is no noise


def test_one_model_alone(model: Model, rows: Rows) -> None:
    """One model's measurements are those that a comparison gives of it, without source and fidelity."""
    predicted = task().predict(model, rows, Progress())
    alone = {row.name: row for row in task().measure(predicted, rows)}
    compared = {row.name: row for row in task().compare(predicted, predicted, rows)}
    assert set(alone) == {name for name, row in compared.items() if row.source is not None}
    assert all(row.source is None and row.difference is None for row in alone.values())
    assert all(row.compressed == compared[name].compressed for name, row in alone.items())


def test_sounds_are_classified_by_the_model_itself(tmp_path: Path) -> None:
    """A CLAP's choices are those of its own similarities, also for sounds longer than what it hears."""
    model = runtime_of("transformers").load(save_checkpoint("clap", tmp_path / "clap").path)
    names = ("a dog", "falling rain", "a bell")
    rows = spoken_rows(audio=sounds(4, 1.3), label=[0, 1, 2, 0])
    options = ZeroShotAudioOptions(data="rows", labels=names, templates=("sound of {label}",), batch_size=3)
    predicted = ZeroShotAudioClassification(options).predict(model, rows, Progress())

    for start, size in ((0, 3), (3, 1)):
        batch = {"audio": rows.dataset["audio"][start : start + size], "text": [f"sound of {name}" for name in names]}
        made = possible_inputs(model.processor, batch)
        expected = model({name: made[name] for name in made if name in model.inputs})["logits_per_audio"].argmax(axis=1)
        assert predicted.places.first[start : start + size].tolist() == expected.tolist()


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
