"""Files of ONNX graphs, which the weights leave where one file would become too large."""

from __future__ import annotations

import mmap
import os
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model

from hfcompress.containment import is_contained
from hfcompress.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.descriptor import Descriptor

__all__ = ["EXTERNAL_DATA_BYTES", "check_external_data", "remove_graph", "save_graph", "weights_bytes"]

EXTERNAL_DATA_BYTES = 2**31 - 2**26
"""Protocol buffers hold less than 2 GiB, of which 64 MiB are left to the nodes; more weights lie beside the graph."""

_SMALL_BYTES = 1024
"""Weights of fewer bytes stay in the graph: shapes and axes, which ONNX's own inference reads there."""

_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""How protocol buffers write a field: as a number, as bytes behind their count, or in as many bytes as stand here."""


def weights_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of a graph's weights.

    A model cannot be asked for its own size: to tell it, protocol buffers serialize it, and fail beyond 2 GiB.
    """
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def save_graph(model: onnx.ModelProto, path: Path, limit_bytes: int = EXTERNAL_DATA_BYTES) -> bool:
    """Write a graph, with its weights in `<file name>_data` beside it if they exceed `limit_bytes`.

    What lay there before is replaced. The model is left as it was.

    Returns:
        Whether the weights lie beside it.
    """
    remove_graph(path)  # onnx writes behind the weights that are there
    data = _data(path)
    if weights_bytes(model) <= limit_bytes:
        onnx.save(model, path)
        return False
    onnx.save(model, path, save_as_external_data=True, location=data.name, size_threshold=_SMALL_BYTES)
    load_external_data_for_model(model, str(path.parent))  # saving took the weights out of the model
    return True


def remove_graph(path: Path) -> None:
    """Remove a graph, and its weights where they lie beside it; what is not there stays so."""
    path.unlink(missing_ok=True)
    _data(path).unlink(missing_ok=True)


def _data(path: Path) -> Path:
    return path.with_name(f"{path.name}_data")


def check_external_data(folder: Path) -> None:
    """Make sure that the graphs in a folder keep their weights in it.

    The graphs are not parsed, for that would take twice their weights of memory before the first of them is loaded.

    Raises:
        CheckpointError: A graph names a file elsewhere or one that is not there, or is not an ONNX graph.
    """
    for graph in sorted(path for path in folder.rglob("*.onnx") if path.is_file()):
        for location in sorted(_locations(graph)):
            named = PureWindowsPath(location)  # which knows the paths of POSIX too
            odd = "\0" in location or "*" in location  # ONNX Runtime marks addresses of memory with a star
            if odd or named.anchor or ".." in named.parts or not is_contained(folder, graph.parent / location):
                msg = (
                    f"{graph}: got weights in {location!r}, expected a file beside the graph in {folder}, which "
                    "no path and no link leads out of; fetch the checkpoint again from somebody you trust"
                )
                raise CheckpointError(msg)
            if not os.path.isfile(graph.parent / location):  # noqa: PTH113 - a name too long for a file is none here
                msg = f"{graph}: its weights are in {location!r}, and there is no such file; fetch the checkpoint again"
                raise CheckpointError(msg)


def _locations(graph: Path) -> set[str]:
    """Return where the weights of a graph lie that are not in it, whichever part of it they belong to."""
    if graph.stat().st_size == 0:
        return set()
    found: set[str] = set()
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        waiting: list[tuple[Descriptor, int, int]] = [(onnx.ModelProto.DESCRIPTOR, 0, len(content))]
        try:
            while waiting:
                kind, start, end = waiting.pop()
                for number, first, last in _messages(content, start, end):
                    field = kind.fields_by_number.get(number)
                    if field is None or field.message_type is None:
                        continue
                    if kind is onnx.TensorProto.DESCRIPTOR and field.name == "external_data":
                        entry = onnx.StringStringEntryProto.FromString(content[first:last])
                        found.update([entry.value] if entry.key == "location" else [])
                    else:
                        waiting.append((field.message_type, first, last))
        except (DecodeError, IndexError, ValueError) as error:
            msg = f"{graph} is not an ONNX graph: {error}; fetch the checkpoint again"
            raise CheckpointError(msg) from error
    return found


def _messages(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a serialized message that can hold another message.

    Raises:
        ValueError: The bytes are no message.
        IndexError: They end too early.
    """
    place = start
    while place < end:
        tag, place = _varint(content, place)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, place = _varint(content, place)
            if place + length > end:
                msg = f"field {number} at byte {place} is longer than what holds it"
                raise ValueError(msg)
            yield number, place, place + length
            place += length
        elif wire == _VARINT:
            _, place = _varint(content, place)
        elif wire in _FIXED:
            place += _FIXED[wire]
        else:
            msg = f"field {number} at byte {place} has no type that protocol buffers know"
            raise ValueError(msg)


def _varint(content: mmap.mmap, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the least of them first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:  # noqa: PLR2004 - the bit that says that more follow
            return value, place
    msg = f"a number at byte {place} has more than 64 bits"
    raise ValueError(msg)
