"""Promises of a run on several processes: the numbers of one, and an end for all of them when one fails."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from hfcompress.contracts import Progress
from hfcompress.errors import DataError, GateError, NotOnHubError, OutputError, Problem, RecipeError
from hfcompress.processes import assembled, gathered, in_turn, leads, one_after_another, own, together

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Cli, Python

CALIBRATION = {"split": "calibration[:40]", "columns": {"image": "image", "text": "caption"}}
LAUNCH = (
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "hfcompress"),
)
"""Starts two processes, which compute on the processor."""
PATIENCE_S = 240
"""For a busy machine; that a process waits for another one for ever is what it must end."""


def by_hand() -> list[subprocess.CompletedProcess[str]]:
    """Run the program of `process_program.py` on two processes that nobody watches over, as `mpirun` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, str(Path(__file__).with_name("process_program.py"))],
            env={**world, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=PATIENCE_S) for process in running]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *words)
        for process, words in zip(running, said, strict=True)
    ]


@pytest.fixture
def calibrated(recipe: Callable[..., dict[str, Any]], quickstart_folder: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that makes a recipe of 7 batches to evaluate, the last one short, and 3 to calibrate on."""

    def make(*steps: dict[str, Any]) -> dict[str, Any]:
        made = recipe(steps=[{**step, "calibration": "calibration"} for step in steps])
        made["data"]["test"]["split"] = "test[:61]"
        made["data"]["calibration"] = {"dataset": str(quickstart_folder / "data"), **CALIBRATION}
        made["evaluate"][0]["batch_size"] = 9
        return made

    return make


def launch(python: Python, folder: Path, recipe: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe on two processes."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return python(*LAUNCH, "run", file, "-o", folder / "two", "--no-cache", "--json", *arguments)


def qualities(report: str) -> list[dict[str, Any]]:
    """Return everything that a report says of quality, to the last digit."""
    return [row for row in json.loads(report)["measurements"] if row["task"]]


def check_same(done: subprocess.CompletedProcess[str], folder: Path, cli: Cli) -> None:
    """Check that two processes made what one makes, and said it once."""
    assert done.returncode == 0, done.stderr
    alone = cli("run", folder / "recipe.yaml", "-o", folder / "one", "--no-cache", "--json")
    assert qualities(done.stdout) == qualities(alone.stdout)
    assert done.stdout == (folder / "two" / "report.json").read_text(encoding="utf-8")
    assert (done.stderr.count("evaluate the source"), done.stderr.count("The artifact and its card")) == (1, 1)
    assert sorted(path.name for path in folder.iterdir()) == ["one", "recipe.yaml", "two"]


def test_two_processes_prune_and_measure_as_one(
    python: Python, cli: Cli, calibrated: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Pruned on two processes and evaluated there, a model has the same weights and the same numbers, bit by bit."""
    recipe = calibrated({"use": "prune", "towers": {"all": {"ffn": 0.5}}})
    check_same(launch(python, tmp_path, recipe), tmp_path, cli)
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.onnxruntime
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_two_processes_calibrate_a_graph_as_one(
    python: Python, cli: Cli, calibrated: Callable[..., dict[str, Any]], tmp_path: Path, method: str
) -> None:
    """The ranges of a static graph are the same, whether one process saw all rows or two saw some each."""
    step = {"use": "quantize", "runtime": "onnxruntime", "mode": "static", "calibration_method": method}
    recipe = calibrated(step)
    check_same(launch(python, tmp_path, recipe), tmp_path, cli)
    one, two = (tmp_path / name / "onnx" / "model_quantized.onnx" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_what_fails_in_one_process_ends_all(
    python: Python, recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """An image that only the second process decodes is broken: the launcher fails, the message comes once."""
    import datasets

    rows = datasets.load_dataset(str(recipe()["data"]["test"]["dataset"]), split="test[:20]")
    broken = rows.cast_column("image", datasets.Image(decode=False)).to_list()
    broken[12]["image"] = None
    datasets.Dataset.from_list(broken, rows.features).to_parquet(tmp_path / "data" / "test.parquet")
    changed = recipe()
    changed["data"]["test"] |= {"dataset": str(tmp_path / "data"), "split": "test"}
    changed["evaluate"][0]["batch_size"] = 10
    done = launch(python, tmp_path, changed)

    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.count("holds NoneType where an image was expected") == 1
    assert "evaluate[0]: row 2" in done.stderr
    assert not (tmp_path / "two").exists()


def test_processes_serve_until_one_is_gone() -> None:
    """An error that the main process has overcome ends no process; one that the system kills ends the main one too.

    Between the two, one, two and five batches are put in order, fewer of them than processes or more.
    """
    main, other = by_hand()
    assert main.stdout == "3 has no square [[0], [0, 1], [0, 1, 4, 9, 16]]\n"
    assert other.returncode == -9
    assert main.returncode != 0  # gloo may abort the process when it ends, after it has told what happened
    assert "RunError: process 0 of 2 lost another one" in main.stderr


def test_a_lone_process_is_pointed_out(cli: Cli) -> None:
    """Where `accelerate launch --cpu` has started one process alone, standard error says how to get more."""
    done = cli("list", ACCELERATE_USE_CPU="True", MASTER_ADDR="127.0.0.1")
    assert done.returncode == 0
    assert "starts one process" in done.stderr
    assert "--multi_gpu" in done.stderr


def test_one_process_does_everything() -> None:
    """Without a launcher all batches are the process's own, and nothing is sent anywhere."""
    assert [*own(5)] == [0, 1, 2, 3, 4]
    assert assembled(["a", "b"], 2) == ["a", "b"]
    assert gathered("a") == ["a"]
    assert [*in_turn(iter("abc"), 3)] == ["a", "b", "c"]
    assert one_after_another(lambda: 7) == 7
    assert leads()
    progress = Progress()
    assert together(lambda heard, number: (heard, number), progress, 7) == (progress, 7)


@pytest.mark.parametrize(
    "error",
    [
        DataError("no image", ("columns", "image")),
        GateError("slower"),
        NotOnHubError("no such revision", "revision"),
        RecipeError([Problem("recipe.yaml", "steps[0]", "wrong", 3, 1)]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: Exception) -> None:
    """An error arrives as it was raised: its class, its text, and what it knows."""
    arrived = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))


def test_an_error_that_names_a_folder_travels(tmp_path: Path) -> None:
    """The text of such an error is made once, where it was raised."""
    error = OutputError(tmp_path)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes
