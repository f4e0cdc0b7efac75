"""What transformers calls to load a checkpoint whose shapes no stock configuration can say.

transformers has one door for "the layers are not the stock ones": a quantization method that somebody registers. So the
record of the shapes is a quantization config and its loader a quantizer, although nothing is quantized. `hfcompress`
imports this module as soon as transformers' registry is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers.auto import AutoHfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from hfcompress.narrowing import NarrowRecord, narrow
from hfcompress.nibbles import pack_described, unpack
from hfcompress.quantized import QUANT_METHOD, described_tensors, require_readers

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
    """Gives a stock model its narrow layers before its weights are loaded, and then leaves an ordinary model behind.

    Where the record says that the weights are quantized, transformers' own quantizer of that method reads and writes
    them, and stays with the model.
    """

    quantization_config: NarrowConfig

    def __init__(self, quantization_config: NarrowConfig, **kwargs: Any) -> None:  # noqa: ANN401 - handed on to transformers
        super().__init__(quantization_config, **kwargs)
        self._method = quantization_config.record.weights
        self._inner: HfQuantizer | None = None

    def validate_environment(self, *args: object, **kwargs: object) -> None:
        """Check that the quantized weights, if they are, can be read here.

        Raises:
            MissingExtraError: What reads them is not installed.
        """
        if self._method is None:
            return
        require_readers(self._method.get("quant_method"))
        self._inner = AutoHfQuantizer.from_config(self._method, pre_quantized=True)
        self._inner.validate_environment(*args, **kwargs)

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: object) -> None:
        narrow(model, self.quantization_config.record)
        if self._inner is not None:
            self._inner._process_model_before_weight_loading(model, **kwargs)  # noqa: SLF001 - stands in for it

    def get_weight_conversions(self) -> list[Any]:
        """Return how the tensors of the file become weights."""
        return [] if self._inner is None else self._unpacked_first(self._inner.get_weight_conversions())  # type: ignore[attr-defined] # version 5

    def update_weight_conversions(self, weight_conversions: list[Any], model: PreTrainedModel) -> list[Any]:
        """Add to the conversions of the architecture those of the quantized weights."""
        if self._inner is None:
            return weight_conversions
        return self._unpacked_first(self._inner.update_weight_conversions(weight_conversions, model))  # type: ignore[attr-defined] # version 5

    def _unpacked_first(self, conversions: list[Any]) -> list[Any]:
        """Let the conversions of quantized weights begin with giving each value of 4 bits its own byte."""
        for conversion in conversions:
            operations = getattr(conversion, "operations", [])
            if any(getattr(operation, "hf_quantizer", None) is self._inner for operation in operations):
                operations.insert(0, _unpacking())
        return conversions

    def get_state_dict_and_metadata(self, model: PreTrainedModel, *args: object) -> tuple[Any, dict[str, str]]:
        """Return the tensors and the description that are saved."""
        if self._inner is None:
            return None, {}
        tensors, metadata = self._inner.get_state_dict_and_metadata(model, *args)
        described = described_tensors(metadata)
        return pack_described(tensors, described), described

    def postprocess_model(self, model: PreTrainedModel, **_: object) -> None:
        """Take away what marks a quantized model, unless it is one, so that casts and training work.

        Its configuration keeps the record.
        """
        if self._inner is None:
            self.remove_quantization_config(model)
        model.config.quantization_config = self.quantization_config.to_dict()

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: object) -> None:
        """Do nothing: what comes after loading is `postprocess_model`'s."""

    def is_serializable(self, safe_serialization: bool | None = None) -> bool:  # noqa: ARG002, FBT001 - transformers' form
        """Return that such a model can be saved."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Whether such a model can be trained: as any other, unless its weights are quantized."""
        return self._method is None


def _unpacking() -> Any:  # noqa: ANN401 - a class of version 5, which mypy does not see in version 4
    """Return the operation that gives each value of 4 bits its own byte, before torchao's reader sees it."""
    from transformers.core_model_loading import ConversionOps  # type: ignore[import-not-found]

    class Unpack(ConversionOps):  # type: ignore[misc]
        def convert(self, input_dict: dict[str, Any], **_: object) -> dict[str, Any]:
            return {name: [_unpacked(tensor) for tensor in tensors] for name, tensors in input_dict.items()}

    return Unpack()


def _unpacked(tensor: torch.Tensor) -> torch.Tensor:
    return unpack(tensor) if tensor.dtype == torch.uint8 else tensor
