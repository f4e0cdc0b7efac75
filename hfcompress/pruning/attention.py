"""Attention heads, found by what depends on what in a forward pass and not by the names of modules.

The pass runs on the zero twin of a model (see `zero_twin`) with two changes: every layer gives random numbers
that depend on nothing, and so does every softmax. What lies between is then a set of small separate computations. In
one of them the outputs of some layers become attention scores of shape (rows, heads, queries, keys); in another the
attention probabilities and the outputs of a layer become the input of the next one. Derivatives tell which channels
of each layer belong to which head: those of fused, interleaved or shared (grouped-query) projections just as well, and
the columns of tables of relative position biases.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.overrides import TorchFunctionMode

from hfcompress.pruning.coupling import (
    Coupling,
    Member,
    common_module,
    enclosing_stack,
    layer_parameters,
    siblings,
)
from hfcompress.pruning.graph import unreached_parts
from hfcompress.twin import probes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

    from torch import Tensor
    from transformers import PreTrainedModel

    from hfcompress.probes import Probe
    from hfcompress.pruning.coupling import Role

__all__ = ["attention_couplings"]

_SOFTMAX = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)
_LAYERS = (torch.nn.Linear, torch.nn.Embedding)
_SIZES = range(3, 6)
"""Dimensions that attention scores can have."""
Spans: TypeAlias = "tuple[tuple[int, int, int], ...]"
"""Start, width and stride of each run of channels that the units have in a layer."""


@dataclass(eq=False)
class _Layer:
    """One call of a layer or a normalisation: the random numbers that stand for its output."""

    name: str
    output: Tensor
    before: str | None = None
    """The layer that feeds a normalisation directly."""
    readers: list[str] = field(default_factory=list)
    """Layers that read it directly."""


@dataclass(eq=False)
class _Attention:
    """One call of softmax."""

    scores: Tensor
    probabilities: Tensor
    readers: list[tuple[str, Tensor]] = field(default_factory=list)
    """Layers that read what was attended to, and the input they got."""


def attention_couplings(model: PreTrainedModel, twin: PreTrainedModel) -> tuple[Coupling, ...]:
    """Return the attention heads of a model's blocks, in the order of its modules.

    A unit is a group of heads that share a key and a value, or one head where none do. Heads that a table of position
    biases joins across layers are several couplings that follow the same table.

    Args:
        model: A model on the meta device.
        twin: Its twin, see `zero_twin`.

    Raises:
        CheckpointError: No inputs can be made on which the model, or a part of it, runs.
    """
    modules = dict(model.named_modules())
    _scatter(twin)
    found: dict[str, Coupling] = {}
    _trace_into(found, twin, "", modules)
    for part in unreached_parts(found, twin):
        _trace_into(found, twin, part, modules)
    for coupling in list(found.values()):
        inside = all(f"{member.module}.".startswith(f"{coupling.container}.") for member in coupling.members)
        for sibling in siblings(coupling, modules) if inside else ():
            if not any(_is_read(member.module, found) for member in sibling.consumers):
                found.setdefault(sibling.name, sibling)
    order = {name: index for index, name in enumerate(modules)}
    return tuple(sorted(found.values(), key=lambda coupling: order[coupling.name]))


def _trace_into(
    found: dict[str, Coupling], twin: PreTrainedModel, part: str, modules: Mapping[str, torch.nn.Module]
) -> None:
    """Add what the forward passes of a part of the model reach; of those that are built alike, one is looked at."""
    known: dict[Hashable, Coupling] = {}
    for probe in probes_of(twin, part):
        trace = _Trace(twin, probe, modules)
        for attention, reader, given in trace.attentions():
            if _is_read(reader, found):
                continue
            kind, container = trace.kind(attention, reader, given)
            coupling = known[kind].moved(container) if kind in known else trace.coupling(attention, reader, given)
            if coupling is None or enclosing_stack(coupling.container, modules) is None:
                continue
            found.setdefault(coupling.name, coupling)
            if coupling.container == container:
                known[kind] = coupling


def _is_read(reader: str, found: Mapping[str, Coupling]) -> bool:
    return any(member.module == reader for coupling in found.values() for member in coupling.members)


@torch.no_grad()
def _scatter(twin: PreTrainedModel) -> None:
    """Give random values to what is no weight matrix: a scale of zero would hide what depends on what.

    Masks that modules keep let everything through.
    """
    generator = torch.Generator().manual_seed(0)
    for module in twin.modules():
        for buffer in module.buffers(recurse=False):
            if buffer.dtype == torch.bool:
                buffer.fill_(True)  # noqa: FBT003 - the value of every entry
        if not isinstance(module, (*_LAYERS, torch.nn.modules.conv._ConvNd)):  # noqa: SLF001 - the base of all
            for parameter in module.parameters(recurse=False):
                parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


class _Trace(TorchFunctionMode):
    """A forward pass that is cut at every layer and every softmax."""

    def __init__(self, twin: PreTrainedModel, probe: Probe, modules: Mapping[str, torch.nn.Module]) -> None:
        super().__init__()
        self._modules = modules
        self._generator = torch.Generator().manual_seed(0)
        self._layers: dict[int, _Layer] = {}
        self._last: dict[str, _Layer] = {}
        self._before: _Layer | None = None
        self._cuts_norm = False
        self._is_cut = False
        self._attentions: dict[int, _Attention] = {}
        self._parameters = {id(parameter): name for name, parameter in twin.named_parameters()}
        handles = []
        for name, module in twin.named_modules():
            if isinstance(module, _LAYERS) or _is_norm(module):
                handles.append(module.register_forward_pre_hook(self._reads(name)))
                handles.append(module.register_forward_hook(self._writes(name)))
        try:
            with torch.enable_grad(), self:
                torch.manual_seed(0)
                twin.get_submodule(probe.module)(**probe.inputs)
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - whatever torch calls
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        del types
        kwargs = kwargs or {}
        if func is torch.nn.functional.linear and self._is_cut:
            return args[0].new_zeros(*args[0].shape[:-1], args[1].shape[0])  # replaced by the hook anyway
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        result = func(*args, **kwargs)
        scores = args[0] if args else kwargs.get("input")
        if func in _SOFTMAX and isinstance(scores, torch.Tensor) and scores.dim() in _SIZES and scores.requires_grad:
            return self._cut_softmax(scores, result)
        return result

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *_: object, **options: object) -> Tensor:
        """Attend without masks, which join no channels."""
        if options.get("enable_gqa"):
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scores = query @ key.mT
        return self._cut_softmax(scores, scores) @ value

    def _cut_softmax(self, scores: Tensor, result: Tensor) -> Tensor:
        probabilities = self._random(result)
        self._attentions[id(probabilities)] = _Attention(scores, probabilities)
        return probabilities * 1

    def _random(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._generator).to(like.dtype).requires_grad_()

    def _reads(self, name: str) -> Callable[[torch.nn.Module, tuple[Any, ...]], None]:
        def hear(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
            self._is_cut = True
            self._before, self._cuts_norm = None, False
            given = arguments[0] if arguments else None
            if not isinstance(given, torch.Tensor) or given.grad_fn is None:
                return
            leaves = _leaves(given)
            attentions = [self._attentions[id(leaf)] for leaf in leaves if id(leaf) in self._attentions]
            for attention in attentions:
                attention.readers.append((name, given))
            layer = self._layers.get(id(leaves[0])) if len(leaves) == 1 else None
            self._before = layer if layer is not None and layer.output.shape == given.shape else None
            self._cuts_norm = self._before is not None or bool(attentions)
            if self._before is not None:
                self._before.readers.append(name)

        return hear

    def _writes(self, name: str) -> Callable[[torch.nn.Module, tuple[Any, ...], Any], Tensor | None]:
        def cut(module: torch.nn.Module, _: tuple[Any, ...], output: object) -> Tensor | None:
            self._is_cut = False
            if not isinstance(output, torch.Tensor) or not output.is_floating_point():
                return None
            before = None
            if _is_norm(module):
                if not self._cuts_norm:
                    return None  # of the channels of one head, or of the residual stream
                before = self._before.name if self._before is not None else None
            leaf = self._random(output)
            self._layers[id(leaf)] = self._last[name] = _Layer(name, leaf, before)
            return leaf * 1

        return cut

    def attentions(self) -> Iterator[tuple[_Attention, str, Tensor]]:
        """Yield every call of softmax with each layer that reads what was attended to, and the input it got."""
        for attention in self._attentions.values():
            for name, given in attention.readers:
                yield attention, name, given

    def kind(self, attention: _Attention, reader: str, given: Tensor) -> tuple[Hashable, str]:
        """Return what an attention is made of, the same for all that are built alike, and the module that holds it."""
        leaves = {id(leaf): leaf for leaf in (*_leaves(attention.scores), *_leaves(given))}
        named = (self._layers[key].name if key in self._layers else self._parameters.get(key) for key in leaves)
        names = sorted(name for name in named if name)
        container = common_module([reader, *(name for name in names if self._is_map(name))])
        inside = [name.removeprefix(f"{container}.") for name in (reader, *names)]
        shapes = tuple(
            tuple(parameter.shape)
            for name in (reader, *names)
            if name in self._modules
            for parameter in self._modules[name].parameters()
        )
        return (type(self._modules[container]), tuple(inside), shapes, tuple(attention.scores.shape)), container

    def _is_map(self, name: str) -> bool:
        return name in self._modules and not isinstance(self._modules[name], torch.nn.Embedding)

    def coupling(self, attention: _Attention, reader: str, given: Tensor) -> Coupling | None:
        """Return the heads of an attention, `None` where it has none that can be told apart."""
        scores = attention.scores
        probabilities = attention.probabilities
        if scores.dim() == 3:  # noqa: PLR2004 - (rows * heads, queries, keys)
            rows = given.shape[0]
            scores = scores.unflatten(0, (rows, -1)) if scores.shape[0] % rows == 0 else scores.unsqueeze(0)
        heads = scores.shape[-3]
        if heads == 1:
            return None
        mixed = torch.randn(given.shape, generator=self._generator).requires_grad_()
        (read,) = torch.autograd.grad(given, probabilities, mixed, create_graph=True)
        if read.dim() == 3:  # noqa: PLR2004 - as above
            read = read.unflatten(0, (-1, heads))
        sources = list({id(leaf): leaf for leaf in (*_leaves(scores), *_leaves(given))}.values())
        sources = [leaf for leaf in sources if leaf is not probabilities]
        above = _touched(scores, sources, self._generator)
        channels, *below = _touched(read, [mixed, *sources], self._generator)
        patterns = [up | down for up, down in zip(above, below, strict=True)]
        units = _units(
            [_over(channels, -1), *(self._by_channel(*pair) for pair in zip(sources, patterns, strict=True))]
        )
        if units is None:
            return None
        members = list(self._members(sources, patterns, units))
        producers = [member for member in members if member.role == "produces"]
        spans = _spans(_joined(units, _over(channels, -1)))
        if not producers or spans is None:
            return None
        if _is_norm(self._modules[reader]):
            carrier = layer_parameters(self._modules[reader], "carries")
            members += [Member(reader, "carries", carrier, *span) for span in spans]
            readers = self._last[reader].readers
        else:
            readers = [reader]
        consumers = [
            Member(name, "consumes", layer_parameters(self._modules[name], "consumes"), *span)
            for name in readers
            for span in spans
        ]
        if not consumers:
            return None
        return Coupling(
            producers[0].module, "heads", len(units), (*dict.fromkeys(members), *consumers), int(units[0].sum())
        )

    def _by_channel(self, leaf: Tensor, pattern: Tensor) -> Tensor:
        """Return which channels of a layer, or entries of a parameter, each head depends on: (heads, channels)."""
        return _over(pattern, -1) if id(leaf) in self._layers else pattern.flatten(1)

    def _members(self, sources: list[Tensor], patterns: list[Tensor], units: Tensor) -> Iterator[Member]:
        """Yield the side of every layer and table that has channels of its own for each unit."""
        for leaf, pattern in zip(sources, patterns, strict=True):
            layer = self._layers.get(id(leaf))
            if layer is None:
                yield from self._table(leaf, pattern, units)
                continue
            for span in _spans(_joined(units, _over(pattern, -1))) or ():
                module = self._modules[layer.name]
                role: Role = "produces"
                if isinstance(module, torch.nn.Embedding):
                    role = "follows"
                elif layer.before is not None:
                    role = "carries"
                    before = self._modules[layer.before]
                    yield Member(layer.before, "produces", layer_parameters(before, "produces"), *span)
                yield Member(layer.name, role, layer_parameters(module, role), *span)

    def _table(self, leaf: Tensor, pattern: Tensor, units: Tensor) -> Iterator[Member]:
        """Yield the dimension of a parameter along which the units lie, if there is one."""
        owner, _, name = self._parameters.get(id(leaf), "").rpartition(".")
        for dimension in range(pattern.dim() - 1):
            spans = _spans(_joined(units, _over(pattern, dimension + 1)))
            if name and spans is not None:
                yield from (Member(owner, "follows", ((name, dimension),), *span) for span in spans)
                return


def _is_norm(module: torch.nn.Module) -> bool:
    """Whether a module scales and shifts channels one by one after a normalisation, by what it is called."""
    return "Norm" in type(module).__name__ and all(weight.dim() == 1 for weight in module.parameters())


def _leaves(tensor: Tensor) -> list[Tensor]:
    """Return the leaves of autograd that a tensor was made from."""
    waiting, seen, found = [tensor.grad_fn], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


def _touched(outputs: Tensor, leaves: list[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Return, for each leaf, which of its entries each head depends on: bool, of shape (heads, *leaf)."""
    found = []
    for head in outputs.unbind(-3):
        weights = torch.randn(head.shape, generator=generator).to(head.dtype)
        total = torch.where(head.isfinite(), head * weights, 0.0).sum()
        found.append(torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True))
    return [
        torch.stack([torch.zeros_like(leaf) if one is None else one for one in gradients]) != 0
        for leaf, gradients in zip(leaves, zip(*found, strict=True), strict=True)
    ]


