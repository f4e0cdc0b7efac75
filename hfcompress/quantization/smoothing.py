"""SmoothQuant on ONNX graphs: outliers of an activation move into the weights that read it (Xiao et al. 2022).

Channel j of an activation X is divided by s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), and row j of the weights W that
read it is multiplied by s_j. The graph computes what it did before, and the one scale for all channels of X no longer
spends most of its steps on an outlier. The division costs nothing at run time: it goes into the scale and shift of the
normalization before, or into the columns of the linear map before. Where neither is possible the activation is left.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper

from hfcompress.errors import ProofError, QuantizationError
from hfcompress.quantization.fidelity import largest_difference
from hfcompress.quantization.probing import channel_maxima
from hfcompress.quantization.wiring import LinearMap, Wiring, linear_maps
from hfcompress.runtimes.onnx_files import remove_graph, save_graph

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from hfcompress.quantization.probing import Batches

    Array: TypeAlias = np.ndarray[Any, Any]

__all__ = ["Smoothed", "Smoother"]

_NORMALIZATIONS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "SkipLayerNormalization": (2, 3),
    "SkipSimplifiedLayerNormalization": (2,),
}
"""Normalizations over the last axis: which of their inputs are scale and shift."""
_HOMOGENEOUS = {"Identity", "Cast", "Dropout", "Relu", "LeakyRelu"}
"""f(x / s) = f(x) / s for s > 0."""
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}
"""They leave values as they are and may move channels, so a path with one of them is proven before it is used."""
_SMALLEST = 1e-5
"""Least magnitude of a channel that counts, as in the authors' code."""
_TOLERANCE = 1e-4
"""Most that outputs may change, relative to their scale, where only the order of roundings differs; deep models add up
many."""


@dataclass(frozen=True)
class _Division:
    """An input of a node that is divided, channel by channel: a vector, or a weight along one of its axes."""

    node: int
    place: int
    axis: int


@dataclass(frozen=True)
class _Way:
    """What to divide before a tensor so that its channels are divided, and whether channels may move on the way."""

    divisions: list[_Division]
    moved: bool


@dataclass(frozen=True)
class _Group:
    """An activation whose channels can be scaled."""

    activation: str
    width: int
    readers: tuple[LinearMap, ...]
    divisions: tuple[_Division, ...]
    moved: bool


@dataclass(frozen=True)
class Smoothed:
    """What was scaled.

    Attributes:
        activations: Number of activations whose channels were scaled.
        left: Number of activations that quantized linear maps read and that nothing before them can divide.
    """

    activations: int
    left: int


class Smoother:
    """Finds once what can be scaled and by how much it varies, and then makes smoothed graphs for any alpha.

    Args:
        path: The float graph.
        quantized: Names of the nodes that will be quantized.
        batches: Calibration rows.
        scratch: A folder for temporary graphs.

    Raises:
        QuantizationError: An activation is not finite on the calibration rows.
    """

    def __init__(self, path: Path, quantized: Collection[str], batches: Batches, scratch: Path) -> None:
        self._path, self._batches, self._scratch = path, batches, scratch
        model = onnx.load(path)
        groups, self._candidates = _groups(model, frozenset(quantized))
        self._maxima = channel_maxima(model, {group.activation: group.width for group in groups}, batches, scratch)
        broken = [name for name, value in self._maxima.items() if not np.isfinite(value).all()]
        if broken:
            msg = f"the activation {broken[0]} is not finite on the calibration rows, so it cannot be smoothed"
            raise QuantizationError(msg)
        self._groups = self._proven(model, groups)

    def smooth(self, strength: float, output: Path) -> Smoothed:
        """Write the graph smoothed with one alpha.

        Args:
            strength: alpha, from 0 (the scales follow the weights alone) to 1 (they follow the activations alone).
            output: File of the smoothed graph.

        Raises:
            ProofError: The smoothed graph computes something else than the float graph; the file is removed.
        """
        model = onnx.load(self._path)
        wiring = Wiring(model)
        scales = {
            group.activation: _scale(group, self._maxima[group.activation], strength, wiring) for group in self._groups
        }
        _apply(model, self._groups, scales)
        save_graph(model, output)
        differs = largest_difference(self._path, output, self._batches, at_most=1)
        if differs > _TOLERANCE:
            remove_graph(output)
            msg = (
                f"smoothing with {strength} changes an output of {self._path.name} by {differs:.1e} of its scale (at "
                f"most {_TOLERANCE:.0e} is accepted); use `smooth: null`"
            )
            raise ProofError(msg)
        return Smoothed(len(self._groups), self._candidates - len(self._groups))

    def _proven(self, model: onnx.ModelProto, groups: list[_Group]) -> list[_Group]:
        """Leave out the activations on whose way channels move, unless scaling all of these changes no output."""
        moved = [group for group in groups if group.moved]
        if not moved:
            return groups
        trial = onnx.ModelProto()
        trial.CopyFrom(model)
        random = np.random.default_rng(0)
        _apply(trial, moved, {group.activation: random.uniform(0.5, 2.0, group.width) for group in moved})
        draft = self._scratch / "proof.onnx"
        save_graph(trial, draft)
        differs = largest_difference(self._path, draft, self._batches, at_most=1)
        remove_graph(draft)
        if differs <= _TOLERANCE:
            return groups
        return [group for group in groups if not group.moved]


