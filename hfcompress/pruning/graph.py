"""Which parameters must be sliced together, found by tracing the model and not by knowing it.

torch-pruning follows autograd through a forward pass and tells, for an output channel of a layer, every other layer
that shares it. The pass runs on a twin of the model: same modules, all weights zero, so that nothing is downloaded and
no memory is touched. A feed-forward layer is a set of channels that lies between linear maps inside one block with
nothing but pointwise operations in between: no attention product, no embedding, no residual stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch_pruning
from torch_pruning import ops

from hfcompress.pruning.coupling import Coupling, Member, enclosing_stack, layer_parameters, siblings
from hfcompress.twin import SkippedProducts, probes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedModel

    from hfcompress.pruning.coupling import Role

__all__ = ["feed_forward_couplings", "unreached_parts"]

_MIXING = ("Bmm", "Softmax", "ScaledDotProduct", "Cumsum", "Sum", "Mean", "Embedding", "Index", "Convolution")
"""Autograd operations that mix channels, or tell that the channels are not a feed-forward layer's."""
_CHANNELWISE = (torch.nn.BatchNorm2d,)
"""Layers that treat every channel by itself."""
_NORMS = (torch.nn.LayerNorm, torch.nn.RMSNorm)


def feed_forward_couplings(model: PreTrainedModel, twin: PreTrainedModel) -> tuple[Coupling, ...]:
    """Return the feed-forward layers of a model's blocks, in the order of its modules.

    A module that the forward pass does not reach, but that is of the same class and shapes as one with a feed-forward
    layer, has one as well.

    Args:
        model: A model on the meta device.
        twin: Its twin, see `zero_twin`.

    Raises:
        CheckpointError: No inputs can be made on which the model, or a part of it, runs.
    """
    modules = dict(model.named_modules())
    found: dict[str, Coupling] = {}
    _trace_into(found, twin, "", modules)
    for part in unreached_parts(found, twin):
        _trace_into(found, twin, part, modules)
    for coupling in list(found.values()):
        for sibling in siblings(coupling, modules):
            found.setdefault(sibling.name, sibling)
    order = {name: index for index, name in enumerate(modules)}
    return tuple(sorted(found.values(), key=lambda coupling: order[coupling.name]))


def _trace_into(
    found: dict[str, Coupling], twin: PreTrainedModel, part: str, modules: Mapping[str, torch.nn.Module]
) -> None:
    """Add what the forward passes of a part of the model reach."""
    for probe in probes_of(twin, part):
        for coupling in _traced(twin, probe.module, probe.inputs, modules):
            if enclosing_stack(coupling.container, modules) is not None:
                found.setdefault(coupling.name, coupling)


def unreached_parts(found: Mapping[str, Coupling], twin: PreTrainedModel, part: str = "") -> list[str]:
    """Return the outermost parts with blocks in which nothing was found: some run without autograd."""
    parts = []
    for name, child in twin.get_submodule(part).named_children():
        path = f"{part}.{name}" if part else name
        if isinstance(child, torch.nn.ModuleList) or not any(
            isinstance(m, torch.nn.ModuleList) for m in child.modules()
        ):
            continue
        if any(coupling.startswith(f"{path}.") for coupling in found):
            parts += unreached_parts(found, twin, path)
        else:
            parts.append(path)
    return parts


def _traced(
    twin: PreTrainedModel, part: str, inputs: Mapping[str, torch.Tensor], modules: Mapping[str, torch.nn.Module]
) -> Iterator[Coupling]:
    """Yield what the forward pass of one part of the model reaches."""
    root = twin.get_submodule(part)
    graph = torch_pruning.DependencyGraph()
    with SkippedProducts():
        graph.build_dependency(root, dict(inputs), verbose=False, output_transform=_differentiable)
    prefix = f"{part}." if part else ""
    names = {module: prefix + name for name, module in root.named_modules() if name}
    taken: set[str] = set()
    for module, name in names.items():
        if _is_map(module) and module in graph.module2node and name not in taken:
            coupling = _coupling(graph, names, module, modules)
            if coupling is not None:
                taken.update(member.module for member in coupling.producers)
                yield coupling


def _differentiable(outputs: object) -> list[torch.Tensor]:
    """Collect the tensors of a model's output that autograd can be followed from."""

    def tensors(item: object) -> Iterator[torch.Tensor]:
        if isinstance(item, torch.Tensor):
            if item.grad_fn is not None:
                yield item
        elif isinstance(item, dict):
            for value in item.values():
                yield from tensors(value)
        elif isinstance(item, (list, tuple)):
            for value in item:
                yield from tensors(value)

    return list(tensors(outputs))


