"""Attention heads, found by what depends on what in a forward pass and not by the names of modules.

The pass runs on the zero twin of a model (see `zero_twin`) with two changes: every layer gives random numbers
that depend on nothing, and so does every softmax. What lies between is then a set of small separate computations. In
one of them the outputs of some layers become attention scores of shape (rows, heads, queries, keys); in another the
attention probabilities and the outputs of a layer become the input of the next one. Derivatives tell which channels
of each layer belong to which head: those of fused, interleaved or shared (grouped-query) projections just as well, and
the columns of tables of relative position biases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
from hfcompress.pruning.head_patterns import head_units, joined_channels, leaves_of, over, spans_of, touched
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
            leaves = leaves_of(given)
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
        leaves = {id(leaf): leaf for leaf in (*leaves_of(attention.scores), *leaves_of(given))}
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
        sources = list({id(leaf): leaf for leaf in (*leaves_of(scores), *leaves_of(given))}.values())
        sources = [leaf for leaf in sources if leaf is not probabilities]
        above = touched(scores, sources, self._generator)
        channels, *below = touched(read, [mixed, *sources], self._generator)
        patterns = [up | down for up, down in zip(above, below, strict=True)]
        units = head_units(
            [over(channels, -1), *(self._by_channel(*pair) for pair in zip(sources, patterns, strict=True))]
        )
        if units is None:
            return None
        members = list(self._members(sources, patterns, units))
        producers = [member for member in members if member.role == "produces"]
        spans = spans_of(joined_channels(units, over(channels, -1)))
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
        return over(pattern, -1) if id(leaf) in self._layers else pattern.flatten(1)

    def _members(self, sources: list[Tensor], patterns: list[Tensor], units: Tensor) -> Iterator[Member]:
        """Yield the side of every layer and table that has channels of its own for each unit."""
        for leaf, pattern in zip(sources, patterns, strict=True):
            layer = self._layers.get(id(leaf))
            if layer is None:
                yield from self._table(leaf, pattern, units)
                continue
            for span in spans_of(joined_channels(units, over(pattern, -1))) or ():
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
            spans = spans_of(joined_channels(units, over(pattern, dimension + 1)))
            if name and spans is not None:
                yield from (Member(owner, "follows", ((name, dimension),), *span) for span in spans)
                return


def _is_norm(module: torch.nn.Module) -> bool:
    """Whether a module scales and shifts channels one by one after a normalisation, by what it is called."""
    return "Norm" in type(module).__name__ and all(weight.dim() == 1 for weight in module.parameters())
