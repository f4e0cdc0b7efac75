"""What a recipe can say of error correction and of an accuracy budget."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from hfcompress.contracts import Options

__all__ = ["By", "CorrectionOptions", "Metric", "SensitivityOptions"]

Metric: TypeAlias = Literal["cosine", "top1_agreement", "sqnr"]
By: TypeAlias = Literal["auto", "node", "block"]


class SensitivityOptions(Options):
    """An accuracy budget on the calibration rows, against the float graph."""

    max_drop: float = Field(
        gt=0.0, description="The most that a graph may lose, in the metric; as few nodes as that needs stay in float."
    )
    metric: Metric = Field(
        "cosine",
        description="cosine: 1 less the mean cosine of the outputs to those of the float graph; top1_agreement: the "
        "fraction of logits whose largest entry stands elsewhere (a graph without logits, such as an encoder, is held "
        "to cosine, and the report names the metric of each graph); sqnr: the power of the error as a fraction of the "
        "signal's, 0.001 for 30 dB.",
    )
    by: By = Field(
        "auto", description="What stays in float together: a node, or a block; auto takes nodes where they are few."
    )


class CorrectionOptions(Options):
    """Options of a quantizer that can correct what 8 bits lose. All of them look at calibration rows."""

    smooth: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] | None = Field(
        None,
        description="SmoothQuant's alpha: moves outliers of activations into the weights that read them; auto tries "
        "several on the calibration rows and keeps the best, which may be none.",
    )
    bias_correction: bool = Field(
        default=False, description="Take the mean error that quantization adds to each linear map off its bias."
    )
    sensitivity: SensitivityOptions | None = Field(
        None, description="Leave the most sensitive nodes in float until the loss is within a budget."
    )

    @property
    def corrects(self) -> bool:
        """Whether anything is corrected."""
        return self.smooth is not None or self.bias_correction or self.sensitivity is not None

    def correction_words(self) -> tuple[str, ...]:
        """Return one sentence for each correction, for a plan."""
        words = []
        if self.smooth is not None:
            words.append(f"smooth outliers of activations (alpha {self.smooth})")
        if self.bias_correction:
            words.append("correct the biases of linear maps")
        if self.sensitivity is not None:
            budget = self.sensitivity
            words.append(f"leave nodes in float until a graph loses at most {budget.max_drop:g} ({budget.metric})")
        return tuple(words)
