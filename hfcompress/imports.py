"""Large imports, and the models without memory that follow on them, made faster."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["start_uncollected", "uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """Let no garbage be collected in a block or a function, which should not wait for anything.

    Imports of torch and transformers make none, nor do models on the meta device that matters, and looking for it takes
    a fifth of their time.
    """
    if not gc.isenabled():  # whoever disabled it enables it again, at any moment
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def start_uncollected(seconds: float) -> None:
    """Let no garbage be collected in the first seconds of a program, most of which imports take.

    What runs longer works with large tensors, whose cycles must not pile up.
    """
    gc.disable()
    again = threading.Timer(seconds, gc.enable)
    again.daemon = True
    again.start()
