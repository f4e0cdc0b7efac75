"""How near the outputs of one graph are to those of another on the same rows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hfcompress.errors import QuantizationError
from hfcompress.quantization.onnx_graph import is_logits
from hfcompress.runtimes.onnx_session import RUNTIME_ERRORS, session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from hfcompress.quantization.correction_options import Metric
    from hfcompress.quantization.probing import Batches

    Array: TypeAlias = np.ndarray[Any, Any]

__all__ = ["Reference", "largest_difference"]


class Reference:
    """The float graph's outputs on calibration rows, kept on disk, and how far others are from them.

    Each vector along the last axis of an output counts once. A dual encoder's logits are products of its embeddings
    with those of the rest of the batch, so the embeddings stand for them; keys and values that a decoder keeps for its
    next call are read by itself alone. Both are left out where there is something else to compare.

    Args:
        path: The float graph.
        batches: The rows.
        folder: An empty folder, in which the outputs are kept.
        metric: `cosine`: 1 less the mean cosine of the vectors to those of the float graph. `top1_agreement`: the
            fraction of vectors of logits whose largest entry stands elsewhere. `sqnr`: the power of the difference as
            a fraction of the signal's, the inverse of the signal-to-quantization-noise ratio (0.001 is 30 dB). A graph
            without logits, such as an encoder, has `cosine` in the place of `top1_agreement`.

    Attributes:
        metric: The metric that is used.

    Raises:
        QuantizationError: No output has what the metric compares, one is not finite, or ONNX Runtime cannot run the
            graph on the rows.
    """

    def __init__(self, path: Path, batches: Batches, folder: Path, metric: Metric) -> None:
        self._batches, self._folder = batches, folder
        running = session(path)
        outputs = [(put.name, put.type) for put in running.get_outputs()]
        self.metric: Metric = (
            "cosine" if metric == "top1_agreement" and not any(is_logits(name) for name, _ in outputs) else metric
        )
        self._names = _compared(outputs, self.metric, path.name)
        self._count = 0
        for batch in batches():
            try:
                arrays = running.run(self._names, dict(batch))
            except RUNTIME_ERRORS as error:
                msg = f"ONNX Runtime cannot run {path.name} on the calibration rows: {error}"
                raise QuantizationError(msg) from error
            for place, made in enumerate(arrays):
                if not _is_comparable(made, self.metric):
                    msg = (
                        f"the output {self._names[place]} of {path.name} is not finite on the calibration rows, so "
                        f"nothing can be compared with it; look for broken weights or for rows that overflow the model"
                    )
                    raise QuantizationError(msg)
                np.save(folder / f"{self._count}.{place}.npy", made)
            self._count += 1

    def loss(
        self, run: Callable[[list[str], dict[str, Array]], list[Array]], given: Mapping[str, Array] | None = None
    ) -> float:
        """Return the metric of the worst output: 0 where all are as the float graph's, more where they differ.

        It is infinite where an output is not finite, and so above any budget.

        Args:
            run: Takes names of outputs and a batch of inputs, and gives the outputs, as a session's `run` does.
            given: Inputs that are the same for all batches.
        """
        sums = np.zeros((len(self._names), 2))
        for number, batch in enumerate(self._batches()):
            for place, made in enumerate(run(self._names, {**batch, **(given or {})})):
                if not _is_comparable(made, self.metric):
                    return math.inf
                expected = np.load(self._folder / f"{number}.{place}.npy")
                sums[place] += _compare(expected, made, self.metric)
        # a signal of zeros that stays one has no noise, one that does not has nothing but
        silent = np.where(sums[:, 0] > 0, np.inf, 0.0)
        return float(np.divide(sums[:, 0], sums[:, 1], out=silent, where=sums[:, 1] > 0).max())

    def loss_of(self, path: Path) -> float:
        """Return the loss of a graph in a file."""
        running = session(path)
        return self.loss(running.run)


def largest_difference(first: Path, second: Path, batches: Batches, at_most: int | None = None) -> float:
    """Return the largest difference of any output of two graphs, relative to the output's largest magnitude.

    Args:
        first: The graph that sets the scale.
        second: The other graph.
        batches: The rows.
        at_most: Batches to look at; all by default.
    """
    one, other = session(first), session(second)
    names = [put.name for put in one.get_outputs()]
    scales, differences = np.zeros(len(names)), np.zeros(len(names))
    for number, batch in enumerate(batches()):
        if number == at_most:
            break
        for place, (expected, got) in enumerate(
            zip(one.run(names, dict(batch)), other.run(names, dict(batch)), strict=True)
        ):
            if expected.size:
                scale, difference = _distance(expected.astype(np.float64), got.astype(np.float64))
                scales[place] = max(scales[place], scale)
                differences[place] = max(differences[place], difference)
    return float((differences / np.where(scales > 0, scales, 1.0)).max())


def _is_comparable(made: Array, metric: Metric) -> bool:
    """Whether a metric can compare an output; logits that a mask made infinite have a largest entry all the same."""
    return not np.isnan(made).any() if metric == "top1_agreement" else bool(np.isfinite(made).all())


def _distance(expected: Array, got: Array) -> tuple[float, float]:
    """Return the largest magnitude among finite values, and the largest difference; infinities must be the same."""
    finite = np.isfinite(expected)
    with np.errstate(invalid="ignore"):
        differences = np.where(expected == got, 0.0, np.abs(expected - got))
    largest = float(np.abs(expected[finite]).max()) if finite.any() else 0.0
    return largest, float(np.nan_to_num(differences, nan=np.inf, posinf=np.inf).max())


def _compared(outputs: Iterable[tuple[str, str]], metric: Metric, graph: str) -> list[str]:
    """Return the names of the outputs that a metric compares."""
    floats = [name for name, kind in outputs if kind in {"tensor(float)", "tensor(float16)"}]
    if metric == "top1_agreement":
        return [name for name in floats if is_logits(name)]
    own = [name for name in floats if not name.startswith(("logits_per_", "present"))]
    if not (own or floats):
        msg = f"{graph} has no float output, so its fidelity cannot be measured"
        raise QuantizationError(msg)
    return own or floats


def _compare(expected: Array, got: Array, metric: Metric) -> tuple[float, float]:
    """Return the sum of a loss over the vectors of a batch, and by what to divide the sum over all batches."""
    first = expected.reshape(-1, expected.shape[-1]).astype(np.float64)
    second = got.reshape(-1, got.shape[-1]).astype(np.float64)
    if metric == "sqnr":
        return float(((first - second) ** 2).sum()), float((first**2).sum())
    if metric == "top1_agreement":
        return float((first.argmax(axis=1) != second.argmax(axis=1)).sum()), float(len(first))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    both_zero = ~first.any(axis=1) & ~second.any(axis=1)
    cosines = np.where(both_zero, 1.0, (first * second).sum(axis=1) / np.where(norms > 0, norms, 1.0))
    return float((1 - cosines).sum()), float(len(first))
