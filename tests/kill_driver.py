"""Runs a recipe again and again in forked processes, each killed at another point, and finishes each with one more run.

`python -m tests.kill_driver RECIPE OLD FOLDER` imports everything once and forks from there, so that a run takes a
second or two. A point is the beginning of a stage, an operation on a file (SIGKILL before it), or a write (the kernel
ends the process at a byte in the middle of it: RLIMIT_FSIZE, and SIGXFSZ as the system has it by default). Nothing in
the package knows of this: operations are seen through an audit hook.

OLD is an artifact, which is in the output folder before. The driver writes `FOLDER/points.json`; the artifacts are
`FOLDER/reference/out` and `FOLDER/NUMBER/out`. At some points `datasets` is killed while it prepares the rows, in a
cache of its own, `FOLDER/NUMBER-datasets`; elsewhere the rows are prepared already.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch

from hfcompress import pipeline
from hfcompress.contracts import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_AT_ONCE = 2
PREPARED = "-datasets"
"""What the folder of prepared rows has behind the name of a run's own."""


@dataclass(frozen=True)
class Point:
    """Where a run ends.

    Attributes:
        stage: The stage of the run.
        event: Number of the operation, or -1 for the beginning of the stage.
        what: The operation.
        limit: Bytes that any file may have from there on; `None` ends the run before the operation.
        prepares: Whether the operation is one of `datasets`, which prepares the rows; they have numbers of their own.
    """

    stage: str
    event: int
    what: str
    limit: int | None = None
    prepares: bool = False


class Recorder(Progress):
    """Numbers the operations of a run on files below a folder, and ends the process at one."""

    def __init__(self, folder: Path, point: Point | None) -> None:
        self.events: list[tuple[str, str]] = []
        self.prepared: list[tuple[str, str]] = []
        self.stages: list[str] = []
        self._folder = str(folder)
        self._point = point
        sys.addaudithook(self._hear)

    def stage(self, name: str) -> None:
        """End the process here, if this is the point."""
        self.stages.append(name)
        if self._point is not None and (self._point.event, self._point.stage) == (-1, name):
            os.kill(os.getpid(), signal.SIGKILL)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _OPERATIONS or not self.stages or not str(args[0]).startswith(self._folder):
            return
        if event == "open" and not args[2] & _WRITES:
            return
        what = str(args[0])[len(self._folder) :]
        prepares = what.startswith(PREPARED)
        events = self.prepared if prepares else self.events
        if self._point is not None and (self._point.prepares, self._point.event) == (prepares, len(events)):
            if self._point.limit is None:
                os.kill(os.getpid(), signal.SIGKILL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._point.limit, self._point.limit))
        events.append((self.stages[-1], f"{event} {what}"))


def forked(work: Callable[[], None]) -> int:
    """Do some work in a process of its own and return its wait status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - the border of a process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder, nothing if there is no folder."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def run(recipe: Path, folder: Path, point: Point | None, record: Path | None = None, *, prepares: bool = False) -> None:
    """Run the recipe into `folder/out` with a cache of its own, and with another of its own for rows if it prepares."""
    if prepares:
        datasets.config.HF_DATASETS_CACHE = folder.with_name(folder.name + PREPARED)
    os.environ["HFCOMPRESS_CACHE"] = str(folder / "cache")
    recorder = Recorder(folder, point)
    pipeline.run(recipe, output=folder / "out", progress=recorder)
    if record is not None:
        seen = {
            "stages": recorder.stages,
            "events": recorder.events,
            "prepared": recorder.prepared,
            "modules": list(sys.modules),
        }
        record.write_text(json.dumps(seen), encoding="utf-8")


def chosen(stages: list[str], events: list[tuple[str, str]]) -> list[Point]:
    """Return points over all of a run: the beginning of each stage, operations in each that has some, and writes."""
    points = [Point(stage, -1, "the beginning") for stage in stages]
    for stage in stages:
        own = [index for index, (where, _) in enumerate(events) if where == stage]
        share = (0.25, 0.5, 0.75, 1) if stage == "report" else (0.5, 1) if stage.startswith("step") else (0.5,)
        points += [
            _point(events, index) for index in sorted({own[int(part * (len(own) - 1))] for part in share if own})
        ]
    for ending in ("manifest.json", "/files/model.safetensors", "/config.json", "before_after.png", "report.json"):
        first = next(index for index, (_, what) in enumerate(events) if what.startswith("open") and ending in what)
        points.append(_point(events, first, 64))
    # native code opens its files unseen: it is caught by the size of what it writes
    step = next(index for index, (_, what) in enumerate(events) if what.endswith(".partial/step-1"))
    return [*points, _point(events, step, 100_000)]


def preparing(events: list[tuple[str, str]]) -> list[Point]:
    """Return points while `datasets` prepares rows: inside of the file that holds them, and before that is named."""
    own = [index for index, (_, what) in enumerate(events) if ".incomplete" in what]
    return [_point(events, own[0], 10_000, prepares=True), _point(events, own[-1], prepares=True)]


def _point(events: list[tuple[str, str]], index: int, limit: int | None = None, *, prepares: bool = False) -> Point:
    stage, what = events[index]
    return Point(stage, index, what, limit, prepares)


def killed_and_finished(recipe: Path, old: Path, folder: Path, point: Point) -> None:
    """Kill one run at the point, look at what it left, and run it once more."""
    shutil.copytree(old, folder / "out")
    status = forked(lambda: run(recipe, folder, point, prepares=point.prepares))
    left = contents(folder / "out")
    prepared = sorted(contents(folder.with_name(folder.name + PREPARED)))
    finished = forked(lambda: run(recipe, folder, None, prepares=point.prepares))
    rows = {**asdict(point), "status": status, "left": left, "prepared": prepared, "finished": finished}
    (folder / "point.json").write_text(json.dumps(rows), encoding="utf-8")


def main(recipe: Path, old: Path, folder: Path) -> None:
    """Run once undisturbed, then for each point."""
    torch.set_num_threads(1)
    reference = folder / "reference"
    shutil.copytree(old, reference / "out")
    if forked(lambda: run(recipe, reference, None, folder / "events.json", prepares=True)) != 0:
        sys.exit("the undisturbed run failed")
    recorded = json.loads((folder / "events.json").read_text(encoding="utf-8"))
    for module in recorded["modules"]:
        with suppress(ImportError, AttributeError):
            importlib.import_module(module)
    points = chosen(recorded["stages"], [(stage, what) for stage, what in recorded["events"]])
    points += preparing([(stage, what) for stage, what in recorded["prepared"]])
    running: set[int] = set()
    for number, point in enumerate(points):
        if len(running) == _AT_ONCE:
            running.discard(os.wait()[0])
        child = os.fork()
        if child == 0:
            killed_and_finished(recipe, old, folder / str(number), point)
            os._exit(0)
        running.add(child)
    while running:
        running.discard(os.wait()[0])
    rows = [json.loads((folder / str(number) / "point.json").read_text()) for number in range(len(points))]
    (folder / "points.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
