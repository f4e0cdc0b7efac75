"""What a multimodal model was trained for, as a scalar to differentiate, and what of it depends on which weight or row.

Dual encoders are asked to match the pairs of a batch, models that write to predict the text of each row, and all others
to give what they give: a random projection of their outputs, whose squared gradient is in expectation that of the
outputs themselves (Hutchinson), which is the Gauss-Newton curvature of matching them. The loss of matching them is
zero where it is measured, and so is its gradient.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from hfcompress.errors import DataError
from hfcompress.pruning.compensation import row_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["Gradients", "gradients", "objective", "sensitivities", "token_labels"]

_IGNORED = -100
"""The label that transformers leaves out of a loss."""
_PLACEHOLDERS = ("image", "video", "audio", "vision")
"""Token ids named after these stand for pieces of other modalities, which no model predicts."""
_REFUSALS = (TypeError, ValueError, IndexError, RuntimeError)
"""What models raise on labels that are not in their form."""
_CONTENT = frozenset({"input_ids", "pixel_values", "input_features", "input_values"})
"""Inputs that tell rows apart."""

Kind = Literal["contrastive", "labels", "outputs"]


@dataclass(frozen=True)
class Gradients:
    """Gradients of one parameter, summed over batches.

    Attributes:
        total: Σ g, in the parameter's shape, float32.
        power: Σ |g| or Σ g², as was asked for, in the parameter's shape, float32.
    """

    total: Tensor
    power: Tensor


def token_labels(ids: Tensor, mask: Tensor | None, config: PretrainedConfig) -> Tensor:
    """Return token ids as labels: padding, and what stands for pieces of images or sounds, counts for nothing.

    Args:
        ids: Token ids, of shape (rows, tokens).
        mask: Zero where a token is padding, of the same shape; `None` where the padding token tells.
        config: The model's configuration, which names the tokens.
    """
    texts = config.get_text_config(decoder=True)
    hidden = ids == texts.pad_token_id if mask is None and texts.pad_token_id is not None else ids < 0
    if mask is not None:
        hidden = mask == 0
    for owner in (config, texts):
        for name, value in vars(owner).items():
            if (
                isinstance(value, int)
                and name.endswith(("_token_id", "_token_index"))
                and name.startswith(_PLACEHOLDERS)
            ):
                hidden = hidden | (ids == value)
    return ids.masked_fill(hidden, _IGNORED)


def objective(model: PreTrainedModel, inputs: Mapping[str, Any], generator: torch.Generator) -> tuple[Tensor, Kind]:
    """Return a differentiable scalar that says what the model is for, and which kind it is.

    Args:
        model: The model.
        inputs: Arguments of its forward pass.
        generator: Draws the random projection where the outputs themselves are the objective.

    Returns:
        "contrastive": the cross entropy of finding each row's partner among those of the batch, in both directions;
        rows with an equal input are partners. "labels": the model's own loss of predicting the text. "outputs": a
        random projection of the outputs, also where all rows of the batch are partners.
    """
    outputs = _with_labels(model, inputs)
    similarities = [
        tensor
        for name, tensor in outputs.items()
        if "logits_per_" in name and isinstance(tensor, torch.Tensor) and _is_square(tensor)
    ]
    same = _partners(inputs, len(similarities[0])) if similarities else torch.ones(1, 1)
    if not same.all():
        target = same.float() / same.sum(dim=1, keepdim=True)
        losses = [torch.nn.functional.cross_entropy(logits.float(), target) for logits in similarities]
        return torch.stack(losses).mean(), "contrastive"
    if isinstance(outputs.get("loss"), torch.Tensor) and outputs["loss"].requires_grad:
        return outputs["loss"], "labels"
    return _projection(outputs, inputs, generator), "outputs"


def gradients(
    model: PreTrainedModel,
    batches: Sequence[Mapping[str, Any]],
    parameters: Sequence[str],
    power: Literal[1, 2] = 2,
    seed: int = 0,
) -> dict[str, Gradients]:
    """Differentiate the model's objective by some of its parameters, batch by batch.

    Args:
        model: The model; nothing of it is changed.
        batches: Arguments of its forward pass.
        parameters: Names of parameters.
        power: Whether |g| or g² is summed beside g.
        seed: Seeds the projections where the outputs themselves are the objective.

    Returns:
        Name → gradients, for each parameter that the objective depends on.

    Raises:
        DataError: The objective does not depend on any of the parameters, or is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = {name: model.get_parameter(name) for name in parameters}
    found: dict[str, Gradients] = {}
    kinds: set[Kind] = set()
    with _differentiable(model, wanted.values()):
        for index, batch in enumerate(batches):
            with _seeded(index):
                loss, kind = objective(model, batch, generator)
            kinds.add(kind)
            if not torch.isfinite(loss):
                msg = f"the model's objective ({kind}) is not finite on the calibration rows"
                raise DataError(msg)
            if not loss.requires_grad:
                continue
            got = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            for name, gradient in zip(wanted, got, strict=True):
                if gradient is not None:
                    gradient = gradient.float()  # noqa: PLW2901 - the same thing in another type
                    before = found.setdefault(name, Gradients(torch.zeros_like(gradient), torch.zeros_like(gradient)))
                    before.total.add_(gradient)
                    before.power.add_(gradient.abs().pow_(power))
    if not any(bool(gradient.power.any()) for gradient in found.values()):
        msg = (
            f"the model's objective ({', '.join(sorted(kinds))}) does not depend on {parameters[0]} or any other of "
            f"the {len(parameters)} parameters on the calibration rows; choose an importance that needs no gradients"
        )
        raise DataError(msg)
    return found


