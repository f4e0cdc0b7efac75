"""Promises of `hfcompress.extras`: what is missing is told with the command that installs it."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pytest

import hfcompress
from hfcompress.errors import MissingExtraError, RecipeError
from hfcompress.extras import EXTRAS, require_extra
from hfcompress.registry import RUNTIMES

if TYPE_CHECKING:
    from tests.conftest import Write

WITHOUT_ONNX = importlib.util.find_spec("optimum.onnxruntime") is None


def test_every_runtime_has_its_extra() -> None:
    """Each runtime but torch is an extra of the same name."""
    assert set(RUNTIMES) - {"torch"} <= EXTRAS


@pytest.mark.onnxruntime
def test_installed_extra_passes() -> None:
    """An extra whose requirements are all there is no error."""
    require_extra("onnxruntime")


@pytest.mark.skipif(not WITHOUT_ONNX, reason="the extra 'onnxruntime' is installed")
def test_missing_extra_is_placed_in_the_recipe(write: Write) -> None:
    """A step whose extra is missing is a mistake of the recipe, with the command that installs it."""
    with pytest.raises(PackageNotFoundError, match="optimum-onnx"):
        version("optimum-onnx")
    with pytest.raises(MissingExtraError, match=r"pip install 'hfcompress\[onnxruntime\]'$"):
        require_extra("onnxruntime")
    steps = [{"use": "quantize", "runtime": "onnxruntime", "mode": "dynamic"}]
    expected = r"recipe\.yaml:12:3: steps\[0\]: this needs the extra 'onnxruntime' \(no \S+ is installed\): "
    with pytest.raises(RecipeError, match=expected):
        hfcompress.plan(write(steps=steps))


@pytest.mark.skipif(not WITHOUT_ONNX, reason="the extra 'onnxruntime' is installed")
def test_inspect_says_what_is_missing(request: pytest.FixtureRequest) -> None:
    """A runtime that is not there is listed with the command that installs it."""
    runtimes = {record.name: record for record in hfcompress.inspect(request.getfixturevalue("clip")).runtimes}
    assert not runtimes["onnxruntime"].available
    assert "pip install 'hfcompress[onnxruntime]'" in runtimes["onnxruntime"].detail
