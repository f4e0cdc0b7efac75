"""Promises of the choice of layers for torchao, of their forecast bytes, and of the check of what was saved."""

from __future__ import annotations

import pytest
import torch

from hfcompress.contracts import Forecast
from hfcompress.errors import ProofError, QuantizationError
from hfcompress.quantization.torchao_weights import choose_layers, forecast_bytes, same_outputs, weights_of
from tests.families import FAMILIES, build

MODEL = build(FAMILIES["clip"])
LINEAR = [name for name, module in MODEL.named_modules() if isinstance(module, torch.nn.Linear)]


def test_every_linear_layer_is_quantized() -> None:
    """Without options all linear layers are, and nothing else."""
    layers = choose_layers(MODEL, (), None)
    assert (list(layers.quantized), dict(layers.left)) == (LINEAR, {})
    assert all(weight.ndim == 2 for weight in weights_of(MODEL, layers))


def test_why_layers_are_left() -> None:
    """What is excluded, what no group divides, and what is shared, each with its reason; the rest is quantized."""
    excluded = choose_layers(MODEL, ("*.q_proj",), None)
    ungrouped = choose_layers(MODEL, (), 32)
    shared = build(FAMILIES["whisper"])
    layers = choose_layers(shared, (), None)

    assert set(excluded.left.values()) == {"excluded"}
    assert excluded.left.keys() == {name for name in LINEAR if name.endswith(".q_proj")}
    widths = {name: MODEL.get_parameter(f"{name}.weight").shape[1] for name in LINEAR}
    assert dict(ungrouped.left) == {
        name: f"its {width} inputs are no multiple of group_size 32" for name, width in widths.items() if width % 32
    }
    assert layers.left["proj_out"] == "shares its weight"


def test_pattern_that_matches_nothing() -> None:
    """The error names the nearest layer and some that there are."""
    with pytest.raises(
        QuantizationError, match=r"^exclude: 'visual_projektion' matches none of the .+'visual_projection'"
    ):
        choose_layers(MODEL, ("visual_projektion",), None)


def test_nothing_left() -> None:
    """A model without a layer to quantize is refused, with one of its layers and the reason."""
    with pytest.raises(QuantizationError, match=r"^this CLIPModel has no linear layer to quantize: \S+ excluded$"):
        choose_layers(MODEL, ("*",), None)


@pytest.mark.parametrize(("bits", "group_size", "scale_bytes"), [(8, None, 5), (8, 8, 5), (4, 8, 5)])
def test_forecast_is_the_sum(bits: int, group_size: int | None, scale_bytes: int) -> None:
    """Bytes saved are those of the float weights less the small ones, less a scale and a zero point for each group."""
    layers = choose_layers(MODEL, (), group_size)
    before = Forecast(MODEL.config, "transformers", MODEL.num_parameters(), 4 * MODEL.num_parameters())
    weights = weights_of(MODEL, layers)
    count = sum(weight.numel() for weight in weights)
    groups = sum(weight.numel() // (group_size or weight.shape[1]) for weight in weights)
    expected = 4 * count - count * bits // 8 - scale_bytes * groups
    assert forecast_bytes(MODEL, layers, before, bits) == (count, expected)


def test_what_was_saved_is_compared() -> None:
    """An output that differs or is missing is an error that names it; equal ones pass, not-a-numbers too."""
    found = {"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2)}
    same_outputs(found, {name: value.clone() for name, value in found.items()})
    for got in ({"a": found["a"]}, {**found, "b": torch.tensor([1.0, 1.1])}):
        with pytest.raises(ProofError, match=r"^the saved folder does not give the output 'b' of the quantized model"):
            same_outputs(found, got)
