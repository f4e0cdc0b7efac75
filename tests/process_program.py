"""A program that `test_processes.py` has two processes run: a failure that is overcome, work, and a lost process."""

from __future__ import annotations

import os
import signal
import sys

from hfcompress.contracts import Progress
from hfcompress.errors import DataError, HfcompressError
from hfcompress.processes import assembled, led, own, together


def _squares(progress: Progress, count: int, failing: int | None) -> list[int]:
    """Square numbers, one of which cannot be."""
    found = []
    for number in progress.track(own(count), count, "numbers"):
        if number == failing:
            msg = f"{number} has no square"
            raise DataError(msg)
        found.append(number**2)
    return assembled(found, count)


def _gone(progress: Progress) -> list[int]:
    """End all processes but the main one without a word."""
    del progress
    if 0 not in (numbers := own(2)):
        os.kill(os.getpid(), signal.SIGKILL)
    return assembled([*numbers], 2)


def _serve() -> None:
    """Overcome a failure of another process, square some numbers, and lose that process."""
    try:
        together(_squares, Progress(), 4, 3)
    except DataError as error:
        print(error, [together(_squares, Progress(), count, None) for count in (1, 2, 5)], flush=True)  # noqa: T201
    together(_gone, Progress())


if __name__ == "__main__":
    try:
        led(_serve)
    except HfcompressError as error:
        sys.exit(f"{type(error).__name__}: {error}")