def sensitivities(
    model: PreTrainedModel,
    batches: Sequence[Mapping[str, Any]],
    layers: Sequence[str],
    projections: int = 2,
    seed: int = 0,
) -> dict[str, tuple[Tensor, ...]]:
    """Return how much each row that a layer puts out should count in a refit of that layer.

    A row is a token; it counts by how much the model's outputs depend on it, see `row_weights`. The outputs are the
    embeddings where the model gives some, otherwise the logits, otherwise everything.

    Args:
        model: The model before anything is removed from it; nothing of it is changed.
        batches: Arguments of its forward pass.
        layers: Names of layers.
        projections: Random projections of the outputs; each costs a backward pass.
        seed: Seeds them.

    Returns:
        Layer → for each batch the weights of its rows, in the shape of the layer's output without its last dimension,
        float32. Their mean over all batches is slightly above one. A layer that the forward pass does not reach is
        left out.
    """
    generator = torch.Generator().manual_seed(seed)
    energies: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    with _differentiable(model, ()):
        for index, batch in enumerate(batches):
            with _listening(model, energies, index), _seeded(index):
                outputs = model(**batch)
            for left in reversed(range(projections)):
                projection = _projection(outputs, batch, generator)
                if projection.requires_grad:
                    projection.backward(retain_graph=left > 0)
    weights = {}
    for layer, parts in energies.items():
        if parts:
            flat = row_weights(torch.cat([part.flatten() for part in parts])).float()
            pieces = flat.split([part.numel() for part in parts])
            weights[layer] = tuple(piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))
    return weights


@contextmanager
def _listening(model: PreTrainedModel, energies: Mapping[str, list[Tensor]], index: int) -> Iterator[None]:
    """Sum the squared gradients of what each layer puts out when it is first called inside the block."""

    def listen(parts: list[Tensor], output: Tensor) -> Tensor | None:
        if len(parts) > index:
            return None
        energy = torch.zeros(output.shape[:-1])
        parts.append(energy)
        # a leaf must not be changed in place, which the model may do
        heard = output if output.requires_grad else output.detach().requires_grad_().clone()

        def add(gradient: Tensor) -> None:
            energy.add_(gradient.float().square().sum(dim=-1))

        if heard.requires_grad:  # some models run a frozen part without
            heard.register_hook(add)
        return heard

    handles = [
        model.get_submodule(layer).register_forward_hook(lambda _, __, output, parts=parts: listen(parts, output))
        for layer, parts in energies.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiable(model: PreTrainedModel, parameters: Any) -> Iterator[None]:  # noqa: ANN401 - any iterable of them
    """Let gradients flow to these parameters alone inside the block."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(requires_grad=False)
    for parameter in parameters:
        parameter.requires_grad_()
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, needed in before.items():
            parameter.requires_grad_(needed)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _with_labels(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Run the model, with the text as labels where it is one that writes."""
    takes_labels = "labels" in inspect.signature(model.forward).parameters and model.can_generate()
    for labels in _labels(inputs, model.config) if takes_labels and "labels" not in inputs else ():
        try:
            outputs: Mapping[str, Any] = model(**inputs, labels=labels)
        except _REFUSALS:
            continue
        return outputs
    plain: Mapping[str, Any] = model(**inputs)
    return plain


def _labels(inputs: Mapping[str, Any], config: PretrainedConfig) -> Iterator[Tensor]:
    """Yield the text of the rows as labels, in the forms that models take."""
    if (ids := inputs.get("decoder_input_ids")) is not None:
        following = token_labels(ids, inputs.get("decoder_attention_mask"), config).roll(-1, dims=1)
        following[:, -1] = _IGNORED
        yield following
    elif (ids := inputs.get("input_ids")) is not None:
        yield token_labels(ids, inputs.get("attention_mask"), config)
        yield ids  # some read the labels as tokens too, and have none of number -100


def _is_square(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1] > 1  # noqa: PLR2004 - rows and columns


def _partners(inputs: Mapping[str, Any], rows: int) -> Tensor:
    """Return which rows have an equal input and should be matched with one another, of shape (rows, rows)."""
    same = torch.eye(rows, dtype=torch.bool)
    for name in _CONTENT & inputs.keys():
        if len(inputs[name]) == rows:
            number = inputs[name].flatten(1).unique(dim=0, return_inverse=True)[1]
            same |= number[:, None] == number[None, :]
    return same


def _projection(outputs: Mapping[str, Any], inputs: Mapping[str, Any], generator: torch.Generator) -> Tensor:
    """Return the sum of the outputs, each times a standard normal number; padding counts for nothing."""
    mask = inputs.get("attention_mask")
    parts = []
    for tensor in _results(outputs):
        direction = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        if isinstance(mask, torch.Tensor) and tensor.dim() > mask.dim() and tensor.shape[: mask.dim()] == mask.shape:
            direction = direction * mask.to(tensor.dtype).view(*mask.shape, *[1] * (tensor.dim() - mask.dim()))
        # infinite scores stand for what cannot be chosen, by design
        parts.append((tensor.masked_fill(~torch.isfinite(tensor), 0.0) * direction).sum())
    return torch.stack([part.float() for part in parts]).sum()


def _results(outputs: Mapping[str, Any]) -> list[Tensor]:
    """Return the outputs that matter most: embeddings, else logits, else everything."""
    floats = {
        name: tensor
        for name, tensor in outputs.items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.dim() > 0
    }
    for part in ("_embeds", "logits"):
        if found := [tensor for name, tensor in floats.items() if part in name]:
            return found
    return list(floats.values())
