"""Promises of the recipes for models other than CLIP: each runs to its end, on tiny stand-ins of the tests' Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.recipe_runs import RECIPES, check, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli
    from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.filterwarnings("ignore")  # of what loads the artifact

OTHERS = [file.stem for file in sorted(RECIPES.glob("*.yaml")) if not file.stem.startswith("clip-")]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.openvino if name.endswith("openvino") else pytest.mark.onnxruntime)
        for name in OTHERS
    ],
)
def test_recipe(name: str, hub: LoopbackHub, cli: Cli, tmp_path: Path) -> None:
    """The recipe runs to its end, looks at all of its gates, and leaves a model that stock classes load."""
    check(run(name, hub, cli, tmp_path), hub)
