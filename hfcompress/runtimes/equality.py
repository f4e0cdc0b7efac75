"""Whether an export computes what its model does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hfcompress.errors import QuantizationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TOLERANCE", "check_equal"]

TOLERANCE = 1e-3
"""Largest difference between an export and its model, as a fraction of the largest output, that is accepted.

Both compute in float32 and differ by the order of their sums alone: by at most 1e-5 on every family that works.
"""


def check_equal(
    kind: str, expected: Mapping[str, np.ndarray[Any, Any]], found: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Compare the outputs of an export with those of its model on the same inputs.

    Args:
        kind: The model's class, for the error.
        expected: The model's outputs; those that are to be compared.
        found: The export's outputs.

    Raises:
        QuantizationError: The model gives something that is not finite, or the export gives something else.
    """
    if missing := sorted(expected.keys() - found.keys()):
        msg = f"the export is not the {kind}: it lacks the outputs {', '.join(missing)}; it has {', '.join(found)}"
        raise QuantizationError(msg)
    for name, value in expected.items():
        if not np.isfinite(value).all():
            msg = f"the output {name!r} of the {kind} itself is not finite on plain noise; its weights are broken"
            raise QuantizationError(msg)
        if found[name].shape != value.shape:
            msg = f"the export is not the {kind}: its output {name!r} is {found[name].shape} and not {value.shape}"
            raise QuantizationError(msg)
        off = float(np.abs(found[name] - value).max()) / max(float(np.abs(value).max()), 1e-6)
        if not off <= TOLERANCE:
            msg = (
                f"the export is not the {kind}: its output {name!r} differs by {off:.3g} of its scale (at most "
                f"{TOLERANCE:g} is accepted)"
            )
            raise QuantizationError(msg)
