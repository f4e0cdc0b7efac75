"""What transformers calls to load a checkpoint whose shapes no stock configuration can say.

transformers has one door for "the layers are not the stock ones": a quantization method that somebody registers. So the
record of the shapes is a quantization config and its loader a quantizer, although nothing is quantized. `hfcompress`
imports this module as soon as transformers' registry is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hfcompress.narrowing import QUANT_METHOD, NarrowRecord, narrow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["NarrowConfig", "NarrowLoader"]


@register_quantization_config(QUANT_METHOD)
class NarrowConfig(QuantizationConfigMixin):
    """A `NarrowRecord` in the form that transformers hands to a quantizer.

    Args:
        fields: What stands under `quantization_config` in `config.json`.

    Raises:
        CheckpointError: That is not a record.
    """

    def __init__(self, **fields: Any) -> None:  # noqa: ANN401 - JSON, validated by the record
        self.quant_method = QUANT_METHOD  # type: ignore[assignment] # a method of ours is not in transformers' enum
        self.record = NarrowRecord.from_dict(fields)

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in `config.json`."""
        return self.record.to_dict()

    def get(self, key: str, default: object = None) -> object:
        """Return one field: transformers reads a configuration that it has loaded from before as a dictionary."""
        return self.to_dict().get(key, default)


@register_quantizer(QUANT_METHOD)
class NarrowLoader(HfQuantizer):
    """Gives a stock model its narrow layers before its weights are loaded, and then leaves an ordinary model behind."""

    quantization_config: NarrowConfig

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: object) -> None:
        narrow(model, self.quantization_config.record)

    def postprocess_model(self, model: PreTrainedModel, **_: object) -> None:
        """Take away what marks a quantized model, so that casts and training work; its config keeps the record."""
        self.remove_quantization_config(model)
        model.config.quantization_config = self.quantization_config.to_dict()

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: object) -> None:
        """Do nothing: what comes after loading is `postprocess_model`'s."""

    def is_serializable(self, safe_serialization: bool | None = None) -> bool:  # noqa: ARG002, FBT001 - transformers' form
        """Return that such a model can be saved: its weights are ordinary ones."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether such a model can be trained: as any other."""
        return True
