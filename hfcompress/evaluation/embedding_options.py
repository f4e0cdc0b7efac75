"""What a recipe can say of every task that compares embeddings."""

from __future__ import annotations

from pydantic import Field

from hfcompress.contracts import TaskOptions

__all__ = ["EmbeddingOptions"]


class EmbeddingOptions(TaskOptions):
    """Options of every task that compares embeddings."""

    workers: int = Field(
        0, ge=0, description="Processes that decode and process images or sounds beside the model; 0: a thread."
    )
