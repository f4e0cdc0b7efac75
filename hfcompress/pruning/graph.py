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
        if isinstance(module, torch.nn.Linear) and module in graph.module2node and name not in taken:
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
    root: torch.nn.Linear,
    modules: Mapping[str, torch.nn.Module],
) -> Coupling | None:
    """Return what shares the outputs of `root`, or `None` where that is not a feed-forward layer."""
    if _feeds_a_product(graph.module2node[root]):
        return None
    first = _sharers(graph, names, root, 0)
    if first is None:
        return None
    size = root.out_features // len(first[names[root], "produces"])
    last = _sharers(graph, names, root, size - 1)
    if last is None or first.keys() != last.keys():
        return None
    if any(tuple(index + size - 1 for index in first[side]) != last[side] for side in first):
        return None
    members = tuple(
        Member(module, role, layer_parameters(modules[module], role), start)
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
        if node in seen or isinstance(node.module, (torch.nn.Linear, *_NORMS)):
            continue
        if not _pointwise(node):
            return True
        seen.add(node)
        waiting += node.outputs
    return False


def _sharers(
    graph: torch_pruning.DependencyGraph, names: Mapping[torch.nn.Module, str], root: torch.nn.Linear, channel: int
) -> dict[tuple[str, Role], tuple[int, ...]] | None:
    """Return (layer, role) → channels there, for one output channel of `root`; `None` where channels are mixed."""
    found: dict[tuple[str, Role], tuple[int, ...]] = {}
    for dependency, channels in graph.get_pruning_group(root, torch_pruning.prune_linear_out_channels, idxs=[channel]):
        layer = dependency.target.module
        if isinstance(layer, torch.nn.Linear):
            role: Role = "produces" if graph.is_out_channel_pruning_fn(dependency.handler) else "consumes"
            found[names[layer], role] = tuple(sorted(channels))
        elif isinstance(layer, _NORMS) and tuple(layer.weight.shape) == (root.out_features,):
            found[names[layer], "carries"] = tuple(sorted(channels))
        elif not _pointwise(dependency.target):
            return None
    return found


def _pointwise(node: torch_pruning.dependency.Node) -> bool:
    """Whether a node of the graph keeps every channel to itself."""
    if node.type not in {ops.OPTYPE.ELEMENTWISE, ops.OPTYPE.RESHAPE, ops.OPTYPE.SPLIT, ops.OPTYPE.SLICE}:
        return False
    return not any(kind in str(node.name) for kind in _MIXING)
