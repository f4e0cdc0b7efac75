"""The client without its progress bars, for programs that show their own."""

from __future__ import annotations

from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined] # it is in its documentation

__all__ = ["hide_progress_bars"]


def hide_progress_bars() -> None:
    """Hide the bars of downloads, and those of transformers, which asks for the client's when it is imported.

    `HF_HUB_DISABLE_PROGRESS_BARS=0` shows them all the same.
    """
    disable_progress_bars()
