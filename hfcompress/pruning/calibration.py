"""What a model's layers see on calibration rows."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers.pytorch_utils import Conv1D

from hfcompress.errors import DataError, PruningError
from hfcompress.inputs import possible_inputs
from hfcompress.processes import in_turn, own
from hfcompress.pruning.compensation import CovarianceAccumulator
from hfcompress.pruning.objective import Gradients, gradients, sensitivities, token_labels
from hfcompress.pruning.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from transformers import PreTrainedModel, ProcessorMixin

    from hfcompress.contracts import Rows

__all__ = ["Calibration", "call_arguments"]


class Calibration:
    """Runs calibration rows through a model up to a layer, batch by batch.

    Where several processes prune together, each runs its own batches, and all see the inputs of all of them in order.

    Args:
        model: The model, as pruned as it is by then.
        processor: Turns rows into inputs.
        rows: Calibration rows.
        batch_size: Rows in one forward pass.

    Raises:
        DataError: The rows lack what the model reads.
    """

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, rows: Rows, batch_size: int) -> None:
        self._model = model
        self._batches = [call_arguments(model, possible_inputs(processor, batch)) for batch in rows.batches(batch_size)]
        try:
            with torch.no_grad():
                model(**self._batches[0])
        except (TypeError, ValueError, AttributeError) as error:
            given = ", ".join(sorted(rows.dataset.column_names))
            msg = (
                f"the model does not run on the calibration rows, whose columns {given} give "
                f"{', '.join(self._batches[0]) or 'no input'}: {error}; map the columns it needs with "
                f"`columns: {{image: ..., text: ...}}`"
            )
            raise DataError(msg) from error
        self._replay = Replay(model, [self._batches[number] for number in own(len(self._batches))])

    @property
    def batches(self) -> Sequence[Mapping[str, Any]]:
        """The rows as arguments of forward passes."""
        return self._batches

    def covariance(self, layer: str, weights: Sequence[torch.Tensor] | None = None) -> CovarianceAccumulator:
        """Accumulate the inputs of a layer over all rows; the count is 0 where the forward pass does not reach it.

        Layers are best asked for in the order in which they run, see `Replay`.

        Args:
            layer: Name of a linear layer.
            weights: How much each row counts, batch by batch, as `sensitivities` gives them; `None` for one each.

        Raises:
            PruningError: An input is not finite, or there is not one weight for each row.
        """
        module = self._model.get_submodule(layer)
        shape = module.get_parameter("weight").shape
        accumulated = CovarianceAccumulator(shape[0] if isinstance(module, Conv1D) else shape[1], exact=False)
        for index, inputs in enumerate(in_turn(self._replay.inputs(layer), len(self._batches))):
            if weights is not None and weights[index].shape != inputs.shape[:-1]:
                msg = f"{layer} sees other rows than those that its weights were measured on; weigh the rows alike"
                raise PruningError(msg)
            inputs = inputs.movedim(1, -1) if isinstance(module, torch.nn.Conv2d) else inputs  # noqa: PLW2901
            accumulated.add(inputs.float(), None if weights is None else weights[index])
        if not torch.isfinite(accumulated.total).all():
            msg = f"the inputs of {layer} are not finite on the calibration rows"
            raise PruningError(msg)
        return accumulated

    def sensitivities(
        self, layers: Sequence[str], projections: int = 2, seed: int = 0
    ) -> dict[str, tuple[torch.Tensor, ...]]:
        """Return how much each row of each layer should count in a refit; see `objective.sensitivities`."""
        return sensitivities(self._model, self._batches, layers, projections, seed)

    def gradients(self, parameters: Sequence[str], power: Literal[1, 2] = 2, seed: int = 0) -> dict[str, Gradients]:
        """Differentiate the model's own objective by some of its parameters; see `objective.gradients`."""
        return gradients(self._model, self._batches, parameters, power, seed)


def call_arguments(model: PreTrainedModel, made: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Return what the model takes of the inputs that were made.

    A decoder that takes no text beside what it writes is given the text as labels, from which it makes its own inputs.
    """
    names = inspect.signature(model.forward).parameters
    tensors = {name: torch.from_numpy(array) for name, array in made.items()}
    arguments: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if name in names}
    if "input_ids" in tensors and "input_ids" not in names and "labels" in names:
        arguments["labels"] = token_labels(tensors["input_ids"], tensors.get("attention_mask"), model.config)
        arguments.pop("attention_mask", None)  # it is the text's, and the model's is that of its other input
    if "use_cache" in names:
        arguments["use_cache"] = False
    return arguments
