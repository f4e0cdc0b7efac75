"""What calibration promises: sums over all rows of what a layer sees, each row counted as it was weighed."""

from pathlib import Path

import pytest
import torch
from datasets import load_dataset

from hfcompress.anatomy import load_model
from hfcompress.contracts import Rows
from hfcompress.errors import PruningError
from hfcompress.inputs import load_processor, possible_inputs
from hfcompress.pruning.calibration import Calibration, call_arguments
from hfcompress.pruning.objective import objective
from tests.families import FAMILIES, build

MODEL = Path("recipes/quickstart/clip-digits")
LAYER = "vision_model.encoder.layers.1.mlp.fc2"


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Calibration rows of the quickstart, the last batch smaller than the others."""
    dataset = load_dataset("recipes/quickstart/data", split="calibration[:20]").rename_column("caption", "text")
    return Rows(dataset, "data", "0", "calibration[:20]")


@pytest.fixture
def calibration(rows: Rows) -> Calibration:
    """Calibration of the quickstart's model in batches of eight."""
    return Calibration(load_model(MODEL), load_processor(MODEL), rows, 8)


@torch.no_grad()
def seen(rows: Rows) -> torch.Tensor:
    """Return what the layer sees of all rows at once, of shape (rows, tokens, channels)."""
    model = load_model(MODEL)
    heard: list[torch.Tensor] = []
    model.get_submodule(LAYER).register_forward_pre_hook(lambda _, arguments: heard.append(arguments[0]))
    inputs = possible_inputs(load_processor(MODEL), rows.dataset[:])
    model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return heard[0].double()


def test_covariance_is_that_of_all_rows(calibration: Calibration, rows: Rows) -> None:
    """Every token of every row is in the sums once, whatever the batches."""
    inputs = seen(rows).flatten(0, 1)
    found = calibration.covariance(LAYER)
    torch.testing.assert_close(found.covariance, inputs.T @ inputs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.total, inputs.sum(dim=0), rtol=1e-4, atol=1e-4)
    assert found.count == len(inputs)


def test_rows_count_as_they_are_weighed(calibration: Calibration, rows: Rows) -> None:
    """With the sensitivities as weights the sums are Σ w x xᵀ, Σ w x and Σ w."""
    weights = calibration.sensitivities([LAYER], projections=2)[LAYER]
    assert [len(part) for part in weights] == [8, 8, 4]
    inputs, flat = seen(rows).flatten(0, 1), torch.cat([part.flatten() for part in weights]).double()
    found = calibration.covariance(LAYER, weights)
    torch.testing.assert_close(found.covariance, (inputs * flat[:, None]).T @ inputs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.total, flat @ inputs, rtol=1e-4, atol=1e-4)
    assert found.count == pytest.approx(float(flat.sum()))


def test_sensitivities_follow_the_seed(calibration: Calibration) -> None:
    """The same seed gives the same weights, another one others."""
    first, again, other = (calibration.sensitivities([LAYER], 1, seed)[LAYER][0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_of_other_rows_are_refused(calibration: Calibration) -> None:
    """Weights that are not those of the layer's rows are an error, not a broadcast."""
    with pytest.raises(PruningError, match="sees other rows than those that its weights were measured on"):
        calibration.covariance(LAYER, [torch.ones(8, 3)] * 3)


def test_gradients_of_the_named_parameters(calibration: Calibration) -> None:
    """Each named parameter gets gradients in its own shape, and no other one."""
    found = calibration.gradients([f"{LAYER}.weight", f"{LAYER}.bias"], power=1)
    assert {name: gradient.power.shape[0] for name, gradient in found.items()} == {
        f"{LAYER}.weight": found[f"{LAYER}.bias"].total.shape[0],
        f"{LAYER}.bias": found[f"{LAYER}.bias"].total.shape[0],
    }
    assert all((gradient.power >= gradient.total.abs() - 1e-6).all() for gradient in found.values())


def test_infinite_inputs_are_an_error(rows: Rows) -> None:
    """A model that overflows on the rows is named, not fitted."""
    model = load_model(MODEL)
    with torch.no_grad():
        model.get_parameter(LAYER.replace("fc2", "fc1") + ".bias").fill_(torch.inf)
    with pytest.raises(PruningError, match=f"the inputs of {LAYER} are not finite"):
        Calibration(model, load_processor(MODEL), rows, 8).covariance(LAYER)


@pytest.mark.parametrize("name", ["trocr", "donut"])
def test_a_decoder_without_a_prompt_gets_the_text_as_labels(name: str) -> None:
    """A model that reads an image and writes a text runs on rows of both, and its objective is to write the text."""
    model = build(FAMILIES[name])
    model.config.decoder_start_token_id, model.config.pad_token_id = 1, 0  # as released checkpoints have them
    inputs = FAMILIES[name].inputs(model.config)
    ids = inputs["decoder_input_ids"]
    made = {"pixel_values": inputs["pixel_values"], "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    arguments = call_arguments(model, {key: tensor.numpy() for key, tensor in made.items()})
    assert torch.equal(arguments["labels"], ids)
    loss, kind = objective(model, arguments, torch.Generator())
    assert kind == "labels"
    torch.testing.assert_close(loss, model(pixel_values=inputs["pixel_values"], labels=ids).loss)
