"""What the layers of a model that is changed on the way get to see, without running all of it again for each of them.

Every pass is a forward pass of the whole model, by its own code. The blocks in it (the children of module lists) keep
what they returned; in the next pass a block returns that again instead of running, as long as neither its own weights
nor anything that ran before it has changed. The pass ends where the layer that was asked for has its inputs. Layers
that are asked for in the order in which they run thus cost two forward passes together, however deep the model is.

Only the last output of a stack of blocks is kept, for the earlier ones are read by blocks that do not run. In their
place stands a tensor that refuses to be read. Where a model reads one (LLaVA takes its features from the block before
the last) the pass starts over with all blocks running, and the outputs of that stack are all kept from then on.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils.generic import ModelOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from transformers import PreTrainedModel

__all__ = ["Reached", "Replay"]

_SCALARS = (type(None), bool, int, float, str)
_DESCRIBING = frozenset(
    [
        torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
        torch.Tensor.dtype.__get__,  # type: ignore[attr-defined]
        torch.Tensor.device.__get__,
        torch.Tensor.ndim.__get__,  # type: ignore[attr-defined]
        torch.Tensor.requires_grad.__get__,  # type: ignore[attr-defined]
        torch.Tensor.size,
        torch.Tensor.dim,
        torch.Tensor.is_floating_point,
    ]
)
"""What can be asked of a tensor without reading it."""


class Reached(Exception):  # noqa: N818 - no error
    """Ends a forward pass that has shown the inputs of a layer, which it was run for."""

    def __init__(self, inputs: torch.Tensor) -> None:
        super().__init__()
        self.inputs = inputs


class _AbsentRead(Exception):  # noqa: N818 - no error: the pass starts over
    def __init__(self, stacks: set[str]) -> None:
        super().__init__()
        self.stacks = stacks


class _Opaque(Exception):  # noqa: N818 - no error: the output is of a kind that cannot be kept
    pass


class _Absent(torch.Tensor):
    """Stands for an output that was not kept: it has its shape and its type, and raises when it is read."""

    stack: str

    @classmethod
    def of(cls, tensor: torch.Tensor, stack: str) -> _Absent:
        """Return a stand-in that takes no memory."""
        hollow = torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape).as_subclass(cls)
        hollow.stack = stack
        return hollow

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Any,  # noqa: ANN401 - the signature that torch asks for
        arguments: tuple[Any, ...] = (),
        keywords: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Answer what is known of the output."""
        del types
        if function in _DESCRIBING:
            with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001 - how torch's documentation does it
                return function(*arguments, **(keywords or {}))
        read = _tensors((arguments, keywords or {}))
        raise _AbsentRead({tensor.stack for tensor in read if isinstance(tensor, _Absent)})


@dataclass(frozen=True)
class _Segment:
    """A module that runs or returns what it returned before.

    Attributes:
        name: Dotted name.
        module: It.
        stack: Dotted name of the list of blocks that it is in, empty for what is no block.
    """

    name: str
    module: torch.nn.Module
    stack: str


@dataclass
class _Call:
    """One call of a segment in a pass.

    Attributes:
        segment: What was called.
        version: The versions of all weights that ran in it.
        inner: Segments that it called in turn.
        outputs: What it returned; `None` where that cannot be kept, so that it always runs.
        complete: Whether `outputs` are the real ones and not stand-ins.
        randomness: State of the random generator afterwards, where the call drew from it.
    """

    segment: _Segment
    version: tuple[Any, ...] = ()
    inner: list[_Segment] = field(default_factory=list)
    outputs: tuple[Any] | None = None
    complete: bool = True
    randomness: torch.Tensor | None = None


