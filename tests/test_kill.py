"""Promises of a run that is killed: the same command once more ends with the same artifact."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hfcompress.report import Report
from tests.conftest import EXTRAS, QUICKSTART, importable
from tests.kill_driver import PREPARED, contents

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Measurement
    from tests.conftest import Python, Ran

TIMED = {"report.json", "README.md", "assets/size_latency.png", "assets/tradeoff.png"}
"""Files in which the times of a run stand."""


@pytest.fixture(scope="module")
def killed(pruned: Ran, python: Python, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the quickstart, on some of its rows, killed at every point and finished."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = yaml.safe_load((QUICKSTART / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["model"]["id"] = str(QUICKSTART / recipe["model"]["id"])
    recipe["data"]["test"] |= {"dataset": str(QUICKSTART / "data"), "split": "test[:60]"}
    quick = {
        "repeats": 2,
        "threads": 1,
        "memory": False,
        "throughput_batch_sizes": [],
    }  # no promise of a kill is about them
    recipe |= {"gates": {"latency_ms": None}, "benchmark": quick}
    if not importable(EXTRAS["onnxruntime"]):
        recipe["steps"][-1] = {"use": "cast", "dtype": "float16"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = python("-W", "ignore", "-m", "tests.kill_driver", folder / "recipe.yaml", pruned.folder, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def points(killed: Path) -> list[dict[str, Any]]:
    """Return what was seen at each point."""
    return json.loads((killed / "points.json").read_text(encoding="utf-8"))


def untimed(files: dict[str, str]) -> dict[str, str]:
    """Return the files in which no times stand."""
    return {name: sha256 for name, sha256 in files.items() if name not in TIMED}


def results(folder: Path) -> tuple[object, ...]:
    """Return all that a report says but for times."""
    report = Report.load(folder)

    def is_timed(row: Measurement) -> bool:
        return row.task is None and row.name not in {"size_bytes", "parameters"}

    steps = [(step.use, step.detail) for step in report.steps]
    rows = [row for row in report.measurements if not is_timed(row)]
    return report.source, report.recipe, steps, rows, report.artifact, report.gates, report.towers


def test_points_are_all_over_the_run(points: list[dict[str, Any]]) -> None:
    """At least 20 points: the beginning of each of the nine stages, operations, and the middle of writes."""
    assert len(points) >= 20
    assert len({point["stage"] for point in points}) == 9
    assert sum(point["limit"] is not None for point in points) >= 5
    # every one of them was reached: the process ended there, and by a signal
    assert {(point["limit"] is None, point["status"]) for point in points} == {
        (True, int(signal.SIGKILL)),
        (False, int(signal.SIGXFSZ)),
    }


def test_one_more_command_finishes_each(killed: Path, points: list[dict[str, Any]]) -> None:
    """The same command ends well, with the files and the results of a run that nobody disturbed."""
    expected = killed / "reference" / "out"
    for number, point in enumerate(points):
        folder = killed / str(number) / "out"
        assert point["finished"] == 0, point
        assert untimed(contents(folder)) == untimed(contents(expected)), point
        assert results(folder) == results(expected), point


def test_output_is_the_old_or_the_new_artifact(pruned: Ran, killed: Path, points: list[dict[str, Any]]) -> None:
    """After each kill the output folder is what it was before, or the whole new artifact."""
    old, new = contents(pruned.folder), untimed(contents(killed / "reference" / "out"))
    assert all(point["left"] == old or untimed(point["left"]) == new for point in points)


def test_nothing_is_left_over(killed: Path, points: list[dict[str, Any]]) -> None:
    """After the second run there is neither scratch beside the output nor half an entry or a lock in the cache."""
    for number, point in enumerate(points):
        folder = killed / str(number)
        assert {path.name for path in folder.iterdir()} == {"out", "cache", "point.json"}, point
        assert list((folder / "cache" / "partial").iterdir()) == []
        assert list((folder / "cache" / "locks").iterdir()) == []


def test_finished_steps_are_not_taken_again(killed: Path, points: list[dict[str, Any]]) -> None:
    """A run that was killed after its steps takes none of them again."""
    late = [number for number, point in enumerate(points) if point["stage"] in {"benchmark", "report"}]
    assert len(late) >= 5
    for number in late:
        assert all(step.cached for step in Report.load(killed / str(number) / "out").steps)


def test_rows_that_were_half_prepared(killed: Path, points: list[dict[str, Any]]) -> None:
    """Killed inside of what `datasets` writes, a run leaves rows under another name, and the next one has them all."""
    own = [(number, point) for number, point in enumerate(points) if point["prepares"]]
    assert [point["limit"] is None for _, point in own] == [False, True]
    for number, point in own:
        written = [name for name in point["prepared"] if name.endswith(".arrow")]
        assert written
        assert all(".incomplete/" in name for name in written)
        files = contents(killed / f"{number}{PREPARED}")
        assert not any(".incomplete/" in name for name in files)
        expected = contents(killed / f"reference{PREPARED}")
        arrows, wanted = (
            [sha256 for name, sha256 in held.items() if name.endswith(".arrow")] for held in (files, expected)
        )
        assert arrows == wanted != []