def _groups(model: onnx.ModelProto, quantized: frozenset[str]) -> tuple[list[_Group], int]:
    """Return the activations that can be scaled, and how many there are that quantized linear maps read."""
    wiring = Wiring(model)
    maps = list(linear_maps(model, wiring))
    places = {id(node): place for place, node in enumerate(model.graph.node)}
    by_activation: dict[str, list[LinearMap]] = defaultdict(list)
    for item in maps:
        if item.node in quantized:
            by_activation[item.activation].append(item)
    search = _Search(wiring, {item.output: item for item in maps}, places)
    groups = []
    for activation, readers in by_activation.items():
        if activation in wiring.outputs or len(wiring.readers[activation]) != len(readers):
            continue
        weights = Counter(item.weight for item in readers)
        if any(search.weight_readers(weight) != count for weight, count in weights.items()):
            continue  # the weight also multiplies another activation, whose channels are not scaled
        found = search.divisions(activation, readers[0].inputs)
        if found is not None:
            groups.append(_Group(activation, readers[0].inputs, tuple(readers), tuple(found.divisions), found.moved))
    return groups, len(by_activation)


class _Search:
    """Looks for what before a tensor can divide its channels."""

    def __init__(self, wiring: Wiring, maps: dict[str, LinearMap], places: dict[int, int]) -> None:
        self._wiring, self._maps, self._places = wiring, maps, places

    def weight_readers(self, weight: str) -> int:
        """Return how many nodes read a weight, also through transpositions."""
        count = 0
        for node in self._wiring.readers[weight]:
            if node.op_type in {"Transpose", "Identity"} and node.input[0] == weight:
                count += self.weight_readers(node.output[0])
            else:
                count += 1
        return count

    def divisions(self, tensor: str, width: int) -> _Way | None:
        """Return what to divide so that the channels of a tensor are divided, if anything can be."""
        node = self._wiring.producers.get(tensor)
        if node is None:
            return None
        if tensor in self._maps:
            return self._linear(self._maps[tensor], width)
        if node.op_type in _NORMALIZATIONS:
            return self._normalization(node, width)
        if node.op_type in {"Add", "Mul"}:
            return self._elementwise(node, width)
        return self._through(node, width)

    def _elementwise(self, node: onnx.NodeProto, width: int) -> _Way | None:
        """Divide a scale or a shift; where two activations are multiplied (a gated layer), divide one of them."""
        constant = [which for which, name in enumerate(node.input) if self._wiring.vector(name, width)]
        own = [_Division(self._places[id(node)], which, -1) for which in constant]
        if len(own) == 1 and node.op_type == "Mul":
            return _Way(own, moved=False)
        if len(own) == 1:
            above = self._above(node.input[1 - constant[0]], width)
            return None if above is None else _Way([*above.divisions, *own], above.moved)
        if not own and node.op_type == "Mul":
            return self._above(node.input[1], width) or self._above(node.input[0], width)
        return None

    def _through(self, node: onnx.NodeProto, width: int) -> _Way | None:
        """Go on above a node that leaves divided channels divided."""
        if node.op_type in _HOMOGENEOUS | _MOVES:
            above = self._above(node.input[0], width)
            return above and _Way(above.divisions, above.moved or node.op_type in _MOVES)
        if node.op_type == "MatMul":  # attention: its probabilities weigh the channels of the values
            above = self._above(node.input[1], width)
            return above if above is not None and above.moved else None
        return None

    def _above(self, tensor: str, width: int) -> _Way | None:
        """Go on above a tensor that nothing else reads."""
        return None if self._wiring.only_reader(tensor) is None else self.divisions(tensor, width)

    def _normalization(self, node: onnx.NodeProto, width: int) -> _Way | None:
        axis = next((item.i for item in node.attribute if item.name == "axis"), -1)
        named = [which for which in _NORMALIZATIONS[node.op_type] if len(node.input) > which and node.input[which]]
        if axis != -1 or not named or not all(self._wiring.vector(node.input[which], width) for which in named):
            return None
        return _Way([_Division(self._places[id(node)], which, -1) for which in named], moved=False)

    def _linear(self, item: LinearMap, width: int) -> _Way | None:
        """Divide the columns of a linear map and its bias."""
        if item.outputs != width or self.weight_readers(item.weight) != 1:
            return None
        if item.product != item.output and self._wiring.only_reader(item.product) is None:
            return None
        (reader,) = self._wiring.readers[item.weight]
        found = [_Division(self._places[id(reader)], list(reader.input).index(item.weight), 1 - item.input_axis)]
        if item.bias is not None:
            adder = self._wiring.producers[item.output]
            found.append(_Division(self._places[id(adder)], list(adder.input).index(item.bias), -1))
        return _Way(found, moved=False)


