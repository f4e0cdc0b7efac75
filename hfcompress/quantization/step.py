"""The `quantize` step: hands over to the quantizer of the runtime that the recipe names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field

from hfcompress.contracts import AnyOptions, Forecast, Format, Json, Options, Step
from hfcompress.registry import QUANTIZERS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hfcompress.contracts import Checkpoint, StepContext

__all__ = ["Quantize", "QuantizeOptions"]


def _known_quantizer(name: str) -> str:
    QUANTIZERS.provider(name)
    return name


class QuantizeOptions(Options):
    """The one option that every quantizer has; the quantizer's own options validate the rest."""

    model_config = ConfigDict(extra="allow", frozen=True)

    runtime: Annotated[str, AfterValidator(_known_quantizer)] = Field(
        description="Where the result will run; `hfcompress list` names all quantizers."
    )


class Quantize(Step):
    """Quantizes through optimum for the runtime that the recipe names."""

    Options: ClassVar[AnyOptions] = QuantizeOptions

    def __init__(self, options: Any) -> None:  # noqa: ANN401 - the options of the quantizer
        super().__init__(options)
        self._quantizer = QUANTIZERS.get(options.runtime)(options)

    @classmethod
    def options_model(cls, given: Mapping[str, Any]) -> AnyOptions:
        """Return the options of the quantizer that `runtime` names, or those that say what is wrong with the name."""
        runtime = given.get("runtime")
        return QUANTIZERS.get(runtime).Options if isinstance(runtime, str) and runtime in QUANTIZERS else cls.Options

    @property
    def accepts(self) -> frozenset[Format]:
        """What the quantizer takes."""
        return self._quantizer.accepts

    @property
    def produces(self) -> Format:
        """What the quantizer gives."""
        return self._quantizer.produces

    @property
    def extra(self) -> str | None:
        """The extra that the quantizer needs."""
        return self._quantizer.extra

    def forecast(self, before: Forecast) -> Forecast:
        """Say what the quantizer will change."""
        return self._quantizer.forecast(before)

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Quantize `checkpoint` into `output`."""
        return self._quantizer.apply(checkpoint, output, context)
