"""Batches kept on disk: rows pass through processors and encoders once, and through graphs as often as is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    Array: TypeAlias = np.ndarray[Any, Any]

__all__ = ["Spool"]


class Spool:
    """Writes batches to a folder and gives them again, one at a time, each time that it is called.

    Args:
        folder: An empty folder.
        batches: Arrays by the name of a graph's input.
    """

    def __init__(self, folder: Path, batches: Iterable[Mapping[str, Array]]) -> None:
        self._files: list[Path] = []
        for number, batch in enumerate(batches):
            file = folder / f"{number}.npz"
            with file.open("wb") as stream:
                np.savez(stream, allow_pickle=False, **batch)
            self._files.append(file)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._files)

    def __call__(self) -> Iterator[dict[str, Array]]:
        """Iterate over the batches from the first."""
        for file in self._files:
            with np.load(file) as arrays:
                yield {name: arrays[name] for name in arrays.files}
