"""Batches kept on disk: rows pass through processors and encoders once, and through graphs as often as is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hfcompress.errors import QuantizationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    Array: TypeAlias = np.ndarray[Any, Any]

__all__ = ["Spool", "spool"]


class Spool:
    """Keeps batches in a folder and gives them, one at a time and from the first, each time that it is called.

    Args:
        folder: Where they are kept; it is made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: list[Path] = []

    def add(self, batch: Mapping[str, Array]) -> None:
        """Keep one more batch: arrays by the name of a graph's input."""
        file = self._folder / f"{len(self._files)}.npz"
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


def spool(folder: Path, feeds: Iterable[tuple[str, Mapping[str, Array]]], graphs: Collection[str]) -> dict[str, Spool]:
    """Keep the batches of several graphs.

    Args:
        folder: Where they are kept.
        feeds: The name of a graph and one batch of its inputs, batch by batch.
        graphs: Names of the graphs.

    Raises:
        QuantizationError: A graph was given no inputs.
    """
    found = {name: Spool(folder / name) for name in graphs}
    for name, batch in feeds:
        if name in found:
            found[name].add(batch)
    empty = [name for name, batches in found.items() if len(batches) == 0]
    if empty:
        msg = f"the calibration rows gave no inputs for {', '.join(empty)}, so its errors cannot be measured"
        raise QuantizationError(msg)
    return found
