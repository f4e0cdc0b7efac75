"""The proofs that stand between a pruned model and its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfcompress.anatomy import load_model
from hfcompress.errors import ProofError
from hfcompress.outputs import run
from hfcompress.pruning.skipping import run_features, shared_outputs
from hfcompress.pruning.surgery import compare_outputs, rebuild

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from hfcompress.probes import Probe

__all__ = ["outputs_of", "rebuilt_and_proven", "saved_and_proven"]

_REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError)
"""What a model raises that cannot run with the shapes it has."""


def outputs_of(model: PreTrainedModel, probes: Sequence[Probe]) -> dict[str, torch.Tensor]:
    """Return all that a model, its parts and its `get_image_features` and the like give on the probes."""
    return {**run(model, probes), **run_features(model, probes)}


def rebuilt_and_proven(
    masked: PreTrainedModel, config: PretrainedConfig, state: Mapping[str, torch.Tensor], probes: Sequence[Probe]
) -> tuple[PreTrainedModel, float]:
    """Build the pruned model and make sure that it does what the masked one does.

    Args:
        masked: The source, in which all that goes is silenced or skipped.
        config: The configuration of the pruned model.
        state: Its weights.
        probes: Inputs of the source, or of its parts.

    Returns:
        The pruned model, and the largest difference of any output relative to the output's scale.

    Raises:
        ProofError: The weights do not fit the configuration, or the two models differ.
    """
    expected = outputs_of(masked, probes)
    pruned = rebuild(config, dict(state))
    try:
        got = outputs_of(pruned, probes)
    except _REFUSALS as error:
        msg = f"the pruned model does not run, so what was to go cannot: {type(error).__name__}: {error}"
        raise ProofError(msg) from error
    return pruned, compare_outputs(*shared_outputs(expected, got))


def saved_and_proven(model: PreTrainedModel, output: Path, dtype: torch.dtype, probes: Sequence[Probe]) -> None:
    """Save a model, load it again with the class that its configuration names, and compare the two.

    Args:
        model: The model, in float32; its weights are rounded to `dtype`.
        output: The folder.
        dtype: What the weights of the source were stored in.
        probes: Inputs of the model, or of its parts.

    Raises:
        ProofError: The loaded model gives other outputs.
        CheckpointError: The folder cannot be loaded.
    """
    model.to(dtype).save_pretrained(output)  # type: ignore[arg-type]
    expected = outputs_of(model.float(), probes)
    compare_outputs(expected, outputs_of(load_model(output), probes), ("the saved folder", "the pruned model"))