def _scale(group: _Group, maxima: Array, strength: float, wiring: Wiring) -> Array:
    """Return s, of shape (channels,); 1 for a channel that is always 0, which no row tells how to scale."""
    weights = [
        np.abs(wiring.array(name)).max(axis=1 - axis)
        for name, axis in {(item.weight, item.input_axis) for item in group.readers}
    ]
    weight = np.maximum(np.max(weights, axis=0), _SMALLEST)
    scale = np.maximum(maxima, _SMALLEST) ** strength / weight ** (1 - strength)
    return np.where(maxima > 0, scale, 1.0)


def _apply(model: onnx.ModelProto, groups: Iterable[_Group], scales: dict[str, Array]) -> None:
    """Scale the channels of the activations, in place."""
    wiring = Wiring(model)
    arrays: dict[str, Array] = {}
    for group in groups:
        scale = scales[group.activation]
        for name, axis in sorted({(item.weight, item.input_axis) for item in group.readers}):
            _multiply(arrays, wiring, name, scale, axis)
        for division in group.divisions:
            node = model.graph.node[division.node]
            name = node.input[division.place]
            if len(wiring.readers[name]) > 1:  # a vector that others read too; weights are never shared here
                own = f"{name}/{division.node}.{division.place}"
                arrays[own] = wiring.array(name).astype(np.float64)
                node.input[division.place] = name = own
            _multiply(arrays, wiring, name, 1 / scale, division.axis)
    for name, array in arrays.items():
        made = numpy_helper.from_array(array.astype(np.float32), name)
        if name in wiring.initializers:
            wiring.initializers[name].CopyFrom(made)
        else:
            model.graph.initializer.append(made)


def _multiply(arrays: dict[str, Array], wiring: Wiring, name: str, scale: Array, axis: int) -> None:
    """Multiply an array along an axis, in double precision until all groups have been applied."""
    array = arrays[name] if name in arrays else wiring.array(name).astype(np.float64)
    shape = [1] * array.ndim
    shape[axis] = -1
    arrays[name] = array * scale.reshape(shape)
