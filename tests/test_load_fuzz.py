"""Promises of loading what was damaged: a clear error or the right model, never a crash and never other outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hfcompress

if TYPE_CHECKING:
    from tests.conftest import Python

HALF: dict[str, Any] = {"towers": {"all": {"ffn": 0.5}}, "importance": "magnitude"}
KEPT, GONE = 130, 50


def _fuzz(artifact: Path, python: Python) -> None:
    """Load damaged copies of an artifact in a process of its own and look at what came of each."""
    done = python("-m", "tests.load_fuzz", artifact, str(KEPT), str(GONE), cwd=Path(__file__).parents[1])
    told = [json.loads(line) for line in done.stdout.splitlines()]
    cases = dict(zip(told[::2], told[1::2], strict=False))

    assert done.returncode == 0, f"it died of {told[-1] if len(told) % 2 else 'itself'}\n{done.stderr[-2000:]}"
    assert [f"{what} → {how}" for what, how in cases.items() if not how.startswith(("error: ", "right"))] == []
    assert len(cases) == KEPT + GONE
    refused = [how for how in list(cases.values())[:KEPT] if "is not as it was written" in how]
    assert len(refused) > KEPT // 2  # or the checksums were never looked at


def test_pruned(clip: Path, python: Python, tmp_path: Path) -> None:
    """A pruned checkpoint of stock shapes."""
    hfcompress.prune(clip, output=tmp_path / "pruned", **HALF)
    _fuzz(tmp_path / "pruned", python)


def test_recorded_shapes(clip: Path, python: Python, tmp_path: Path) -> None:
    """A pruned checkpoint whose shapes stand in a record of its configuration."""
    hfcompress.prune(clip, output=tmp_path / "narrow", allocation="global", **HALF)
    assert '"quant_method": "hfcompress"' in (tmp_path / "narrow/config.json").read_text(encoding="utf-8")
    _fuzz(tmp_path / "narrow", python)


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")
def test_onnx(clip: Path, python: Python, tmp_path: Path) -> None:
    """An 8-bit export for ONNX Runtime."""
    hfcompress.quantize(clip, runtime="onnxruntime", mode="dynamic", output=tmp_path / "int8")
    _fuzz(tmp_path / "int8", python)


@pytest.mark.openvino
@pytest.mark.filterwarnings("ignore")
def test_openvino(clip: Path, python: Python, tmp_path: Path) -> None:
    """An 8-bit export for OpenVINO."""
    hfcompress.quantize(clip, runtime="openvino", mode="weight_only", output=tmp_path / "openvino")
    _fuzz(tmp_path / "openvino", python)
