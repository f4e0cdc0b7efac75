"""Where the bytes of a checkpoint's weights are: in which tower, as far as names of tensors and nodes tell."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from hfcompress.anatomy import find_towers, load_config, meta_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from hfcompress.contracts import Checkpoint

__all__ = ["OTHER", "tower_bytes"]

OTHER = "other"
"""What belongs to no tower, or whose name tells of none, and the graphs themselves."""
_HEADER_LENGTH = 8
_STEPS = 4
"""Nodes between a weight and the one that is named for its module: type conversions, scales, transpositions."""
_ROLES = ("encoder", "decoder")
"""Parts of a model that exporters write into files of their own, as the names of these files begin."""


def tower_bytes(checkpoint: Checkpoint, source: Path) -> dict[str, int]:
    """Return the bytes of the weights of each tower; of encoder and decoder where the configuration is not composite.

    In a transformers checkpoint tensors are named for their modules. In an export a weight may have a number for a
    name, but the node that reads it is named for its module. An encoder and a decoder in files of their own are told
    apart by the files, so weights that two files hold count twice, as they do on the disk.

    Args:
        checkpoint: The checkpoint.
        source: The transformers checkpoint that it was made from, whose configuration names the towers.
    """
    tower_of = _namer(source)
    found: dict[str, int] = defaultdict(int)
    files = _FILES[checkpoint.format]
    for path in sorted(file for pattern in files for file in checkpoint.path.glob(pattern)):
        role = next((role for role in _ROLES if path.name.removeprefix("openvino_").startswith(role)), None)
        for names, size in _READERS[path.suffix](path, tower_of):
            found[role or next((tower for name in names if (tower := tower_of(name))), OTHER)] += size
    return dict(found)


def _namer(source: Path) -> Callable[[str], str | None]:
    """Return a function from the dotted name of a tensor or a node to the tower that it belongs to."""
    model = meta_model(load_config(source))
    parts = {tower.module: tower.name for tower in find_towers(model) if tower.module}
    if not parts:
        parts = {
            name: name for name, module in model.base_model.named_children() if any(True for _ in module.parameters())
        }
    # a tower may hang below another module in an export, or in a checkpoint that an earlier version wrote
    short = {module.rpartition(".")[2]: name for module, name in parts.items()}
    known = sorted((parts | short).items(), key=lambda item: -len(item[0]))

    def tower_of(name: str) -> str | None:
        padded = f".{name.replace('/', '.')}."
        return next((tower for module, tower in known if f".{module}." in padded), None)

    return tower_of


def _safetensors(path: Path, _: object) -> Iterator[tuple[list[str], int]]:
    """Yield name and bytes of each tensor, from the file's header alone."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            yield [name], stop - start
    yield [], _HEADER_LENGTH + length


def _onnx(path: Path, tower_of: Callable[[str], str | None]) -> Iterator[tuple[list[str], int]]:
    """Yield the names that tell of each initializer, and its bytes; the graph itself comes last, without a name."""
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    graph = onnx.load(path, load_external_data=False).graph
    readers: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    inside = 0
    for tensor in graph.initializer:
        bits = 4 if tensor.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.UINT4} else None
        count = math.prod(tensor.dims)
        size = (count + 1) // 2 if bits else count * tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        inside += 0 if tensor.data_location == onnx.TensorProto.EXTERNAL else size

        def following(name: str) -> Iterable[tuple[str, list[str]]]:
            return ((node.name, list(node.output)) for node in readers[name])

        yield _names(tensor.name, following, tower_of), size
    yield [], max(path.stat().st_size - inside, 0)


def _openvino(path: Path, tower_of: Callable[[str], str | None]) -> Iterator[tuple[list[str], int]]:
    """Yield the names that tell of each constant, and its bytes; the graph itself comes last, without a name."""
    import openvino

    model = openvino.Core().read_model(path)
    nodes: Mapping[str, Any] = {node.get_friendly_name(): node for node in model.get_ops()}

    def following(name: str) -> Iterable[tuple[str, list[str]]]:
        for output in nodes[name].outputs():
            for read in output.get_target_inputs():
                reader = read.get_node().get_friendly_name()
                yield reader, [reader]

    for name, node in nodes.items():
        if node.get_type_name() == "Constant":
            yield _names(name, following, tower_of), node.get_byte_size()
    yield [], path.stat().st_size


def _names(
    name: str, following: Callable[[str], Iterable[tuple[str, list[str]]]], tower_of: Callable[[str], str | None]
) -> list[str]:
    """Return the nearest name that tells of a tower: that of a weight, or of a node that it goes to; else none."""
    if tower_of(name):
        return [name]
    values = [name]
    for _ in range(_STEPS):
        ahead = [reader for value in values for reader in following(value)]
        told = [reader for reader, _ in ahead if tower_of(reader)]
        if told:
            return told[:1]
        values = list(dict.fromkeys(value for _, outputs in ahead for value in outputs))
    return []


_FILES = {
    "transformers": ("model.safetensors", "model-*-of-*.safetensors"),
    "onnx": ("**/*.onnx",),
    "openvino": ("**/openvino*.xml",),
}
_READERS: dict[str, Callable[[Path, Callable[[str], str | None]], Iterator[tuple[list[str], int]]]] = {
    ".safetensors": _safetensors,
    ".onnx": _onnx,
    ".xml": _openvino,
}
