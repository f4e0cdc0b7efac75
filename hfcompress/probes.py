"""Inputs made from a configuration alone, for tracing a model and for proving things about it.

Inputs are made by name, as transformers names them ("pixel_values", "input_features", ...), with sizes from the
configuration. Where a name can mean several shapes, each is tried on the model. Where the whole model takes no such
inputs (a language model that wants image tokens in just the right places), its parts are probed one by one: a model
is unchanged when every part of it is.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from hfcompress.anatomy import sub_configs
from hfcompress.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["Probe", "example_inputs", "find_probes"]

_SAMPLES = 4000
"""Length of a raw waveform, in samples."""
_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError)
"""What models raise when inputs are not what they expect."""
_LONGEST = ("max_position_embeddings", "max_target_positions")
_CHANNELS = ("num_channels", "in_channels", "in_chans")
_MODALITIES = (
    "input_ids",
    "pixel_values",
    "input_features",
    "input_values",
    "flattened_patches",
    "grid_thw",
    "query_embeds",
)


@dataclass(frozen=True)
class Probe:
    """A part of a model and inputs on which it runs.

    Attributes:
        module: Dotted name of the part, empty for the whole model.
        inputs: Arguments of its forward pass, on the CPU.
    """

    module: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class _Wish:
    """What an input is made for: the nearest configuration, the batch, and the names of all inputs of the call."""

    config: PretrainedConfig
    batch: int
    tokens: int
    names: frozenset[str]
    generator: torch.Generator
    is_stem: bool = False
    """Whether the module begins with a convolution over an image's channels."""

    def get(self, *names: str, default: Any = None) -> Any:  # noqa: ANN401 - values of configurations
        """Return the first of the fields that the configuration or one of its parts has."""
        for name in names:
            for config in _family(self.config):
                value = getattr(config, name, None)
                if value is not None:
                    return value
        return default

    def length(self, more: int = 0) -> int:
        """Return the length of a text with some tokens more; two less than the longest, for some count from two on."""
        longest: int = self.get(*_LONGEST, default=self.tokens + more + 2) - 2
        return min(self.tokens + more, longest)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


Maker: TypeAlias = Callable[[_Wish], "Iterator[Tensor]"]


