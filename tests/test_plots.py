"""What the pictures of a card promise."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from hfcompress.canvas import Picture, shown
from hfcompress.contracts import Measurement, StepRecord, Value
from hfcompress.plots import draw_pictures
from hfcompress.report import ArtifactRecord, RecipeRecord, Report, SourceRecord

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


def test_pictures(tmp_path: Path) -> None:
    """Two opaque pictures of a size that a page shows lie in `assets`."""
    pictures = draw_pictures(reported(scored(), SIZE, LATENCY), tmp_path)
    assert [picture.path for picture in pictures] == ["assets/before_after.png", "assets/size_latency.png"]
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


def test_same_bytes(tmp_path: Path) -> None:
    """Equal reports give equal files."""
    report = reported(scored(), SIZE, LATENCY)
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


def test_shown() -> None:
    """Text from outside becomes one line of limited length."""
    assert shown("a\n\tb\x1b[0m" + "c" * 100, 10) == "a b [0mccc"[:9] + "\u2026"
