"""Promises of locks: one holder, who is named, and none once its process is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from hfcompress.errors import BusyError
from hfcompress.locks import held

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from hfcompress.locks import held
with held(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.readline()
"""


def _holder(lock: Path) -> subprocess.Popen[str]:
    """Return a process that holds a lock until it reads a line."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_other_process_is_named(tmp_path: Path) -> None:
    """Who does not want to wait is told which process holds the lock."""
    with _holder(tmp_path / "a.lock") as holder:
        with (
            pytest.raises(
                BusyError, match=rf"^the door is in use by another run \(process {holder.pid}\); wait"
            ) as busy,
            held(tmp_path / "a.lock", "the door"),
        ):
            pass
        assert busy.value.pid == holder.pid
        holder.communicate("\n")


def test_killed_holder_keeps_nobody_out(tmp_path: Path) -> None:
    """The lock of a killed process can be taken at once, though its file is still there."""
    with _holder(tmp_path / "a.lock") as holder:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert (tmp_path / "a.lock").exists()
    with held(tmp_path / "a.lock", "the door"):
        assert (tmp_path / "a.pid").read_text(encoding="ascii") == str(os.getpid())


def test_nothing_is_left(tmp_path: Path) -> None:
    """The lock's files are gone after the block, also after an error in it."""
    message = "no"
    with pytest.raises(RuntimeError, match=r"^no$"), held(tmp_path / "a.lock", "the door"):
        raise RuntimeError(message)
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_with_the_holder(tmp_path: Path) -> None:
    """Who waits is told once for whom, and has the lock when the other lets go."""
    told: list[BusyError] = []
    with _holder(tmp_path / "a.lock") as holder:

        def release(busy: BusyError) -> None:
            told.append(busy)
            assert holder.stdin is not None
            holder.stdin.write("\n")
            holder.stdin.flush()

        with held(tmp_path / "a.lock", "the door", release):
            holder.wait()
        assert [busy.pid for busy in told] == [holder.pid]


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    """Many who take and remove the same lock never hold it together."""
    inside: list[int] = []
    most: list[int] = []

    def take() -> None:
        for _ in range(20):
            with held(tmp_path / "a.lock", "the door", lambda _: None):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (80, 1)
