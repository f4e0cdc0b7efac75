"""A run on several processes, as `accelerate launch` starts them.

The main process leads: it runs the whole program, and it alone writes, prints and pushes. The others serve: they wait
for a function that the main process wants to run `together`, run it at the same time on the same arguments, and wait
for the next one. Inside of such a function each process takes its `own` batches, and `assembled` puts what came of
them in order again. The batches are those that one process would work through, so the numbers are the same.

An error of any process is raised in all of them, in place of the results of the exchange that follows it. So nobody
waits for a process that has failed, and the main process tells what went wrong.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from hfcompress.contracts import Progress
from hfcompress.errors import HfcompressError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "assembled",
    "gathered",
    "in_turn",
    "launched",
    "leads",
    "led",
    "led_by_main",
    "lone_launch",
    "one_after_another",
    "own",
    "together",
]

P = ParamSpec("P")
T = TypeVar("T")

_WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say how many processes they have started, in the order in which accelerate looks."""
_PATIENCE = timedelta(days=30)
"""How long a process waits for the others: a step of the main process may take a night."""


@dataclass
class _Group:
    """The processes of this run.

    Attributes:
        count: How many there are.
        rank: The number of this one; 0 is the main process.
        is_led: Whether the others wait for what the main process wants to run.
        is_together: Whether all of them run the same function now.
    """

    count: int = 1
    rank: int = 0
    is_led: bool = False
    is_together: bool = False


_group = _Group()


@dataclass(frozen=True)
class _Job:
    """What the main process wants all of them to run."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class _End:
    """What became of the program that the main process ran; the others return or raise it too."""

    result: Any = None
    error: HfcompressError | None = None


@dataclass(frozen=True)
class _Sent:
    """What a process gives in an exchange: a value, or the error that ended its work."""

    value: Any = None
    error: HfcompressError | None = None


class _PeerFailed(Exception):  # noqa: N818 - no error of its own
    """Ends the work of a process because another one has failed, or is gone."""

    def __init__(self, error: HfcompressError) -> None:
        super().__init__()
        self.error = error


def launched() -> bool:
    """Whether a launcher has started several processes; imports nothing."""
    return next((int(os.environ[name]) for name in _WORLD if os.environ.get(name, "").isdigit()), 1) > 1


def lone_launch() -> bool:
    """Whether `accelerate launch` was asked for several processes and has started this one alone.

    It does so where it finds no devices and is not told to start several with `--multi_gpu`, which works without any.
    """
    return not launched() and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys()


def led(program: Callable[[], T]) -> T:
    """Run a program in the main process while the others serve; all return what it returns, or raise its error.

    Where no launcher has started several processes, or they are led already, the program just runs.

    Raises:
        HfcompressError: The program raised it in the main process.
    """
    if _group.is_led or not launched():
        return program()
    _join()
    try:
        return _lead(program) if _group.rank == 0 else _serve()
    finally:
        _group.is_led = False


def led_by_main(program: Callable[P, T]) -> Callable[P, T]:
    """Have every call of a function be led, see `led`."""

    @functools.wraps(program)
    def run(*arguments: P.args, **keywords: P.kwargs) -> T:
        return led(functools.partial(program, *arguments, **keywords))

    return run


def together(function: Callable[..., T], progress: Progress, *arguments: Any) -> T:  # noqa: ANN401 - of the function
    """Run a function of a module in all processes and return what it returns in the main process.

    Args:
        function: Is given `progress` and the arguments, the same in all processes.
        progress: Hears how far the main process is; the others are silent.
        arguments: Can be pickled.

    Raises:
        HfcompressError: The function failed in one of the processes.
    """
    if not _group.is_led or _group.is_together:
        return function(progress, *arguments)
    try:
        _broadcast(_Job(function, arguments))
    except _PeerFailed as failed:
        raise failed.error from failed
    return _run(function, progress, arguments)


def own(count: int) -> range:
    """Return which of `count` batches this process works on: every one where it is alone."""
    return range(_group.rank, count, _group.count) if _group.is_together else range(count)


def assembled(results: Sequence[T], count: int) -> list[T]:
    """Return what became of all batches, in their order, given what became of this process's own ones.

    Raises:
        HfcompressError: Another process failed on one of its batches.
    """
    if not _group.is_together:
        return [*results]
    parts = gathered([*results])
    return [parts[number % _group.count][number // _group.count] for number in range(count)]


def gathered(value: T) -> list[T]:
    """Return what each process gives, by their numbers; the value alone where this one is alone.

    Raises:
        HfcompressError: Another process failed before it gave anything.
    """
    return _exchange(_Sent(value)) if _group.is_together else [value]


def in_turn(results: Iterable[T], count: int) -> Iterator[T]:
    """Yield what becomes of all batches in their order, a round of the processes at a time.

    Args:
        results: Makes what becomes of this process's own batches, one after the other, and may end early.
        count: Number of all batches.

    Raises:
        HfcompressError: Another process failed on one of its batches.
    """
    if not _group.is_together:
        yield from results
        return
    made = iter(results)
    for _ in range(-(-count // _group.count)):
        yield from (part for part in gathered(next(made, None)) if part is not None)


def one_after_another(make: Callable[[], T]) -> T:
    """Call a function in one process at a time, because it writes where the others do, and return what it returns.

    Raises:
        HfcompressError: It failed in another process.
    """
    made: list[T] = []
    for rank in range(_group.count if _group.is_together else 1):
        if rank == _group.rank or not _group.is_together:
            made.append(make())
        gathered(None)
    return made[0]


def leads() -> bool:
    """Whether this is the main process, or the only one: the one that writes."""
    return not _group.is_together or _group.rank == 0


def _join() -> None:
    """Meet the other processes; on processors, since nothing here computes elsewhere."""
    from accelerate import PartialState

    state = PartialState(cpu=True, timeout=_PATIENCE)
    _group.count, _group.rank, _group.is_led = state.num_processes, state.process_index, True
    atexit.register(_leave)


def _leave() -> None:
    """Part from the other processes: torch's threads for them may abort an interpreter that ends while they live."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _lead(program: Callable[[], T]) -> T:
    try:
        result = program()
    except Exception as error:  # of any kind, or the others would wait for ever
        with contextlib.suppress(_PeerFailed):
            _broadcast(_End(error=_told(error)))
        raise
    _broadcast(_End(result))
    return result


