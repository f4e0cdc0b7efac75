"""Promises of the metrics that compare a graph's outputs with those of the float graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.errors import QuantizationError
from tests.onnx_graphs import random_batches, write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.quantization.correction_options import Metric
    from hfcompress.quantization.fidelity import Reference

pytestmark = pytest.mark.onnxruntime


def reference(folder: Path, metric: Metric, **outputs: int) -> Reference:
    """Return the reference of a graph whose outputs are its input."""
    from hfcompress.quantization.fidelity import Reference

    path = write_graph(folder / "g.onnx", [("Identity", ["x"], name) for name in outputs], {}, 4, outputs)
    (folder / "outputs").mkdir()
    return Reference(path, random_batches(4), folder / "outputs", metric)


@pytest.mark.parametrize("metric", ["cosine", "top1_agreement", "sqnr"])
def test_nothing_lost(metric: Metric, tmp_path: Path) -> None:
    """A graph loses nothing against itself."""
    assert reference(tmp_path, metric, logits=4).loss_of(tmp_path / "g.onnx") == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "made", "loss"),
    [
        ("cosine", lambda x: -x, 2.0),
        ("cosine", lambda x: 3 * x, 0.0),
        ("sqnr", lambda x: 1.1 * x, 0.01),
        ("top1_agreement", lambda x: np.roll(x, 1, axis=-1), 1.0),
        ("top1_agreement", lambda x: x * 2, 0.0),
    ],
)
def test_what_is_lost(metric: Metric, made: Any, loss: float, tmp_path: Path) -> None:  # noqa: ANN401 - a function
    """Each metric is what it says: of directions, of noise power, of the largest entry."""
    found = reference(tmp_path, metric, logits=4).loss(lambda _, batch: [made(batch["x"])])
    assert found == pytest.approx(loss, abs=1e-6)


def test_the_worst_output_counts(tmp_path: Path) -> None:
    """Where one output is exact and one is not, the loss is that of the other."""
    found = reference(tmp_path, "cosine", image_embeds=4, text_embeds=4, logits_per_image=4, present=4)
    assert found.loss(lambda names, batch: [batch["x"] * (1 - 2 * (name == "text_embeds")) for name in names]) == 2.0
    assert found.loss(lambda names, batch: [batch["x"] + 0 * len(names) for _ in names]) == pytest.approx(0, abs=1e-12)


def test_vectors_of_zeros(tmp_path: Path) -> None:
    """A vector of zeros that stays one is no loss, one that becomes another is."""
    from hfcompress.quantization.fidelity import Reference

    path = write_graph(tmp_path / "g.onnx", [("Identity", ["x"], "y")], {}, 4, {"y": 4})
    (tmp_path / "outputs").mkdir()
    found = Reference(path, random_batches(4, 0.0), tmp_path / "outputs", "cosine")
    assert found.loss(lambda _, batch: [batch["x"]]) == 0.0
    assert found.loss(lambda _, batch: [batch["x"] + 1]) == 1.0


@pytest.mark.parametrize(
    ("constant", "expected"), [(0.0, 0.0), (0.5, 0.5), (np.inf, np.inf), (np.nan, np.inf)], ids=str
)
def test_largest_difference(constant: float, expected: float, tmp_path: Path) -> None:
    """The largest difference is relative to the output, and what is not finite differs from all that is."""
    from hfcompress.quantization.fidelity import largest_difference

    first = write_graph(tmp_path / "a.onnx", [("Sign", ["x"], "y")], {}, 4, {"y": 4})
    nodes = [("Sign", ["x"], "s"), ("Add", ["s", "c"], "y")]
    second = write_graph(tmp_path / "b.onnx", nodes, {"c": np.array([constant])}, 4, {"y": 4})
    assert largest_difference(first, second, random_batches(4)) == pytest.approx(expected)


def test_the_same_infinities(tmp_path: Path) -> None:
    """Two outputs that are infinite in the same places, as masks are, do not differ there."""
    from hfcompress.quantization.fidelity import largest_difference

    nodes = [("Log", ["zero"], "infinite"), ("Add", ["x", "infinite"], "y")]
    path = write_graph(tmp_path / "a.onnx", nodes, {"zero": np.array([0.0, 1.0, 1.0, 1.0])}, 4, {"y": 4})
    assert largest_difference(path, path, random_batches(4)) == 0.0


def test_no_logits(tmp_path: Path) -> None:
    """A graph without logits has the cosine in the place of the agreement of logits, and says so."""
    found = reference(tmp_path, "top1_agreement", embeds=4)
    assert (found.metric, found.loss(lambda _, batch: [-batch["x"]])) == ("cosine", 2.0)


def test_a_graph_that_cannot_run(tmp_path: Path) -> None:
    """Rows that do not fit the graph, and a file that is no graph, are errors that name it."""
    from hfcompress.quantization.fidelity import Reference

    path = write_graph(tmp_path / "g.onnx", [("Identity", ["x"], "y")], {}, 4, {"y": 4})
    with pytest.raises(QuantizationError, match=r"^ONNX Runtime cannot run g\.onnx on the calibration rows"):
        Reference(path, random_batches(5), tmp_path, "cosine")
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(QuantizationError, match=r"^ONNX Runtime \S+ cannot load broken\.onnx: "):
        Reference(tmp_path / "broken.onnx", random_batches(4), tmp_path, "cosine")


@pytest.mark.parametrize("metric", ["cosine", "top1_agreement", "sqnr"])
def test_outputs_that_are_not_finite(metric: Metric, tmp_path: Path) -> None:
    """What is not a number is refused in the float graph, and beyond every budget in another."""
    from hfcompress.quantization.fidelity import Reference

    found = reference(tmp_path, metric, logits=4)
    assert found.loss(lambda _, batch: [np.where(batch["x"] > 1, np.nan, batch["x"])]) == np.inf
    path = write_graph(tmp_path / "root.onnx", [("Sqrt", ["x"], "logits")], {}, 4, {"logits": 4})
    with pytest.raises(
        QuantizationError, match=r"^the output logits of root\.onnx is not finite on the calibration rows"
    ):
        Reference(path, random_batches(4), tmp_path / "outputs", metric)


def test_masked_logits(tmp_path: Path) -> None:
    """Logits that a mask made infinite have a largest entry, and so agree."""
    from hfcompress.quantization.fidelity import Reference

    nodes = [("Log", ["mask"], "infinite"), ("Add", ["x", "infinite"], "logits")]
    path = write_graph(tmp_path / "g.onnx", nodes, {"mask": np.array([0.0, 1.0, 1.0, 1.0])}, 4, {"logits": 4})
    (tmp_path / "outputs").mkdir()
    assert Reference(path, random_batches(4), tmp_path / "outputs", "top1_agreement").loss_of(path) == 0.0


def test_a_signal_of_zeros(tmp_path: Path) -> None:
    """An output that is always 0 has no noise where it stays so, and infinite noise where it does not."""
    from hfcompress.quantization.fidelity import Reference

    path = write_graph(tmp_path / "g.onnx", [("Identity", ["x"], "y")], {}, 4, {"y": 4})
    (tmp_path / "outputs").mkdir()
    found = Reference(path, random_batches(4, 0.0), tmp_path / "outputs", "sqnr")
    assert found.loss(lambda _, batch: [batch["x"]]) == 0.0
    assert found.loss(lambda _, batch: [batch["x"] + 1]) == np.inf