def _coupling(
    graph: torch_pruning.DependencyGraph,
    names: Mapping[torch.nn.Module, str],
    root: torch.nn.Module,
    modules: Mapping[str, torch.nn.Module],
) -> Coupling | None:
    """Return what shares the outputs of `root`, or `None` where that is not a feed-forward layer."""
    node = graph.module2node[root]
    if _feeds_a_product(node) or any(map(_is_pooling, node.inputs)):  # the latter is the gate of a squeeze
        return None
    first = _sharers(graph, names, root, 0)
    if first is None:
        return None
    size = _outputs(root) // len(first[names[root], "produces"])
    last = _sharers(graph, names, root, size - 1)
    if last is None or first.keys() != last.keys():
        return None
    if any(tuple(index + size - 1 for index in first[side]) != last[side] for side in first):
        return None
    members = tuple(
        Member(module, role, layer_parameters(modules[module], "produces" if role == "carries" else role), start)
        for (module, role), starts in first.items()
        for start in starts
    )
    coupling = Coupling(names[root], "ffn", size, members)
    return coupling if coupling.consumers else None


def _feeds_a_product(start: torch_pruning.dependency.Node) -> bool:
    """Whether what a layer gives reaches an operation that mixes channels before any other layer, as a query does.

    Looked at first, for torch-pruning's own walk takes exponential time through rotary position embeddings.
    """
    waiting, seen = list(start.outputs), {start}
    while waiting:
        node = waiting.pop()
        if node in seen or isinstance(node.module, (torch.nn.Linear, torch.nn.Conv2d, *_NORMS, *_CHANNELWISE)):
            continue
        if not _pointwise(node):
            return True
        seen.add(node)
        waiting += node.outputs
    return False


def _sharers(
    graph: torch_pruning.DependencyGraph, names: Mapping[torch.nn.Module, str], root: torch.nn.Module, channel: int
) -> dict[tuple[str, Role], tuple[int, ...]] | None:
    """Return (layer, role) → channels there, for one output channel of `root`; `None` where channels are mixed."""
    found: dict[tuple[str, Role], tuple[int, ...]] = {}
    is_linear = isinstance(root, torch.nn.Linear)
    prune = torch_pruning.prune_linear_out_channels if is_linear else torch_pruning.prune_conv_out_channels
    for dependency, channels in graph.get_pruning_group(root, prune, idxs=[channel]):
        layer = dependency.target.module
        if _is_map(layer):
            role: Role = "produces" if graph.is_out_channel_pruning_fn(dependency.handler) else "consumes"
            found[names[layer], role] = tuple(sorted(channels))
        elif _is_norm_of(layer, _outputs(root)) or (not is_linear and _is_channelwise(layer)):
            found[names[layer], "carries"] = tuple(sorted(channels))
        elif not is_linear and _is_pooling(dependency.target):
            continue  # over the places of an image, channel by channel
        elif not _pointwise(dependency.target):
            return None
    return found


def _is_map(layer: torch.nn.Module) -> bool:
    """Whether a layer multiplies the channels of each token, or of each place of an image, with a matrix."""
    if isinstance(layer, torch.nn.Conv2d):
        return layer.groups == 1 and set(layer.kernel_size) == {1}
    return isinstance(layer, torch.nn.Linear)


def _is_norm_of(layer: torch.nn.Module, channels: int) -> bool:
    return isinstance(layer, _NORMS) and tuple(layer.weight.shape) == (channels,)


def _is_channelwise(layer: torch.nn.Module) -> bool:
    if isinstance(layer, torch.nn.Conv2d):
        return layer.groups == layer.in_channels == layer.out_channels
    return isinstance(layer, _CHANNELWISE)


def _outputs(layer: torch.nn.Module) -> int:
    return int(layer.get_parameter("weight").shape[0])


def _is_pooling(node: torch_pruning.dependency.Node) -> bool:
    return "Mean" in str(node.name) or "Pool" in str(node.name)


def _pointwise(node: torch_pruning.dependency.Node) -> bool:
    """Whether a node of the graph keeps every channel to itself."""
    if node.type not in {ops.OPTYPE.ELEMENTWISE, ops.OPTYPE.RESHAPE, ops.OPTYPE.SPLIT, ops.OPTYPE.SLICE}:
        return False
    return not any(kind in str(node.name) for kind in _MIXING)
