"""Promises of the recipes for CLIP: each runs to its end, on tiny stand-ins that the Hub of the tests serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.recipe_runs import RECIPES, check, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli
    from tests.loopback_hub import LoopbackHub

pytestmark = [
    pytest.mark.onnxruntime,
    pytest.mark.filterwarnings("ignore"),  # of what loads the artifact
]


@pytest.mark.parametrize("name", [file.stem for file in sorted(RECIPES.glob("clip-*.yaml"))])
def test_recipe_of_clip(name: str, hub: LoopbackHub, cli: Cli, tmp_path: Path) -> None:
    """The recipe runs to its end, looks at all of its gates, and leaves a model that stock classes load."""
    ran = run(name, hub, cli, tmp_path)
    check(ran, hub)
    if "patch32" in name:
        assert "its main branch holds no safetensors; taken from refs/pr/1 by SFconvertbot" in ran.stderr