def _serve() -> Any:  # noqa: ANN401 - what the program returns
    while True:
        try:
            message = _broadcast(None)
        except _PeerFailed as failed:
            raise failed.error from failed
        if isinstance(message, _Job):
            try:
                _run(message.function, Progress(), message.arguments)
            except HfcompressError:
                continue  # the main process has it too, and decides what comes next
        elif message.error is not None:
            raise message.error
        else:
            return message.result


def _run(function: Callable[..., T], progress: Progress, arguments: tuple[Any, ...]) -> T:
    """Run a function that all processes run."""
    _group.is_together = True
    try:
        result = function(progress, *arguments)
        _exchange(_Sent())
    except _PeerFailed as failed:
        raise failed.error from failed
    except Exception as error:  # of any kind, or the others would wait for ever
        told = _told(error)
        with contextlib.suppress(_PeerFailed):
            _exchange(_Sent(error=told))
        if _group.rank == 0:  # whose errors come first
            raise
        raise told from error
    finally:
        _group.is_together = False
    return result


def _exchange(sent: _Sent) -> list[Any]:
    """Give what this process has and return what all have, by their numbers.

    Raises:
        _PeerFailed: One of them has failed, or is gone.
    """
    from accelerate.utils import gather_object

    with _connected():
        parts: list[_Sent] = gather_object([sent])
    for part in parts:
        if part.error is not None:
            raise _PeerFailed(part.error)
    return [part.value for part in parts]


def _broadcast(message: object) -> Any:  # noqa: ANN401 - what the main process sends
    """Send a message of the main process to all, and return it.

    Raises:
        _PeerFailed: One of them is gone.
    """
    from accelerate.utils import broadcast_object_list

    with _connected():
        (received,) = broadcast_object_list([message])
    return received


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Turn what torch raises when another process does not answer into an error that says so."""
    try:
        yield
    except RuntimeError as error:
        msg = (
            f"process {_group.rank} of {_group.count} lost another one, which ended without an error of its own; its "
            f"memory may not suffice for so many processes: {error}"
        )
        raise _PeerFailed(RunError(msg)) from error


def _told(error: Exception) -> HfcompressError:
    """Return an error in a form that travels; one that nobody raised on purpose says where it came from."""
    if isinstance(error, HfcompressError):
        return error
    if os.environ.get("HFCOMPRESS_DEBUG") == "1":
        traceback.print_exception(error)
    return RunError(f"process {_group.rank} of {_group.count} failed: {type(error).__name__}: {error}")