def _family(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    for part in sub_configs(config).values():
        yield from _family(part)


def example_inputs(model: PreTrainedModel, batch_size: int = 2, tokens: int = 16, seed: int = 0) -> dict[str, Tensor]:
    """Make random inputs for a whole model from its configuration, in the most usual shape of each.

    Args:
        model: Any model; its weights are not looked at.
        batch_size: Rows of each input.
        tokens: Length of the texts, or the longest that the model takes if that is less.
        seed: Seeds the values.

    Raises:
        CheckpointError: The model takes no input that a configuration tells how to make.
    """
    for inputs in _calls(model, model.config, batch_size, tokens, seed):
        return inputs
    names = ", ".join(inspect.signature(model.forward).parameters)
    msg = f"{type(model).__name__}.forward takes {names}, none of which can be made from a configuration"
    raise CheckpointError(msg)


@torch.no_grad()
def find_probes(
    model: PreTrainedModel, part: str = "", seed: int = 0, batch_size: int = 2, tokens: int = 8
) -> tuple[Probe, ...]:
    """Return inputs on which the whole model runs or, if there are none, inputs of each of its parts that runs alone.

    Args:
        model: A model on the CPU; its weights do not matter.
        part: Dotted name of the module to look at, the whole model by default.
        seed: Seeds the values.
        batch_size: Rows of each input.
        tokens: Length of the texts, or the longest that the model takes if that is less.

    Raises:
        CheckpointError: No part of the model runs on inputs made from its configuration.
    """
    found = tuple(_probes(model.get_submodule(part), part, model.config, (batch_size, tokens, seed)))
    if not found and not part:
        msg = f"no part of this {type(model).__name__} runs on inputs that can be made from its configuration"
        raise CheckpointError(msg)
    return found


def _probes(
    module: torch.nn.Module, path: str, config: PretrainedConfig, made: tuple[int, int, int]
) -> Iterator[Probe]:
    config = getattr(module, "config", config)
    # a cache would show up in the graph as a concatenation with nothing
    fixed = {"use_cache": False} if "use_cache" in inspect.signature(module.forward).parameters else {}
    for inputs in _calls(module, config, *made):
        try:
            module(**inputs, **fixed)
        except _REFUSALS:
            continue
        yield Probe(path, {**inputs, **fixed})
        return
    for name, child in module.named_children():
        if not isinstance(child, torch.nn.ModuleList) and next(child.parameters(), None) is not None:
            yield from _probes(child, f"{path}.{name}" if path else name, config, made)


def _calls(
    module: torch.nn.Module, config: PretrainedConfig, batch: int, tokens: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Yield the ways in which a module could be called, most usual first."""
    names = frozenset(inspect.signature(module.forward).parameters)
    is_stem = "hidden_states" in names and _begins_with_image(module, config)
    modalities = {*_MODALITIES, "hidden_states"} if is_stem else set(_MODALITIES)
    if not names & modalities:
        return
    wish = _Wish(config, batch, tokens, names, torch.Generator().manual_seed(seed), is_stem)
    made = {name: list(maker(wish)) for name, maker in _MAKERS.items() if name in names}
    made = {name: shapes for name, shapes in made.items() if shapes}
    unmade = {name for name in names - made.keys() if name.startswith(("pixel_values", "input_features", "grid_thw"))}
    if not made.keys() & modalities or unmade - {"pixel_values_videos"}:
        return
    for choice in itertools.product(*made.values()):
        yield dict(zip(made, choice, strict=True))


def _token_ids(wish: _Wish) -> Iterator[Tensor]:
    """Token ids that end with the end-of-text token, at which several text towers pool."""
    vocabulary = wish.get("vocab_size")
    if vocabulary is None:
        return
    queries = wish.get("latent_query_num", default=0) if "image_embeds_position_mask" in wish.names else 0
    length = wish.length(queries)
    ids = torch.randint(min(3, vocabulary - 1), vocabulary, (wish.batch, length), generator=wish.generator)
    special = {
        value
        for config in _family(wish.config)
        for field, value in vars(config).items()
        if isinstance(value, int) and field.endswith(("_token_id", "_token_index"))
    }
    plain = next(value for value in range(vocabulary) if value not in special)
    for value in special:
        ids[ids == value] = plain
    end = wish.get("eos_token_id")
    if isinstance(end, int) and end < vocabulary:
        ids[:, -1] = end
    yield ids


def _images(wish: _Wish) -> Iterator[Tensor]:
    channels = wish.get(*_CHANNELS, default=3)
    patch = wish.get("patch_size")
    if "spatial_shapes" in wish.names and isinstance(patch, int):
        yield wish.normal(wish.batch, 16, channels * patch * patch)
        return
    size = wish.get("image_size", "input_size", default=64)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    frames = wish.get("num_frames")
    if frames is not None:
        yield wish.normal(wish.batch, frames, channels, height, width)
    yield wish.normal(wish.batch, channels, height, width)


def _audio_features(wish: _Wish) -> Iterator[Tensor]:
    bins = wish.get("num_mel_bins")
    positions = wish.get("max_source_positions")
    if (spectrogram := wish.get("spec_size")) is not None and bins is not None:
        ratio = spectrogram // bins
        yield wish.normal(wish.batch, 4 if wish.get("enable_fusion") else 1, spectrogram * ratio, bins)
    elif (per_channel := wish.get("input_feat_per_channel")) is not None:
        yield wish.normal(wish.batch, 32, per_channel * wish.get("input_channels", default=1))
    elif bins is not None and positions is not None:
        yield wish.normal(wish.batch, bins, 2 * positions)
    elif (width := wish.get("input_dim", "feature_size")) is not None:
        yield wish.normal(wish.batch, 32, width)


def _flattened_patches(wish: _Wish) -> Iterator[Tensor]:
    if (width := wish.get("patch_embed_hidden_size")) is not None:
        places = torch.arange(1.0, 9.0).view(1, 8, 1).expand(wish.batch, 8, 2)
        yield torch.cat([places, wish.normal(wish.batch, 8, width)], dim=2)


def _grid_patches(wish: _Wish) -> Iterator[Tensor]:
    """Patches of one image of 4 x 4 merged patches, for towers that take them with `grid_thw`."""
    patch = wish.get("patch_size")
    if "grid_thw" in wish.names and isinstance(patch, int):
        side = 4 * wish.get("spatial_merge_size", default=1)
        depth = wish.get("temporal_patch_size", default=1)
        channels = wish.get("in_channels", "in_chans", "num_channels", default=3)
        yield wish.normal(side * side, channels * depth * patch * patch)


def _unnamed(wish: _Wish) -> Iterator[Tensor]:
    """What a tower calls hidden states though it is its input: patches of an image, or the image."""
    yield from _grid_patches(wish)
    if wish.is_stem and "grid_thw" not in wish.names:
        yield from _images(wish)


def _begins_with_image(module: torch.nn.Module, config: PretrainedConfig) -> bool:
    """Whether the first layer with weights is a convolution that reads as many channels as images have."""
    first = next((layer for layer in module.modules() if next(layer.parameters(recurse=False), None) is not None), None)
    channels = next((getattr(config, name) for name in _CHANNELS if hasattr(config, name)), 3)
    return isinstance(first, torch.nn.Conv2d) and first.in_channels == channels


def _grid(wish: _Wish) -> Iterator[Tensor]:
    side = 4 * wish.get("spatial_merge_size", default=1)
    yield torch.tensor([[1, side, side]])


def _encoder_states(wish: _Wish) -> Iterator[Tensor]:
    if "query_embeds" in wish.names and (width := wish.get("encoder_hidden_size")) is not None:
        yield wish.normal(wish.batch, 8, width)


def _position_mask(wish: _Wish) -> Iterator[Tensor]:
    if (queries := wish.get("latent_query_num")) is not None:
        length = wish.length(queries)
        yield (torch.arange(length) < queries).long().expand(wish.batch, length)


_MAKERS: dict[str, Maker] = {
    "input_ids": _token_ids,
    "decoder_input_ids": _token_ids,
    "bbox": lambda wish: iter(
        [torch.randint(0, 8, (wish.batch, wish.length(), 4), generator=wish.generator).sort(-1).values]
    ),
    "pixel_values": _images,
    "spatial_shapes": lambda wish: iter([torch.full((wish.batch, 2), 4)]),
    "pixel_attention_mask": lambda wish: iter(
        [torch.ones(wish.batch, 16, dtype=torch.long)] if "spatial_shapes" in wish.names else []
    ),
    "input_features": _audio_features,
    "is_longer": lambda wish: iter([torch.tensor([[True], [False]]).repeat(wish.batch, 1)[: wish.batch]]),
    "input_values": lambda wish: iter([wish.normal(wish.batch, _SAMPLES)]),
    "flattened_patches": _flattened_patches,
    "hidden_states": _unnamed,
    "grid_thw": _grid,
    "query_embeds": lambda wish: iter([wish.normal(wish.batch, 4, wish.get("hidden_size"))]),
    "encoder_hidden_states": _encoder_states,
    "image_embeds_position_mask": _position_mask,
}
