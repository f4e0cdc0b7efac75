"""What torch-pruning itself gives at the same removal: its own pruner with its own importances, and no training."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING

import torch
import torch_pruning
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from transformers import CLIPModel

__all__ = [
    "PEERS",
    "block_counts",
    "feed_forward_sizes",
    "head_counts",
    "narrow_with_peer",
    "prune_with_peer",
    "residual_widths",
    "without_blocks",
]

PEERS = {
    "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
    "taylor": torch_pruning.importance.GroupTaylorImportance,
}


def feed_forward_sizes(model: CLIPModel) -> dict[str, int]:
    """Return the name of each layer that produces feed-forward units → how many it produces."""
    return {name: len(module.weight) for name, module in model.named_modules() if name.endswith(".fc1")}


def head_counts(model: CLIPModel) -> dict[str, int]:
    """Return the name of each attention → its number of heads, told from the shapes."""
    return {
        name: len(module.q_proj.weight) // module.head_dim
        for name, module in model.named_modules()
        if name.endswith(".self_attn")
    }


def block_counts(model: CLIPModel) -> dict[str, int]:
    """Return the name of each list of blocks → how many there are."""
    return {name: len(module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}


def residual_widths(model: CLIPModel) -> dict[str, int]:
    """Return the name of the last norm of each tower → how many channels of the residual stream it reads."""
    names = ("text_model.final_layer_norm", "vision_model.post_layernorm")
    return {name: len(model.get_submodule(name).weight) for name in names}


def without_blocks(model: CLIPModel, kept: Mapping[str, Sequence[int]]) -> CLIPModel:
    """Return a copy of a model without some blocks, done by hand, for torch-pruning removes none.

    Args:
        model: The source.
        kept: Name of a list of blocks, as `block_counts` gives it, → numbers of the blocks that stay.
    """
    pruned = copy.deepcopy(model).eval()
    for name, numbers in kept.items():
        blocks = pruned.get_submodule(name)
        pruned.set_submodule(name, torch.nn.ModuleList(blocks[number] for number in numbers))
    return pruned


def contrastive_loss(logits_per_image: Tensor, positives: Tensor) -> Tensor:
    """Return the mean of both directions' cross-entropy, every caption of the same text as the image's being right.

    Args:
        logits_per_image: Scaled cosine similarities, of shape (n, n).
        positives: Which captions are right for an image, of shape (n, n), symmetric.
    """
    target = positives.float() / positives.sum(dim=1, keepdim=True)
    return (
        functional.cross_entropy(logits_per_image, target) + functional.cross_entropy(logits_per_image.T, target)
    ) / 2


def prune_with_peer(
    model: CLIPModel,
    inputs: Mapping[str, Tensor],
    peer: str,
    units: Mapping[str, int] | None = None,
    heads: Mapping[str, int] | None = None,
) -> CLIPModel:
    """Return a copy of a model in which nothing reads the units that torch-pruning chose to remove.

    They are silenced and not sliced, which gives the same outputs: no stock CLIP can run with fewer heads.

    Args:
        model: The source.
        inputs: Calibration pairs, for the gradient and to trace the model.
        peer: One of `PEERS`.
        units: Layer name, as `feed_forward_sizes` gives it, → units that stay.
        heads: Attention name, as `head_counts` gives it, → heads that stay.
    """
    pruned = copy.deepcopy(model).eval()
    ratios = {
        pruned.get_submodule(name): 1 - (size + 0.5) / sizes for name, size, sizes in _changes(model, units or {})
    }
    attentions = {pruned.get_submodule(name): count for name, count in (heads or {}).items()}
    num_heads = {
        projection: attention.num_heads
        for attention in attentions
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    }
    roots = {*ratios, *num_heads}
    ignored = [
        module
        for module in pruned.modules()
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and module not in roots
    ]
    _measure_gradients(pruned, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of parameters that no layer owns; none of them is cut here
        pruner = torch_pruning.pruner.BasePruner(
            pruned,
            {name: tensor[:2] for name, tensor in inputs.items()},
            importance=PEERS[peer](),
            pruning_ratio=_head_ratio(attentions),  # it looks at no head where this is zero
            pruning_ratio_dict=ratios,
            ignored_layers=ignored,
            in_channel_groups={},  # its defaults are shared between pruners
            out_channel_groups={},
            num_heads=num_heads,
            prune_num_heads=bool(heads),
            prune_head_dims=False,
            head_pruning_ratio=_head_ratio(attentions),
            output_transform=lambda output: output.logits_per_image,
        )
        groups = [
            [(link.target.module, link.handler, channels) for link, channels in group]
            for group in pruner.step(interactive=True)
        ]
    silenced = 0
    for group in groups:
        for module, handler, channels in group:
            if handler == torch_pruning.prune_linear_in_channels:
                module.weight.data[:, channels] = 0.0
                silenced += len(channels)
    expected = sum(before - size for _, size, before in _changes(model, units or {}))
    expected += sum((attention.num_heads - count) * attention.head_dim for attention, count in attentions.items())
    if silenced != expected:
        msg = f"torch-pruning chose {silenced} channels where {expected} were asked of it"
        raise RuntimeError(msg)
    return pruned


def narrow_with_peer(model: CLIPModel, inputs: Mapping[str, Tensor], peer: str, ratio: float) -> CLIPModel:
    """Return a copy of a model with residual streams that torch-pruning narrowed, whole heads in step.

    They are sliced: a norm over channels that are zero is another one than a norm over fewer channels.

    Args:
        model: The source.
        inputs: Calibration pairs, for the gradient and to trace the model.
        peer: One of `PEERS`.
        ratio: Share of the channels, and of the heads, that goes; it must leave whole numbers of both.
    """
    pruned = copy.deepcopy(model).eval()
    attentions = [module for name, module in pruned.named_modules() if name.endswith(".self_attn")]
    feed_forward = [pruned.get_submodule(name) for name in feed_forward_sizes(pruned)]
    _measure_gradients(pruned, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the parameters that no layer owns: the scale of the logits
        pruner = torch_pruning.pruner.BasePruner(
            pruned,
            {name: tensor[:2] for name, tensor in inputs.items()},
            importance=PEERS[peer](),
            pruning_ratio=ratio,
            ignored_layers=[pruned.text_projection, pruned.visual_projection, *feed_forward],
            in_channel_groups={},  # its defaults are shared between pruners
            out_channel_groups={},
            num_heads={
                projection: attention.num_heads
                for attention in attentions
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            },
            prune_num_heads=True,
            prune_head_dims=False,
            head_pruning_ratio=ratio,
            unwrapped_parameters=[(pruned.vision_model.embeddings.class_embedding, 0)],
            output_transform=lambda output: output.logits_per_image,
        )
        pruner.step()
    for attention in attentions:
        attention.embed_dim = attention.q_proj.out_features
        attention.num_heads = attention.embed_dim // attention.head_dim
    expected = {name: round(width * (1 - ratio)) for name, width in residual_widths(model).items()}
    if residual_widths(pruned) != expected:
        msg = f"torch-pruning left the widths {residual_widths(pruned)} where {expected} were asked of it"
        raise RuntimeError(msg)
    return pruned


def _measure_gradients(model: CLIPModel, inputs: Mapping[str, Tensor]) -> None:
    """Leave the gradient of the model's own objective in its parameters."""
    model.zero_grad()
    same = (inputs["input_ids"][:, None] == inputs["input_ids"][None, :]).all(dim=-1)
    contrastive_loss(model(**inputs).logits_per_image, same).backward()


def _changes(model: CLIPModel, units: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Return name, size to keep and size so far of each layer."""
    before = feed_forward_sizes(model)
    return [(name, size, before[name]) for name, size in units.items()]


def _head_ratio(attentions: Mapping[torch.nn.Module, int]) -> float:
    """Return the share of heads to remove, the same in all attentions."""
    shares = {1 - count / attention.num_heads for attention, count in attentions.items()} or {0.0}
    (share,) = shares
    return share
