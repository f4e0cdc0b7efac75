"""Peak memory of a model in a process of its own, as the operating system counts it.

The process is a fresh one: it imports what the model's runtime takes, loads the model with the class that a user would
use, and makes a few calls. `main` is that process.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psutil

from hfcompress.errors import RunError
from hfcompress.remote_code import trust_files, trusted_files
from hfcompress.runtimes import runtime_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hfcompress.contracts import Checkpoint, Format

__all__ = ["MemoryUse", "main", "peak_memory"]

_CALLS = 3
"""Calls of each kind: a runtime may plan its memory in the first one."""
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hfcompress.peak_memory import main; main()"
"""The process finds what this one finds, and nothing that happens to lie in the current folder."""
_LONGEST_REASON = 500


@dataclass(frozen=True)
class MemoryUse:
    """Resident memory of a process that loads a model and calls it.

    Attributes:
        peak_bytes: The most that it ever held: interpreter, libraries, model and calls, with mapped files.
        before_bytes: What it held before the model was loaded: the interpreter and the libraries, the module of the
            model's class among them, and the inputs.
    """

    peak_bytes: int
    before_bytes: int

    @property
    def model_bytes(self) -> int:
        """What loading and calling the model took beyond that."""
        return self.peak_bytes - self.before_bytes


def peak_memory(checkpoint: Checkpoint, calls: Sequence[Mapping[str, np.ndarray[Any, Any]]], threads: int) -> MemoryUse:
    """Load a checkpoint in a fresh process, call it, and return the memory that this took.

    Args:
        checkpoint: A folder of any format.
        calls: Arguments of the calls, each made a few times; of them the model is given those that it takes.
        threads: Threads that a call may use.

    Raises:
        RunError: The process failed or was killed; the text says with which words.
    """
    with tempfile.TemporaryDirectory(prefix="hfcompress-memory-") as name:
        folder = Path(name)
        files = [str(folder / f"{index}.npz") for index in range(len(calls))]
        for file, arrays in zip(files, calls, strict=True):
            np.savez(file, **cast("dict[str, Any]", dict(arrays)))
        answer = folder / "memory.json"
        request = {
            "path": str(checkpoint.path.resolve()),
            "format": checkpoint.format,
            "threads": threads,
            "calls": files,
            "trusted": trusted_files(),
            "answer": str(answer),
        }
        done = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-W", "ignore", "-c", _START, json.dumps(sys.path)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0 or not answer.is_file():
            msg = (
                f"the process that measures the peak memory of {checkpoint.path} ({checkpoint.format}) "
                f"{_ending(done.returncode)}: {_last_words(done.stderr)}; to go without this measure, say "
                "`benchmark: {memory: false}` in the recipe, or --no-memory"
            )
            raise RunError(msg)
        return MemoryUse(**json.loads(answer.read_text(encoding="utf-8")))


def main() -> None:
    """Do in a fresh process what the request on standard input says, and write the memory that it took."""
    request: dict[str, Any] = json.load(sys.stdin)
    trust_files(request["trusted"])
    path, checkpoint_format = Path(request["path"]), cast("Format", request["format"])
    calls = [dict(np.load(file)) for file in request["calls"]]
    runtime = runtime_of(checkpoint_format)
    runtime.load_class(path)  # imports the module of the class, which is no part of the model
    before = psutil.Process().memory_info().rss
    model = runtime.load(path, request["threads"])
    for arrays in calls:
        given = {name: array for name, array in arrays.items() if name in model.inputs}
        for _ in range(_CALLS):
            model(given)
    use = MemoryUse(peak_bytes=max(_peak_bytes(), before), before_bytes=before)
    Path(request["answer"]).write_text(json.dumps(asdict(use)), encoding="utf-8")


def _peak_bytes() -> int:
    """Return the most resident memory that this process ever held.

    On Linux `ru_maxrss` would not do: it keeps the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    killed = f"was killed by {signal.Signals(-code).name}"
    return f"{killed}, as by a system that runs out of memory" if -code == signal.SIGKILL else killed


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_LONGEST_REASON] if lines else "it left no message"
