"""Names of an ONNX export's files: a part of the model, and the type of its weights as transformers.js spells it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ONNX_FOLDER", "graph_file", "runs_in_transformers_js"]

ONNX_FOLDER = "onnx"
"""Folder of the graphs inside a checkpoint, where transformers.js and optimum look for them."""

Weights: TypeAlias = Literal["float16", "int8", "int4"]

_SUFFIXES: dict[Weights, str] = {"float16": "_fp16", "int8": "_quantized", "int4": "_q4"}
"""What its `dtype` of "fp16", "q8" and "q4" looks for; "fp32" looks for the bare name."""
_WHOLES = (frozenset({"model"}), frozenset({"text_model", "vision_model"}), frozenset({"text_model", "audio_model"}))
"""Parts that it can run a model from."""


def graph_file(part: str, weights: Weights) -> str:
    """Return the file name of a graph.

    Args:
        part: What the graph holds: `model`, `vision_model`, `encoder_model`, ...
        weights: The smallest type that its weights have.
    """
    return f"{part}{_SUFFIXES[weights]}.onnx"


def runs_in_transformers_js(files: Iterable[str]) -> bool:
    """Whether transformers.js finds a whole model among the files of a checkpoint, in weights of one type.

    Args:
        files: Paths relative to the checkpoint's folder.
    """
    found = set(files)
    suffixes = ("", *_SUFFIXES.values())
    return any(
        {f"{ONNX_FOLDER}/{part}{suffix}.onnx" for part in whole} <= found for whole in _WHOLES for suffix in suffixes
    )
