"""A recipe of `recipes/`, run against stand-ins, and what must then be true of it."""

from __future__ import annotations

import fnmatch
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hfcompress
from tests.stand_ins import serve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hfcompress.recipe import Recipe
    from hfcompress.report import Report
    from tests.conftest import Cli
    from tests.loopback_hub import LoopbackHub

__all__ = ["RECIPES", "Run", "check", "run"]

RECIPES = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Run:
    """A run that came to its end.

    Attributes:
        recipe: What was run.
        folder: The artifact.
        report: What was measured.
        stderr: What the user was told.
    """

    recipe: Recipe
    folder: Path
    report: Report
    stderr: str


def run(name: str, hub: LoopbackHub, cli: Cli, folder: Path) -> Run:
    """Run `hfcompress run recipes/NAME.yaml` and return what came of it.

    Nothing is changed but that peak memory is not measured: it takes two more processes, and has tests of its own.
    Stand-ins of noise hold no gate on quality, and so small a model none on speed: exit code 3 is as good as 0.
    """
    file = RECIPES / f"{name}.yaml"
    recipe = hfcompress.load_recipe(file)
    serve(hub, recipe, folder)
    done = cli("run", file, "-o", folder / "out", "--set", "benchmark.memory=false")
    assert done.returncode in {0, 3}, done.stderr
    return Run(recipe, folder / "out", hfcompress.Report.load(folder / "out"), done.stderr)


def check(ran: Run, hub: LoopbackHub) -> None:
    """Check what every recipe promises: gates looked at, an artifact that loads, a card that names its rows."""
    recipe, report = ran.recipe, ran.report
    asked = {name for name, gate in recipe.gates.items() if gate is not None}
    assert {gate.name for gate in report.gates} == asked
    assert {row.name for row in report.measurements} >= asked

    module, _, name = report.artifact.load_with.rpartition(".")
    assert module.partition(".")[0] in {"optimum", "transformers"}
    assert isinstance(hfcompress.load(ran.folder), getattr(importlib.import_module(module), name))

    card = (ran.folder / "README.md").read_text(encoding="utf-8")
    assert f"base_model: {recipe.model.id}" in card
    assert len(report.source.revision) == 40
    for reference in recipe.data.values():
        assert f"(https://huggingface.co/datasets/{reference.dataset})" in card
    assert not list(_needless(hub, recipe))


def _needless(hub: LoopbackHub, recipe: Recipe) -> Iterable[str]:
    """Yield the files of datasets that were fetched though no entry of `data` names their split."""
    for request in hub.requests:
        for dataset in {reference.dataset for reference in recipe.data.values()}:
            if not fnmatch.fnmatch(request.path, f"/datasets/{dataset}/resolve/*.parquet"):
                continue
            splits = {row.split.split("[")[0] for row in recipe.data.values() if row.dataset == dataset}
            if not any(f"/{split}-" in request.path for split in splits):
                yield request.path
