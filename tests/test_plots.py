"""What the pictures of a card promise."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from hfcompress.canvas import Picture
from hfcompress.contracts import Measurement, StepRecord, Value
from hfcompress.plots import draw_pictures
from hfcompress.report import ArtifactRecord, RecipeRecord, Report, SourceRecord, TowerBytes

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Json

SIZE = Measurement("size_bytes", "size", "bytes", higher_is_better=False, compressed=Value(100), source=Value(390))
LATENCY = Measurement(
    "latency_ms",
    "latency",
    "ms",
    higher_is_better=False,
    compressed=Value(4.0, 3.9, 4.2),
    source=Value(5.0, 4.8, 5.3),
    as_published=Value(11.0, 10.0, 12.0),
    n=200,
)


def scored(label: str = "top-1 accuracy", unit: str = "ratio") -> Measurement:
    """Return a quality measure."""
    return Measurement(
        "accuracy",
        label,
        unit,
        higher_is_better=True,
        compressed=Value(0.96, 0.95, 0.97),
        source=Value(0.97, 0.96, 0.98),
        n=540,
        task="zero-shot-image-classification",
    )


def reported(*rows: Measurement) -> Report:
    """Return a report with these measurements."""
    return Report(
        SourceRecord("owner/model", "3d74", on_hub=True),
        RecipeRecord.of(""),
        (),
        rows,
        (),
        ArtifactRecord(".", "onnx", {}, "optimum.onnxruntime.ORTModel"),
        {},
    )


def full() -> Report:
    """Return a report with scores, costs, towers and a pruning."""
    layers: list[Json] = [
        {"name": f"vision.layers.{layer}.fc1", "axis": "ffn", "before": 512, "after": 512 - 128 * layer}
        for layer in range(3)
    ]
    detail: dict[str, Json] = {
        "blocks": {"text.layers": [1, 2]},
        "block_counts": {"text.layers": {"before": 4, "after": 2}},
        "layers": layers,
    }
    return dataclasses.replace(
        reported(scored(), SIZE, LATENCY),
        towers=(TowerBytes("other", 10_000, 12_000), TowerBytes("vision", 3_000_000, 800_000)),
        steps=(StepRecord("prune", 1.0, cached=False, detail=detail),),
    )


def test_pictures(tmp_path: Path) -> None:
    """Opaque pictures of a size that a page shows lie in `assets`, each for what the report tells."""
    pictures = draw_pictures(full(), tmp_path)
    names = ("before_after", "size_latency", "tradeoff", "bytes", "removal")
    assert [picture.path for picture in pictures] == [f"assets/{name}.png" for name in names]
    for picture in pictures:
        with Image.open(tmp_path / picture.path) as image:
            image.load()
            alpha = image.convert("RGBA").getchannel("A").getextrema()
            assert (image.width, 150 <= image.height <= 1200, alpha) == (1200, True, (255, 255))


def sensitive(count: int, graphs: int = 1) -> Report:
    """Return a report of a budget for graphs of so many parts, of which the first two stay in float."""
    costs: list[Json] = [
        {
            "name": f"/model/encoder/layers.{part}/self_attn/out_proj/MatMul",
            "cost": 0.01 / 2**part,
        }
        for part in range(count)
    ]
    loss: dict[str, Json] = {"before": 0.021, "after": 0.0041}
    found: dict[str, Json] = {
        "metric": "cosine",
        "max_drop": 0.005,
        "loss": loss,
        "in_float": costs[:2],
        "costs": costs,
    }
    detail: dict[str, Json] = {f"model_{graph}.onnx": {"sensitivity": found} for graph in range(graphs)}
    return dataclasses.replace(
        reported(), steps=(StepRecord("quantize", 1.0, cached=False, detail={"graphs": detail}),)
    )


@pytest.mark.parametrize(("count", "graphs"), [(1, 1), (40, 1), (6, 3)])
def test_sensitivity(count: int, graphs: int, tmp_path: Path) -> None:
    """What each part costs has a picture of its own, whose text tells what stays in float and what the whole loses."""
    (picture,) = draw_pictures(sensitive(count, graphs), tmp_path)
    with Image.open(tmp_path / picture.path) as image:
        assert (image.width, 150 <= image.height <= 1600) == (1200, True)
    assert picture.path == "assets/sensitivity.png"
    assert f"model_0.onnx: of {count} parts in float stay model/encoder/layers.0/self_attn/out_proj" in picture.alt
    assert "(cosine) of the whole is 0.0041, at most 0.005 was allowed" in picture.alt
    assert picture.alt.count("parts in float") == graphs


def test_alt_text(tmp_path: Path) -> None:
    """The alternative text tells the values and what became of them."""
    alt = (
        "Size and speed. latency: source as published 11.0\u00a0ms, source in float32 ONNX 5.00\u00a0ms, "
        "compressed 4.00\u00a0ms, 1.2\u00d7 faster."
    )
    assert (Picture("assets/size_latency.png", alt),) == draw_pictures(reported(LATENCY), tmp_path)


def test_words_for_parts(tmp_path: Path) -> None:
    """The alternative texts tell bytes by tower, what pruning left, and score and speed of both."""
    _, _, tradeoff, towers, removal = (picture.alt for picture in draw_pictures(full(), tmp_path))
    assert "top-1 accuracy: source 97.0\u00a0%, compressed 96.0\u00a0%" in tradeoff
    assert "compressed 4.00\u00a0ms, 1.2\u00d7 faster." in tradeoff
    assert towers == (
        "Where the bytes are. other: 10.0\u00a0kB before, 12.0\u00a0kB after. "
        "vision: 3.00\u00a0MB before, 800\u00a0kB after."
    )
    assert removal == (
        "What pruning removed of each layer. text.layers: 2 of 4 blocks stay. "
        "vision.layers.*.fc1: 1,152 of 1,536 feed-forward units stay."
    )


def test_steps_are_told_apart(tmp_path: Path) -> None:
    """Layers that two steps prune have a panel for each step."""
    report = full()
    (*_, once) = draw_pictures(report, tmp_path)
    (*_, twice) = draw_pictures(dataclasses.replace(report, steps=report.steps * 2), tmp_path)
    assert (once.alt.count("vision.layers"), twice.alt.count("vision.layers")) == (1, 2)


@pytest.mark.parametrize("missing", ["score", "latency"])
def test_tradeoff_needs_both(missing: str, tmp_path: Path) -> None:
    """Quality against latency is drawn only where both are known of source and result."""
    rows = {"score": scored(), "latency": LATENCY}
    rows[missing] = dataclasses.replace(rows[missing], source=None)
    assert "assets/tradeoff.png" not in [picture.path for picture in draw_pictures(reported(*rows.values()), tmp_path)]


def test_same_bytes(tmp_path: Path) -> None:
    """Equal reports give equal files."""
    report = full()
    for folder in (tmp_path / "a", tmp_path / "b"):
        draw_pictures(report, folder)
    one, other = ([path.read_bytes() for path in sorted((tmp_path / name / "assets").iterdir())] for name in ("a", "b"))
    assert one == other


def test_nothing_to_draw(tmp_path: Path) -> None:
    """A report without numbers gives no picture and no folder."""
    assert (draw_pictures(reported(), tmp_path), list(tmp_path.iterdir())) == ((), [])


@pytest.mark.parametrize("label", ["$\\frac{", "a\nb\x00c", "_" * 500, "%s {0}"])
def test_any_label(label: str, tmp_path: Path) -> None:
    """A label is text, never a formula, whatever it holds."""
    assert len(draw_pictures(reported(scored(label, unit="$^{")), tmp_path)) == 1