def _over(pattern: Tensor, dimension: int) -> Tensor:
    """Reduce a pattern of shape (heads, ...) to (heads, channels) with the channels of one dimension."""
    return pattern.movedim(dimension, -1).flatten(1, -2).any(dim=1) if pattern.dim() > 2 else pattern  # noqa: PLR2004


def _joined(units: Tensor, pattern: Tensor) -> Tensor:
    """Return which channels each unit has, from those that each head has."""
    return (units.double() @ pattern.double()) > 0


def _units(patterns: list[Tensor]) -> Tensor | None:
    """Group heads that share a channel of some layer, but not one that all heads share.

    Args:
        patterns: Which channels each head depends on, of shape (heads, channels); the first is that of the layer that
            reads the heads, in which no channel may be shared.

    Returns:
        Bool tensor of shape (units, heads), in the order of the units' channels in the reading layer; `None` where
        heads are mixed or there is only one unit.
    """
    heads = len(patterns[0])
    joined = torch.eye(heads, dtype=torch.bool)
    if not torch.equal(_joined(patterns[0], patterns[0].T), joined):
        return None
    for pattern in patterns[1:]:
        own = pattern & ~pattern.all(dim=0)
        joined |= _joined(own, own.T)
    for _ in range(math.ceil(math.log2(heads))):
        joined = _joined(joined, joined)
    units = joined.unique(dim=0)
    order = _joined(units, patterns[0]).double().argmax(dim=1).argsort()
    return units[order] if len(units) > 1 and len(set(units.sum(dim=1).tolist())) == 1 else None


def _spans(channels: Tensor) -> Spans | None:
    """Return start, width and stride of each run of channels that the units have, if they are laid out regularly.

    Args:
        channels: Which channels each unit has, of shape (units, channels).
    """
    if bool((channels.sum(dim=0) > 1).any()) or not bool(channels.any(dim=1).all()):
        return None
    edges = torch.nn.functional.pad(channels.int(), (1, 1)).diff(dim=1)
    starts = [(row == 1).nonzero().flatten().tolist() for row in edges]
    stops = [(row == -1).nonzero().flatten().tolist() for row in edges]
    if len({len(row) for row in starts}) != 1:
        return None
    spans = []
    for firsts, lasts in zip(zip(*starts, strict=True), zip(*stops, strict=True), strict=True):
        widths = {last - first for first, last in zip(firsts, lasts, strict=True)}
        strides = {after - before for before, after in itertools.pairwise(firsts)}
        if len(widths) != 1 or len(strides) != 1:
            return None
        spans.append((firsts[0], widths.pop(), strides.pop()))
    return tuple(spans)