class Replay:
    """Runs batches through a model up to a layer, without what has not changed since the last time.

    A weight must be changed in place or replaced by another parameter; a change that goes through `.data[...]` is one
    that torch does not tell of.

    Args:
        model: The model, in evaluation mode. Its weights may change between two calls.
        batches: Arguments of its forward pass.
    """

    def __init__(self, model: PreTrainedModel, batches: Sequence[Mapping[str, Any]]) -> None:
        self._model = model
        self._batches = batches
        self._segments = _segments(model)
        self._traces: list[list[_Call]] = [[] for _ in batches]
        self._kept_stacks: set[str] = set()
        self._elsewhere: tuple[Any, ...] = ()
        self._storage = _Storage()

    @torch.no_grad()
    def inputs(self, layer: str) -> Iterator[torch.Tensor]:
        """Yield what a layer is first called with, batch by batch; nothing where the forward pass does not reach it."""
        versions = {segment.name: _version(segment.module) for segment in self._segments if segment.stack}
        elsewhere = self._version_elsewhere()
        if elsewhere != self._elsewhere:
            self._traces = [[] for _ in self._batches]
            self._elsewhere = elsewhere
        for index in range(len(self._batches)):
            inputs = self._pass(index, layer, versions)
            if inputs is None:
                return
            yield inputs

    def _version_elsewhere(self) -> tuple[Any, ...]:
        """Return the versions of all weights that are in no block."""
        inside = {id(tensor) for segment in self._segments if segment.stack for tensor in _state(segment.module)}
        return tuple((id(tensor), tensor._version) for tensor in _state(self._model) if id(tensor) not in inside)  # noqa: SLF001

    def _pass(self, index: int, layer: str, versions: Mapping[str, tuple[Any, ...]]) -> torch.Tensor | None:
        """Run one batch up to the layer."""
        trace = self._traces[index]
        if any(not call.complete and call.segment.stack in self._kept_stacks for call in trace):
            trace.clear()
        try:
            return self._attempt(index, layer, versions)
        except _AbsentRead as read:
            self._kept_stacks |= read.stacks
            trace.clear()
            return self._attempt(index, layer, versions)

    def _attempt(self, index: int, layer: str, versions: Mapping[str, tuple[Any, ...]]) -> torch.Tensor | None:
        run = _Pass(self._traces[index], layer, versions, self._kept_stacks, self._storage)

        def hear(_: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            raise Reached((*arguments, *keywords.values())[0])

        handle = self._model.get_submodule(layer).register_forward_pre_hook(hear, with_kwargs=True)
        try:
            with torch.random.fork_rng(devices=[]), _forwards_restored(self._model):
                torch.manual_seed(index)
                for segment in self._segments:
                    segment.module.forward = run.instead_of(segment)
                self._model(**self._batches[index])
        except Reached as reached:
            return reached.inputs
        finally:
            handle.remove()
        return None


class _Pass:
    """One forward pass: follows the trace of the last one as long as nothing has changed, and writes the rest anew."""

    def __init__(
        self,
        trace: list[_Call],
        layer: str,
        versions: Mapping[str, tuple[Any, ...]],
        kept_stacks: set[str],
        storage: _Storage,
    ) -> None:
        self._trace = trace
        self._layer = layer
        self._versions = versions
        self._kept_stacks = kept_stacks
        self._storage = storage
        self._done = 0
        self._running: _Call | None = None

    def instead_of(self, segment: _Segment) -> Callable[..., Any]:
        """Return what takes the place of a segment's forward for the pass."""
        forward = segment.module.forward

        @functools.wraps(forward)
        def call(*arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - as the module's own
            if self._running is not None:
                self._running.inner.append(segment)
                return forward(*arguments, **keywords)
            before = self._known(segment)
            if before is None or before.outputs is None or self._layer == segment.name or self._is_in(segment):
                return self._run(before, segment, forward, arguments, keywords)
            self._done += 1
            if before.randomness is not None:
                torch.set_rng_state(before.randomness)
            return _copy(before.outputs[0])

        return call

    def _is_in(self, segment: _Segment) -> bool:
        return self._layer.startswith(f"{segment.name}.")

    def _known(self, segment: _Segment) -> _Call | None:
        """Return the same call in the pass before, if it would give the same now; forget what follows if not."""
        if self._done < len(self._trace):
            call = self._trace[self._done]
            if call.segment is segment and call.version == self._version(call):
                return call
            del self._trace[self._done :]
        return None

    def _version(self, call: _Call) -> tuple[Any, ...]:
        return tuple(self._versions.get(segment.name, ()) for segment in (call.segment, *call.inner))

    def _run(
        self,
        before: _Call | None,
        segment: _Segment,
        forward: Callable[..., Any],
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
    ) -> Any:  # noqa: ANN401
        """Run the segment and note what it returns."""
        given = list(_tensors((arguments, keywords)))
        versions = [tensor._version for tensor in given]  # noqa: SLF001 - tells of changes in place
        randomness = torch.get_rng_state()
        self._running = _Call(segment)
        try:
            outputs = forward(*arguments, **keywords)
        finally:
            call, self._running = self._running, None
        self._done += 1
        if before is not None:
            return outputs
        call.version = self._version(call)
        after = torch.get_rng_state()
        call.randomness = None if torch.equal(randomness, after) else after
        self._forget(segment)
        untouched = versions == [tensor._version for tensor in given]  # noqa: SLF001
        if untouched and (segment.stack or _size(outputs) <= sum(tensor.numel() for tensor in given)):
            try:
                call.outputs = (_map(outputs, self._storage.keep),)
            except _Opaque:
                call.outputs = None
        self._trace.append(call)
        return outputs

    def _forget(self, segment: _Segment) -> None:
        """Drop what the block before this one in the same stack returned."""
        if not segment.stack or segment.stack in self._kept_stacks:
            return
        for call in reversed(self._trace):
            if call.segment.stack == segment.stack:
                if call.outputs is not None and call.complete:
                    self._storage.reuse(call.outputs)
                    call.outputs = (_map(call.outputs[0], lambda tensor: _Absent.of(tensor, segment.stack)),)
                    call.complete = False
                return


class _Storage:
    """Keeps copies of tensors where dropped ones were, for memory that is taken and freed in turn is soon in pieces."""

    def __init__(self) -> None:
        self._free: dict[tuple[Any, ...], list[torch.Tensor]] = {}

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a copy."""
        free = self._free.get(self._kind(tensor))
        return free.pop().copy_(tensor) if free else tensor.detach().clone()

    def reuse(self, dropped: tuple[Any]) -> None:
        """Take back the tensors of a structure that nobody will read any more."""
        for tensor in _tensors(dropped):
            self._free.setdefault(self._kind(tensor), []).append(tensor)

    @staticmethod
    def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
        return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _segments(model: torch.nn.Module) -> tuple[_Segment, ...]:
    """Return the largest modules without a module list in them; no two of them overlap."""
    found: dict[int, _Segment] = {}

    def visit(module: torch.nn.Module, path: str, stack: str) -> None:
        listing = isinstance(module, torch.nn.ModuleList)
        if not any(isinstance(inner, torch.nn.ModuleList) for inner in module.modules()):
            found.setdefault(id(module), _Segment(path, module, stack))
            return
        for name, child in module.named_children():
            visit(child, f"{path}.{name}" if path else name, path if listing else "")

    visit(model, "", "")
    return tuple(found.values())


@contextmanager
def _forwards_restored(model: torch.nn.Module) -> Iterator[None]:
    """Undo every replacement of a forward inside the block, also those that a pass left behind when it was ended."""
    before = {module: vars(module)["forward"] for module in model.modules() if "forward" in vars(module)}
    try:
        yield
    finally:
        for module in model.modules():
            vars(module).pop("forward", None)
        for module, forward in before.items():
            module.forward = forward


def _state(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _version(module: torch.nn.Module) -> tuple[Any, ...]:
    """Return something that differs once a weight of the module has changed."""
    return tuple((id(tensor), tensor.data_ptr(), tensor._version) for tensor in _state(module))  # noqa: SLF001


def _tensors(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors of a nested structure."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _size(value: object) -> int:
    return sum(tensor.numel() for tensor in _tensors(value))


def _copy(value: Any) -> Any:  # noqa: ANN401 - whatever a module returns
    """Return a copy that later changes in place do not reach; stand-ins are handed on."""
    return _map(value, lambda tensor: tensor if isinstance(tensor, _Absent) else tensor.detach().clone())


def _map(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:  # noqa: ANN401
    """Return the structure with every tensor changed.

    Raises:
        _Opaque: It holds something else than tensors and numbers.
    """
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, _SCALARS):
        return value
    if type(value) in {tuple, list}:
        return type(value)(_map(item, change) for item in value)
    if type(value) is dict or isinstance(value, ModelOutput):
        return type(value)(**{key: _map(item, change) for key, item in value.items()})
    raise _Opaque
