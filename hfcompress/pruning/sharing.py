"""Parameters that a model holds under several names: pruning one of its parts would change another unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfcompress.errors import PruningError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedModel

__all__ = ["other_names", "require_own"]


def other_names(model: PreTrainedModel) -> Mapping[str, tuple[str, ...]]:
    """Return the name of each parameter that has several → its other names, by which other modules hold it."""
    holders: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holders.setdefault(id(parameter), []).append(name)
    return {
        name: tuple(other for other in names if other != name)
        for names in holders.values()
        if len(names) > 1
        for name in names
    }


def require_own(model: PreTrainedModel, names: Iterable[str], what: str, inside: str = "") -> None:
    """Make sure that nothing else holds parameters that are about to change.

    Args:
        model: The model, on any device.
        names: Names of the parameters.
        what: What is about to be done, as it follows "so".
        inside: Module inside of which other names do no harm; none by default.

    Raises:
        PruningError: Another module holds one of them.
    """
    others = other_names(model)
    for name in sorted(names):
        for other in others.get(name, ()):
            if not inside or not other.startswith(f"{inside}."):
                msg = (
                    f"{name} and {other} are one parameter, so {what} would change both; "
                    f"leave this out of `towers`, or save the model with separate parameters first"
                )
                raise PruningError(msg)
