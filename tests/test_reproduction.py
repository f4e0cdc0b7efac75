"""Promises of a repetition: the same commits, each number beside the published one, and an exit code that tells."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml
from huggingface_hub import HfApi

from hfcompress.contracts import Measurement, Value
from hfcompress.errors import CheckpointError, UsageError
from hfcompress.recipe import load_recipe
from hfcompress.report import RecipeRecord, Report
from hfcompress.reproduction import compare_reports, pinned_recipe, reproduce

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli, Ran, Write
    from tests.loopback_hub import LoopbackHub


def edited(report: Report, name: str, value: Value) -> Report:
    """Return a report that claims another value of the result."""
    rows = tuple(dataclasses.replace(row, compressed=value) if row.name == name else row for row in report.measurements)
    return dataclasses.replace(report, measurements=rows)


def test_published_artifact_is_reproduced(
    hub: LoopbackHub, cli: Cli, write: Write, clip: Path, quickstart_folder: Path, tmp_path: Path
) -> None:
    """What was made from the Hub is made again from the commits of then, although both have moved on."""
    hub.add_repo("alice/source", clip)
    hub.add_repo("alice/rows", quickstart_folder / "data", repo_type="dataset")
    data = {"test": {"dataset": "alice/rows", "split": "test[:60]"}}
    recipe = write(model={"id": "alice/source"}, data=data, push={"repo": "alice/again"})
    made = cli("run", recipe, "-o", tmp_path / "out")
    assert made.returncode == 0, made.stderr
    before = hub.commits("alice/source")[0].oid
    HfApi().upload_file(repo_id="alice/source", path_or_fileobj=b"{}", path_in_repo="config.json")
    assert hub.commits("alice/source")[0].oid != before

    done = cli("reproduce", "alice/again", "--json", cwd=tmp_path)
    rows = json.loads(done.stdout)
    new = Report.load(tmp_path / "out" / "again-reproduced")

    assert done.returncode == 0, done.stderr
    assert {row["verdict"] for row in rows} == {"reproduced", "not judged"}
    assert {row["name"] for row in rows if row["verdict"] == "not judged"} >= {"latency_ms"}
    assert new.source.revision == before
    assert [(row.requested, row.used, row.on_hub) for row in new.data] == [(60, 60, True)]
    assert new["zero_shot_accuracy"].compressed == Report.load(tmp_path / "out")["zero_shot_accuracy"].compressed


def test_claim_that_does_not_hold(pruned: Ran, cli: Cli, tmp_path: Path) -> None:
    """A report that claims more than its recipe gives is told by its measurement, and the exit code is 3."""
    folder = shutil.copytree(pruned.folder, tmp_path / "claimed")
    edited(Report.load(folder), "zero_shot_accuracy", Value(1.0, 0.999, 1.0)).save(folder)
    done = cli("reproduce", folder, "-o", tmp_path / "new")

    assert done.returncode == 3, done.stderr
    assert "values were not reproduced: zero_shot_accuracy" in done.stderr
    assert "differs" in done.stdout
    assert (tmp_path / "new" / "report.json").is_file()


def test_changed_folder_is_refused(pruned: Ran, clip: Path, tmp_path: Path) -> None:
    """A local folder that holds something else now is named before anything runs."""
    report = Report.load(pruned.folder)
    folder = shutil.copytree(pruned.folder, tmp_path / "artifact")
    source = dataclasses.replace(report.source, revision="0" * 64)
    dataclasses.replace(report, source=source).save(folder)
    with pytest.raises(UsageError, match=rf"do not hold what they held .*model\.id: {clip}; restore them"):
        reproduce(folder, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_recipe_that_reads_files_is_refused(pruned: Ran, tmp_path: Path) -> None:
    """A report's recipe is whole: one that includes a file of the reader's machine is not run."""
    (tmp_path / "mine.yaml").write_text("seed: 3\n", encoding="utf-8")
    report = Report.load(pruned.folder)
    text = f"include: {tmp_path / 'mine.yaml'}\n{report.recipe.text}"
    with pytest.raises(CheckpointError, match="so it was edited; it is not run"):
        pinned_recipe(dataclasses.replace(report, recipe=RecipeRecord.of(text)), tmp_path)


@pytest.mark.parametrize("key", ["trust_remote_code", "allow_pickle"])
def test_code_needs_the_readers_leave(key: str, pruned: Ran, tmp_path: Path) -> None:
    """A recipe of somebody else that runs code or reads pickles is refused until the reader allows it."""
    report = Report.load(pruned.folder)
    recipe = yaml.safe_load(report.recipe.text)
    recipe["model"][key] = True
    folder = shutil.copytree(pruned.folder, tmp_path / "artifact")
    text = load_recipe(recipe).text
    dataclasses.replace(report, recipe=RecipeRecord.of(text)).save(folder)
    with pytest.raises(UsageError, match="allow it with --trust-remote-code"):
        reproduce(folder, output=tmp_path / "new")


@pytest.mark.parametrize(
    ("published", "again", "verdict"),
    [
        (Value(0.9, 0.8, 0.95), Value(0.81), "reproduced"),
        (Value(0.9, 0.8, 0.95), Value(0.79), "differs"),
        (Value(0.9, 0.8, 0.95), Value(0.96), "differs"),
        (Value(1000.0), Value(1009.0), "reproduced"),
        (Value(1000.0), Value(1020.0), "differs"),
    ],
)
def test_verdicts(pruned: Ran, published: Value, again: Value, verdict: str) -> None:
    """A value with an interval must lie in it, one without must be within 1 %."""
    report = Report.load(pruned.folder)

    def holding(value: Value) -> Report:
        row = Measurement("parameters", "parameters", "count", higher_is_better=False, compressed=value)
        return dataclasses.replace(report, measurements=(row,))

    (row,) = compare_reports(holding(published), holding(again))
    assert row.verdict == verdict


def test_what_was_not_measured_again(pruned: Ran) -> None:
    """A published value that the new run lacks counts as one that was not reproduced."""
    report = Report.load(pruned.folder)
    rows = compare_reports(report, dataclasses.replace(report, measurements=()))
    assert {row.verdict for row in rows} == {"not measured"}
