"""Promises of the pauses of the garbage collector: none lasts longer than was asked."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from hfcompress.imports import uncollected

if TYPE_CHECKING:
    from tests.conftest import Python

STARTED = """
import gc, threading
from hfcompress.imports import start_uncollected, uncollected
start_uncollected(0.2)
before = gc.isenabled()
with uncollected():
    (timer,) = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    timer.join()
    print(before, gc.isenabled())
print(gc.isenabled())
"""


def test_a_block() -> None:
    """Nothing is collected in the block, and everything again after it, however it ends."""
    found = []

    @uncollected()
    def work() -> None:
        found.append(gc.isenabled())
        int("no number")

    with pytest.raises(ValueError, match="no number"):
        work()
    assert (found, gc.isenabled()) == ([False], True)


def test_the_first_seconds(python: Python) -> None:
    """The collector comes back after the first seconds of a program, and a block that began before does not stop it."""
    assert python("-c", STARTED).stdout == "False True\nTrue\n"
