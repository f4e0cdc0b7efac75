"""The ranges of activations, from rows that pass through float32 graphs batch by batch.

Memory does not grow with the number of rows. ONNX Runtime's calibrators keep what a batch gave until they are asked to
digest it, so they are given one batch at a time; and a histogram whose first batch is small against a later one grows
to as many bins as the later one is larger. So the extremes are taken in a first pass, and the histograms, in a second
pass, have their final edges from the start: the result is that of all rows at once, in whatever batches they come.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.calibrate import (
    CalibraterBase,
    HistogramCollector,
    MinMaxCalibrater,
    PercentileCalibrater,
)

from hfcompress.errors import QuantizationError
from hfcompress.processes import gathered, one_after_another
from hfcompress.quantization.divergence import least_divergence
from hfcompress.runtimes.onnx_files import EXTERNAL_DATA_BYTES
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


__all__ = ["Feeds", "GraphRanges", "Method", "Uncalibrated", "calibrate"]

Method: TypeAlias = Literal["minmax", "percentile", "entropy"]
Inputs: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"
Feeds: TypeAlias = "Callable[[], Iterable[tuple[str, Inputs]]]"
"""Begins a pass over the calibration rows: yields the name of a graph and one batch of its inputs."""

CalibraterT = TypeVar("CalibraterT", bound="_Selecting")

_BINS = 2048
"""Of a histogram, over twice the largest magnitude."""
_LEVELS = 256
"""Of an activation, in the search for the cut of least divergence."""


@dataclass(frozen=True)
class Uncalibrated:
    """A graph and what is to be known of it.

    Attributes:
        path: The float32 graph.
        tensors: Names of the activations that need a range.
    """

    path: Path
    tensors: frozenset[str]


@dataclass(frozen=True)
class GraphRanges:
    """The ranges of one graph.

    Attributes:
        tensors: Name → lowest and highest value to quantize.
        exact: Names of the tensors whose values are (nearly) constant, so that a histogram says nothing of them; their
            range is the exact one.
    """

    tensors: TensorsData
    exact: tuple[str, ...]


def calibrate(
    graphs: Mapping[str, Uncalibrated], feeds: Feeds, method: Method, percentile: float, scratch: Path
) -> dict[str, GraphRanges]:
    """Return the ranges of the activations of several graphs.

    Args:
        graphs: Name → graph; the names are those that `feeds` yields.
        feeds: Begins a pass over the rows; called once for `minmax` and twice for the others.
        method: `minmax`: the extremes. `percentile`: what holds the given percentage of the values, the same share cut
            at both ends. `entropy`: the cut of least Kullback-Leibler divergence (Migacz, "8-bit inference with
            TensorRT", GTC 2017).
        percentile: In (0, 100]; read by `percentile` alone.
        scratch: A folder for temporary copies of the graphs, on a disk with room for one of each.

    Raises:
        QuantizationError: An activation is not finite, a graph was given no inputs, or ONNX Runtime cannot run one.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        folder = Path(temporary)
        wanted = {name: graph for name, graph in graphs.items() if graph.tensors}
        extremes = {name: _extremes(graph, folder / f"{name}.minmax") for name, graph in wanted.items()}
        _pass(extremes, feeds)
        _merge_extremes(extremes)
        found = {name: _finite(name, calibrater) for name, calibrater in extremes.items()}
        del extremes  # its sessions hold the weights once more
        for copied in folder.iterdir():
            copied.unlink()
        exact = {} if method == "minmax" else {name: _flat(ranges) for name, ranges in found.items()}
        results = {
            name: GraphRanges(
                TensorsData(CalibrationMethod.MinMax, found.get(name, {})), tuple(sorted(exact.get(name, ())))
            )
            for name in graphs
        }
        if method == "minmax":
            return results
        histograms = {
            name: _histograms(
                Uncalibrated(graph.path, frozenset(found[name].keys() - exact[name])),
                folder / f"{name}.histogram",
                percentile,
                found[name],
            )
            for name, graph in wanted.items()
            if found[name].keys() - exact[name]
        }
        _pass(histograms, feeds)
        _merge_histograms(histograms)
        for name, calibrater in histograms.items():
            limits = _least_divergent(calibrater) if method == "entropy" else _percentiles(calibrater)
            merged = {tensor: limits.get(tensor, found[name][tensor]) for tensor in found[name]}
            results[name] = replace(results[name], tensors=TensorsData(CalibrationMethod.MinMax, merged))
        return results


class _Selecting(CalibraterBase):  # type: ignore[misc] # published without types
    """Looks at chosen tensors alone, where ONNX Runtime's calibrators look at all that operators of a type touch."""

    wanted: frozenset[str] = frozenset()

    def select_tensors_to_calibrate(self, model: onnx.ModelProto) -> tuple[set[str], dict[str, onnx.ValueInfoProto]]:
        tensors, infos = super().select_tensors_to_calibrate(model)
        return tensors & self.wanted, infos


class _MinMax(_Selecting, MinMaxCalibrater):  # type: ignore[misc]
    """Keeps the extremes alone, and notices what is not a number, which ONNX Runtime's calibrator passes over."""

    def __init__(self, graph: Uncalibrated, augmented: Path) -> None:
        super().__init__(graph.path, None, str(augmented), use_external_data_format=_is_large(graph.path))
        self.lowest: dict[str, np.floating[Any]] = {}
        self.highest: dict[str, np.floating[Any]] = {}
        self.broken: set[str] = set()

    def augment_graph(self) -> None:
        self.wanted = frozenset(self.select_tensors_to_calibrate(self.model)[0])
        super().augment_graph()
        graph = self.model.graph
        for name in sorted(self.wanted):
            ends = [f"{name}_{step}" for step in ("IsNaN", "Cast", "AnyNaN")]
            graph.node.append(helper.make_node("IsNaN", [name], ends[:1]))
            graph.node.append(helper.make_node("Cast", ends[:1], ends[1:2], to=TensorProto.FLOAT))
            graph.node.append(helper.make_node("ReduceMax", ends[1:2], ends[2:], keepdims=1))
            graph.output.append(helper.make_tensor_value_info(ends[2], TensorProto.FLOAT, None))
        onnx.save(self.model, self.augmented_model_path, save_as_external_data=self.use_external_data_format)

    def collect_data(self, data_reader: _OneBatch) -> None:
        names = [output.name for output in self.infer_session.get_outputs()]
        for inputs in iter(data_reader.get_next, None):
            values = dict(zip(names, self.infer_session.run(None, inputs), strict=True))
            for name in self.wanted:
                lowest, highest = values[f"{name}_ReduceMin"].min(), values[f"{name}_ReduceMax"].max()
                if values[f"{name}_AnyNaN"].any() or not np.isfinite([lowest, highest]).all():
                    self.broken.add(name)
                self.lowest[name] = min(self.lowest.get(name, lowest), lowest)
                self.highest[name] = max(self.highest.get(name, highest), highest)


class _Percentile(_Selecting, PercentileCalibrater):  # type: ignore[misc]
    pass


def _extremes(graph: Uncalibrated, augmented: Path) -> _MinMax:
    # it keeps a copy of the graph beside the graph for a while, where the other processes do so too
    return _opened(one_after_another(lambda: _MinMax(graph, augmented)), graph)


def _histograms(
    graph: Uncalibrated, augmented: Path, percentile: float, extremes: Mapping[str, TensorData]
) -> _Percentile:
    """Return a calibrator whose histograms have their final edges before it sees anything."""
    large = _is_large(graph.path)
    calibrater = one_after_another(
        lambda: _Percentile(graph.path, None, str(augmented), large, num_bins=_BINS, percentile=percentile)
    )
    calibrater.collector = HistogramCollector(
        "percentile", calibrater.symmetric, _BINS, calibrater.num_quantized_bins, percentile, calibrater.scenario
    )
    for name in graph.tensors:
        lowest, highest = extremes[name].range_value
        threshold = np.float32(max(abs(lowest), abs(highest)))
        edges = np.linspace(-threshold, threshold, _BINS + 1, dtype=np.float32)
        calibrater.collector.histogram_dict[name] = (np.zeros(_BINS, np.int64), edges, lowest, highest, threshold)
    return _opened(calibrater, graph)


def _percentiles(calibrater: _Percentile) -> dict[str, TensorData]:
    """Return what holds the calibrator's percentage of the values."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        cut = calibrater.compute_data()
    return {tensor: _range(*cut[tensor].range_value) for tensor in cut}


def _least_divergent(calibrater: _Percentile) -> dict[str, TensorData]:
    """Return the cuts of least divergence, as far as there are values."""
    found = {}
    for name, (counts, edges, lowest, highest, _) in calibrater.collector.histogram_dict.items():
        kept = least_divergence(counts, _LEVELS)
        middle = len(counts) // 2
        found[name] = _range(max(lowest, edges[middle - kept]), min(highest, edges[middle + kept]))
    return found


def _opened(calibrater: CalibraterT, graph: Uncalibrated) -> CalibraterT:
    calibrater.wanted = graph.tensors
    try:
        calibrater.augment_graph()
        calibrater.create_inference_session()
    except RUNTIME_ERRORS as error:
        msg = f"ONNX Runtime cannot load {graph.path.name} to calibrate it: {error}"
        raise QuantizationError(msg) from error
    return calibrater


def _pass(calibrators: Mapping[str, CalibraterBase], feeds: Feeds) -> None:
    """Send every batch through the calibrator of its graph."""
    seen = set()
    for name, inputs in feeds() if calibrators else ():
        if name not in calibrators:
            continue
        seen.add(name)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does, batch by batch
                calibrators[name].collect_data(_OneBatch(inputs))
        except RUNTIME_ERRORS as error:
            msg = f"ONNX Runtime cannot run {name} on the calibration rows: {error}"
            raise QuantizationError(msg) from error
    if waiting := set(calibrators).difference(*gathered(seen)):
        msg = f"the calibration rows gave no inputs for {', '.join(sorted(waiting))}, so its activations have no range"
        raise QuantizationError(msg)


def _merge_extremes(calibrators: Mapping[str, _MinMax]) -> None:
    """Take over what the other processes have seen on their batches."""
    for calibrater in calibrators.values():
        for lowest, highest, broken in gathered((calibrater.lowest, calibrater.highest, calibrater.broken)):
            calibrater.broken = calibrater.broken | broken
            for name in lowest:
                calibrater.lowest[name] = min(calibrater.lowest.get(name, lowest[name]), lowest[name])
                calibrater.highest[name] = max(calibrater.highest.get(name, highest[name]), highest[name])


def _merge_histograms(calibrators: Mapping[str, _Percentile]) -> None:
    """Add what the other processes have counted, whose histograms have the same edges."""
    for calibrater in calibrators.values():
        histograms = calibrater.collector.histogram_dict
        parts = gathered({name: counts for name, (counts, *_) in histograms.items()})
        for name, (_, *rest) in [*histograms.items()]:
            histograms[name] = (sum(part[name] for part in parts), *rest)


class _OneBatch:
    """Hands one batch to ONNX Runtime's calibrator, which asks until there is none."""

    def __init__(self, inputs: Inputs) -> None:
        self._batches: Iterator[Inputs] = iter([inputs])

    def get_next(self) -> Inputs | None:
        return next(self._batches, None)


def _finite(graph: str, calibrater: _MinMax) -> dict[str, TensorData]:
    """Return the extremes.

    Raises:
        QuantizationError: Some are not finite; the text names the first one of the graph.
    """
    if calibrater.broken:
        first = next(name for node in calibrater.model.graph.node for name in node.input if name in calibrater.broken)
        msg = (
            f"the activation {first} of {graph} is not finite on the calibration rows, so it has no range to quantize "
            "to; look for broken weights or for rows that overflow the model or, where it has attention scores under a "
            "mask, take the operator that reads it out of `operators`"
        )
        raise QuantizationError(msg)
    return {name: _range(calibrater.lowest[name], calibrater.highest[name]) for name in calibrater.lowest}


def _range(lowest: object, highest: object) -> TensorData:
    return TensorData(
        lowest=np.asarray(lowest, np.float32).reshape(()), highest=np.asarray(highest, np.float32).reshape(())
    )


def _flat(extremes: Mapping[str, TensorData]) -> frozenset[str]:
    """Return the tensors whose values lie within one bin of a histogram, which says nothing of them."""
    found = []
    for name, data in extremes.items():
        lowest, highest = (float(limit) for limit in data.range_value)
        width = 2 * max(abs(lowest), abs(highest)) / _BINS
        if highest - lowest <= width or width < np.finfo(np.float32).tiny:
            found.append(name)
    return frozenset(found)


def _is_large(graph: Path) -> bool:
    data = graph.with_name(f"{graph.name}_data")
    return graph.stat().st_size + (data.stat().st_size if data.exists() else 0) > EXTERNAL_DATA_BYTES
