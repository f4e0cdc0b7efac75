"""What a model's layers see on calibration rows."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from transformers.pytorch_utils import Conv1D

from hfcompress.errors import DataError, PruningError
from hfcompress.inputs import possible_inputs
from hfcompress.pruning.compensation import CovarianceAccumulator
from hfcompress.pruning.replay import Replay

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from hfcompress.contracts import Rows

__all__ = ["Calibration"]


class Calibration:
    """Runs calibration rows through a model up to a layer, batch by batch.

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
        names = frozenset(inspect.signature(model.forward).parameters)
        self._batches = [
            {
                name: torch.from_numpy(array)
                for name, array in possible_inputs(processor, batch).items()
                if name in names
            }
            for batch in rows.batches(batch_size)
        ]
        try:
            with torch.no_grad():
                model(**{name: tensor[:1] for name, tensor in self._batches[0].items()})
        except (TypeError, ValueError, AttributeError) as error:
            given = ", ".join(sorted(rows.dataset.column_names))
            msg = (
                f"the model does not run on the calibration rows, whose columns {given} give "
                f"{', '.join(self._batches[0]) or 'no input'}: {error}; map the columns it needs with "
                f"`columns: {{image: ..., text: ...}}`"
            )
            raise DataError(msg) from error
        self._replay = Replay(model, self._batches)

    def covariance(self, layer: str) -> CovarianceAccumulator:
        """Accumulate the inputs of a layer over all rows; the count is 0 where the forward pass does not reach it.

        Raises:
            PruningError: An input is not finite.
        """
        module = self._model.get_submodule(layer)
        shape = module.get_parameter("weight").shape
        accumulated = CovarianceAccumulator(shape[0] if isinstance(module, Conv1D) else shape[1], exact=False)

        for inputs in self._replay.inputs(layer):
            accumulated.add(inputs.float())
        if not torch.isfinite(accumulated.total).all():
            msg = f"the inputs of {layer} are not finite on the calibration rows"
            raise PruningError(msg)
        return accumulated
