"""Large imports, and the models without memory that follow on them, made faster."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """Let no garbage be collected in a block or a function, which should not wait for anything.

    Imports of torch and transformers make none, nor do models on the meta device that matters, and looking for it takes
    a fifth of their time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
