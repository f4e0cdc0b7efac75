"""What a configuration says of who quantized the weights, and what it takes to read them."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from hfcompress.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PretrainedConfig

__all__ = [
    "QUANT_METHOD",
    "described_tensors",
    "quantization_fields",
    "quantization_method",
    "readers",
    "require_float",
    "require_readers",
]

QUANT_METHOD = "hfcompress"
"""Name under which transformers looks for whoever rebuilds the layers."""

_READERS = {"torchao": ("torchao>=0.18", "transformers>=5")}
"""Method → what reads its weights from safetensors; version 4 of transformers knows torchao's as a pickle alone."""


def quantization_fields(config: PretrainedConfig) -> dict[str, Any]:
    """Return the field as a dictionary: transformers makes it an object in configurations that it has loaded from."""
    fields = getattr(config, "quantization_config", None)
    if fields is None:
        return {}
    return dict(fields) if isinstance(fields, dict) else dict(fields.to_dict())


def quantization_method(config: PretrainedConfig) -> str | None:
    """Return the method by which the weights were quantized ("torchao"), `None` where they are floating-point numbers.

    Our own record of shapes is no quantization; the weights under such a record can be quantized.
    """
    fields = quantization_fields(config)
    if fields.get("quant_method") == QUANT_METHOD:
        fields = fields.get("weights") or {}
    method = fields.get("quant_method")
    return None if method is None else str(getattr(method, "value", method))


def require_float(config: PretrainedConfig) -> None:
    """Check that a step can read the weights of a model.

    Raises:
        CheckpointError: They are quantized.
    """
    if (method := quantization_method(config)) is not None:
        msg = (
            f"the weights are quantized with {method!r}, and a step takes floating-point weights; put the step before "
            f"the one that quantizes, or start from the checkpoint that was quantized"
        )
        raise CheckpointError(msg)


def readers(method: str | None) -> tuple[str, ...]:
    """Return the requirements, beside torch and transformers of any version, to load weights of a method."""
    return _READERS.get(method or "", ())


def require_readers(method: str | None) -> None:
    """Check that weights of a method can be read here.

    Raises:
        MissingExtraError: Something is missing or too old; the text holds the command that installs it.
    """
    wanted = [Requirement(line) for line in readers(method)]
    got = {one: _installed(one.name) for one in wanted}
    lacking = [one for one, found in got.items() if not one.specifier.contains(found or "0", prereleases=True)]
    if lacking:
        here = ", ".join(f"{one.name} {got[one]}" if got[one] else f"no {one.name}" for one in lacking)
        msg = (
            f"weights of {method!r} are kept in safetensors, and read from there, by "
            f"{' and '.join(readers(method))} alone ({here} is installed): "
            f"pip install {' '.join(repr(str(one)) for one in lacking)}"
        )
        raise MissingExtraError(msg)


def described_tensors(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return torchao's description of a safetensors file without the tensors that are ordinary ones.

    Its reader stumbles over the name of one that has no dot in it, as `logit_scale`, and needs none of them.
    """
    names = json.loads(metadata.get("tensor_names", "[]"))
    kept = {name: metadata[name] for name in names if json.loads(metadata[name])["_type"] != "Tensor"}
    return {**kept, "tensor_names": json.dumps(list(kept))}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
