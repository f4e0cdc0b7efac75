"""Recipes written to disk and loaded, as the tests of their reading share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hfcompress.errors import RecipeError
from hfcompress.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["problem_lines", "written_and_loaded"]


def problem_lines(source: str | Path, *overrides: str) -> list[str]:
    """Return the lines of the error that loading a recipe must raise."""
    with pytest.raises(RecipeError, match=": ") as caught:
        load_recipe(source, overrides)
    return str(caught.value).splitlines()


def written_and_loaded(text: str, folder: Path, *overrides: str) -> Recipe:
    """Write `recipe.yaml` into a folder, which is the current one, and load it."""
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return load_recipe("recipe.yaml", overrides)
