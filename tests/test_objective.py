"""What the objective promises: the model's own loss, gradients that are its derivatives, rows that weigh by effect."""

import pytest
import torch

from hfcompress.errors import DataError
from hfcompress.pruning.objective import gradients, objective, sensitivities, token_labels
from tests.families import FAMILIES, build

pytestmark = [
    # classes of transformers 4 that warn of arguments which other classes of transformers still give them
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]

KINDS = {
    "clip": "contrastive",
    "siglip": "contrastive",
    "clap": "contrastive",
    "xclip": "contrastive",
    "groupvit": "contrastive",
    "llava": "labels",
    "blip_captioning": "labels",
    "qwen2_vl": "labels",
    "florence2": "labels",
    "owlvit": "outputs",
    "vilt": "outputs",
    "clipseg": "outputs",
    "whisper": "labels",
}


def generator() -> torch.Generator:
    """Return a generator in its first state."""
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("name", "expected"), KINDS.items())
def test_kind(name: str, expected: str) -> None:
    """Dual encoders match pairs, models that write predict their text, the others give what they give."""
    model = build(FAMILIES[name])
    loss, kind = objective(model, FAMILIES[name].inputs(model.config), generator())
    assert kind == expected
    assert loss.isfinite()
    assert loss.requires_grad
    assert loss.shape == ()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_gradients(name: str) -> None:
    """The objective of any architecture has finite gradients in its linear layers."""
    model = build(FAMILIES[name])
    layers = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = gradients(model, [FAMILIES[name].inputs(model.config)], [f"{layer}.weight" for layer in layers])
    assert found
    assert all(gradient.total.isfinite().all() for gradient in found.values())


def test_contrastive_is_the_models_own_loss() -> None:
    """For different pairs it is the loss that CLIP itself returns."""
    model = build(FAMILIES["clip"])
    inputs = FAMILIES["clip"].inputs(model.config)
    loss, _ = objective(model, inputs, generator())
    torch.testing.assert_close(loss, model(**inputs, return_loss=True).loss)


def test_equal_captions_are_all_partners() -> None:
    """Rows with the same caption do not compete: of three rows, the first two are each other's partners."""
    model = build(FAMILIES["clip"])
    inputs = FAMILIES["clip"].inputs(model.config)
    rows = {"input_ids": [0, 0, 1], "attention_mask": [0, 0, 1], "pixel_values": [0, 1, 1]}
    inputs = {name: tensor[rows[name]] for name, tensor in inputs.items()}
    inputs["pixel_values"][2] = 0.0
    loss, _ = objective(model, inputs, generator())
    logits = model(**inputs).logits_per_image
    target = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    expected = -((target * logits.log_softmax(1)).sum(1).mean() + (target * logits.T.log_softmax(1)).sum(1).mean()) / 2
    torch.testing.assert_close(loss, expected)


def test_labels_leave_out_padding_and_images() -> None:
    """Neither padding nor the tokens that stand for pieces of an image are predicted."""
    config = FAMILIES["llava"].config()
    image = config.image_token_id if hasattr(config, "image_token_id") else config.image_token_index
    ids = torch.tensor([[5, image, 6, 7], [8, image, 9, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert token_labels(ids, mask, config).tolist() == [[5, -100, 6, 7], [8, -100, 9, -100]]


def test_gradients_sum_over_batches() -> None:
    """Over two equal batches the gradient is twice, and its power twice, that of one; the model stays as it was."""
    model = build(FAMILIES["clip"])
    model.logit_scale.requires_grad_(requires_grad=False)
    inputs = FAMILIES["clip"].inputs(model.config)
    name = "text_model.encoder.layers.1.mlp.fc1.weight"
    weight = model.get_parameter(name)
    loss, _ = objective(model, inputs, generator())
    (expected,) = torch.autograd.grad(loss, weight)
    squared = gradients(model, [inputs, inputs], [name])[name]
    absolute = gradients(model, [inputs, inputs], [name], power=1)[name]
    torch.testing.assert_close(squared.total, 2 * expected)
    torch.testing.assert_close(squared.power, 2 * expected.square())
    torch.testing.assert_close(absolute.power, 2 * expected.abs())
    assert not model.logit_scale.requires_grad
    assert weight.requires_grad
    assert weight.grad is None


def test_single_rows_have_no_partners() -> None:
    """Batches of one row cannot be matched, so the outputs themselves are the objective."""
    model = build(FAMILIES["clip"])
    inputs = {name: tensor[:1] for name, tensor in FAMILIES["clip"].inputs(model.config).items()}
    assert objective(model, inputs, generator())[1] == "outputs"


def test_no_gradient_is_an_error() -> None:
    """CLIPSeg runs its image tower without gradients; nothing can be chosen by them there, which is said."""
    model = build(FAMILIES["clipseg"])
    with pytest.raises(DataError, match=r"objective \(outputs\) does not depend on clip.vision_model"):
        gradients(
            model, [FAMILIES["clipseg"].inputs(model.config)], ["clip.vision_model.encoder.layers.0.mlp.fc1.weight"]
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_sensitivities(name: str) -> None:
    """Each row of a layer that runs has a weight, and the mean weight is slightly above one or the floor."""
    model = build(FAMILIES[name])
    inputs = FAMILIES[name].inputs(model.config)
    layers = [name for name, module in model.named_modules() if name.endswith(("fc2", "down_proj", "output.dense"))]
    shapes = {}
    for layer in layers:
        model.get_submodule(layer).register_forward_hook(
            lambda _, __, output, layer=layer: shapes.setdefault(layer, output.shape[:-1]) and None
        )
    weights = sensitivities(model, [inputs, inputs], layers, projections=1)
    assert weights.keys() == shapes.keys()
    for layer, parts in weights.items():
        assert [part.shape for part in parts] == [shapes[layer]] * 2
        assert torch.cat([part.flatten() for part in parts]).mean().item() == pytest.approx(1.05, abs=0.001) or all(
            (part == part.flatten()[0]).all() for part in parts
        )


def test_rows_that_are_not_pooled_weigh_the_floor() -> None:
    """In the last block of a tower that pools one token, the other tokens weigh next to nothing."""
    model = build(FAMILIES["clip"])
    layer = "vision_model.encoder.layers.{}.mlp.fc2"
    last = sum(name.endswith("fc2") for name, _ in model.vision_model.named_modules()) - 1
    weights = sensitivities(model, [FAMILIES["clip"].inputs(model.config)], [layer.format(0), layer.format(last)])
    (first,), (final,) = weights.values()
    assert (final[:, 1:] == torch.tensor(0.05)).all()
    assert (final[:, 0] > 1).all()
    assert (first > 0.05).all()


def test_sensitivity_is_that_of_the_outputs() -> None:
    """With many projections the weights are in proportion to the squared norm of the outputs' derivative."""
    model = build(FAMILIES["clip"])
    inputs = FAMILIES["clip"].inputs(model.config)
    layer = "text_model.encoder.layers.1.mlp.fc2"
    (got,) = sensitivities(model, [inputs], [layer], projections=400)[layer]
    heard: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: heard.append(output))
    embeds = model(**inputs).text_embeds
    handle.remove()
    expected = sum(
        torch.autograd.grad(value, heard[0], retain_graph=True)[0].square().sum(-1) for value in embeds.flatten()
    )
    torch.testing.assert_close(got - 0.05, expected / expected.mean(), rtol=0.3, atol=0.1)
