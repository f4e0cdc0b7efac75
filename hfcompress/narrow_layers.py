"""Linear layers that keep a part of their channels and still look as wide as before to the model around them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import torch
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NARROW_CLASSES", "ChannelRanges", "NarrowConv1D", "NarrowLinear", "read_channels", "spread_channels"]

ChannelRanges: TypeAlias = "Sequence[tuple[int, int]]"
"""Channels as [start, stop) pairs, in ascending order and apart."""


def read_channels(inputs: torch.Tensor, kept: ChannelRanges | None) -> torch.Tensor:
    """Return the kept channels of the last dimension, all of them where `kept` is `None`.

    Slices of Python integers and no index tensor: one range costs no copy, an export to ONNX holds constants alone,
    and there is no buffer that loading could leave without its values.
    """
    if kept is None:
        return inputs
    parts = [inputs[..., start:stop] for start, stop in kept]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def spread_channels(outputs: torch.Tensor, kept: ChannelRanges | None, width: int) -> torch.Tensor:
    """Return the outputs at their place among `width` channels, with zeros at the others.

    Args:
        outputs: The kept channels in their order, along the last dimension.
        kept: Where they belong; `None` where none is missing.
        width: Number of channels to return.
    """
    if kept is None:
        return outputs
    parts = outputs.split([stop - start for start, stop in kept], dim=-1)
    gaps = [start - stop for (_, stop), (start, _) in pairwise([(0, 0), *kept])]
    after = [0] * (len(kept) - 1) + [width - kept[-1][1]]
    # padded one by one, for a tensor of zeros would need the shape of the batch inside of an exported graph
    pieces = [torch.nn.functional.pad(part, around) for part, *around in zip(parts, gaps, after, strict=True)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


class NarrowLinear(torch.nn.Linear):
    """A linear layer that computes some of its output channels, or reads some of its input channels.

    `in_features` and `out_features` are the widths that the model around it sees; `weight` and `bias` hold the rest.

    Attributes:
        kept_inputs: Channels that are read, in the order of the weight's columns; `None` for all.
        kept_outputs: Channels that are computed, in the order of the weight's rows; `None` for all.
    """

    kept_inputs: ChannelRanges | None
    kept_outputs: ChannelRanges | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        """Return all output channels, with zeros at those that are not computed."""
        outputs = torch.nn.functional.linear(read_channels(input, self.kept_inputs), self.weight, self.bias)
        return spread_channels(outputs, self.kept_outputs, self.out_features)

    def extra_repr(self) -> str:
        """Return the widths and what is kept of them."""
        return f"{super().extra_repr()}, {_kept(self)}"


class NarrowConv1D(Conv1D):
    """The same for GPT-2's layer, whose weight is (inputs, outputs); `nx` and `nf` are the widths seen from outside."""

    kept_inputs: ChannelRanges | None
    kept_outputs: ChannelRanges | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return all output channels, with zeros at those that are not computed."""
        outputs = torch.nn.functional.linear(read_channels(x, self.kept_inputs), self.weight.T, self.bias)
        return spread_channels(outputs, self.kept_outputs, self.nf)

    def __repr__(self) -> str:
        """Return the widths and what is kept of them."""
        return f"NarrowConv1D(nf={self.nf}, nx={self.nx}, {_kept(self)})"


def _kept(layer: NarrowLinear | NarrowConv1D) -> str:
    return f"kept_inputs={layer.kept_inputs}, kept_outputs={layer.kept_outputs}"


NARROW_CLASSES: dict[type[torch.nn.Module], type[NarrowLinear | NarrowConv1D]] = {
    torch.nn.Linear: NarrowLinear,
    Conv1D: NarrowConv1D,
}
"""Stock layer → the layer that stands for it where only some of its channels are kept."""
