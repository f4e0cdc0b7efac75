"""What rounding to fewer bits did to the weights of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    Array: TypeAlias = np.ndarray[Any, Any]

__all__ = ["Rounding", "rounded"]


@dataclass(frozen=True)
class Rounding:
    """What rounding did to the weights of a model.

    Attributes:
        weights: Number of weights that were rounded.
        changed: Number of those that have another value than before.
        largest_error: Largest difference of any weight.
        largest_error_of: Name of the tensor that holds it.
    """

    weights: int
    changed: int
    largest_error: float
    largest_error_of: str


def rounded(tensors: Iterable[tuple[str, Array, Array]]) -> Rounding:
    """Tell what rounding did.

    Args:
        tensors: Name of a tensor, its values before, and those after; both finite, in float32.
    """
    weights = changed = 0
    largest, largest_of = 0.0, "none"
    for name, before, after in tensors:
        if before.size:
            error = np.abs(after - before)
            weights += error.size
            changed += int(np.count_nonzero(error))
            if float(error.max()) > largest:
                largest, largest_of = float(error.max()), name
    return Rounding(weights, changed, largest, largest_of)
