"""`use: round-weights`: keep only the leading mantissa bits of every weight, as a number format with fewer would."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from hfcompress.contracts import Checkpoint, Forecast, Format, Json, Options, Step, StepContext

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class RoundWeightsOptions(Options):
    """What a recipe can say of `use: round-weights`."""

    bits: int = Field(7, ge=1, le=22, description="Mantissa bits that are kept; 7 is the precision of bfloat16.")


class RoundWeights(Step):
    """Rounds the floating-point weights of a transformers checkpoint; their type on disk stays."""

    Options: ClassVar[type[RoundWeightsOptions]] = RoundWeightsOptions
    options: RoundWeightsOptions
    accepts: ClassVar[frozenset[Format]] = frozenset({"transformers"})
    produces: ClassVar[Format] = "transformers"

    def forecast(self, before: Forecast) -> Forecast:
        """Say that the values change and the shapes stay."""
        return dataclasses.replace(before, changes=(f"every weight keeps {self.options.bits} mantissa bits",))

    def apply(self, checkpoint: Checkpoint, output: Path, context: StepContext) -> dict[str, Json]:
        """Copy the checkpoint into `output` with rounded weights; report how many there are."""
        from safetensors import safe_open
        from safetensors.torch import save_file

        shutil.copytree(checkpoint.path, output, dirs_exist_ok=True)
        rounded = 0
        for path in context.progress.track(files := sorted(output.rglob("*.safetensors")), len(files), "round weights"):
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                metadata = file.metadata()
            floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
            save_file(tensors | {name: self._rounded(tensor) for name, tensor in floating.items()}, path, metadata)
            rounded += sum(tensor.numel() for tensor in floating.values())
        return {"rounded": rounded, "bits": self.options.bits}

    def _rounded(self, weight: Tensor) -> Tensor:
        mantissa, exponent = weight.float().frexp()
        scale = 2.0 ** (self.options.bits + 1)
        return ((mantissa * scale).round() / scale).ldexp(exponent).to(weight.dtype)
