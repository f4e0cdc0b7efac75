"""What the tests share: a Hub on this machine, the command line as a user runs it, and the quickstart, run once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from tests.loopback_hub import OWNER, LoopbackHub

if "huggingface_hub" in sys.modules:
    pytest.exit("huggingface_hub was imported before its environment was set, so the tests would use the real Hub", 4)

_HOME = Path(tempfile.mkdtemp(prefix="hfcompress-tests-"))
_HUB = LoopbackHub(_HOME / "hub")
os.environ.update(_HUB.environment(_HOME / "home", OWNER))
os.environ["HFCOMPRESS_RETRY_WAIT_S"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"  # no test asserts a time, and threads that wait for a busy core are slow

QUICKSTART = Path(__file__).parents[1] / "recipes" / "quickstart"
EXTRAS = {"onnxruntime": "optimum.onnxruntime", "openvino": "optimum.intel.openvino", "torchao": "torchao"}
"""Marker of the tests that need an extra → a module that comes with it."""

Cli: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
Python: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
Write: TypeAlias = Callable[..., Path]


def importable(module: str) -> bool:
    """Return whether a module is installed."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def pytest_configure(config: pytest.Config) -> None:
    """Register a marker for each extra."""
    for extra in EXTRAS:
        config.addinivalue_line("markers", f"{extra}: needs the extra {extra!r}")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip, with the reason, what needs an extra that is not installed."""
    missing = {
        extra: f"the extra {extra!r} is not installed" for extra, module in EXTRAS.items() if not importable(module)
    }
    if version("transformers").startswith("4."):
        missing.setdefault("torchao", "version 4 of transformers reads no weights of torchao from safetensors")
    for item in items:
        for extra, reason in missing.items():
            if item.get_closest_marker(extra):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_unconfigure() -> None:
    """Remove the Hub's and the client's folders."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _served_hub() -> Iterator[None]:
    with _HUB:
        yield


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """Return the Hub that every process of the tests talks to, with an empty log; its faults end with the test."""
    _HUB.forget_requests()
    yield _HUB
    _HUB.heal()


@pytest.fixture(scope="session")
def quickstart_folder() -> Path:
    """Return the folder of the quickstart: a trained CLIP under `clip-digits`, its data under `data`."""
    return QUICKSTART


@pytest.fixture(scope="session")
def clip() -> Path:
    """Return the folder of a small trained CLIP."""
    return QUICKSTART / "clip-digits"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that is the current one, so that error messages begin with `recipe.yaml`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _python(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "80", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def python() -> Python:
    """Return a function that runs this interpreter with arguments in a process of its own."""
    return _python


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Return a function that runs `hfcompress` as a user does: in a process of its own."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        return _python("-m", "hfcompress", *arguments, **options)

    return run


def small_recipe(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any key of a recipe
    """Return a recipe that prunes the quickstart's model and looks at a few of its rows, with keys replaced."""
    return {
        "version": 1,
        "model": {"id": str(QUICKSTART / "clip-digits")},
        "data": {
            "test": {
                "dataset": str(QUICKSTART / "data"),
                "split": "test[:60]",
                "columns": {"image": "image", "label": "label"},
            }
        },
        "steps": [{"use": "prune", "towers": {"all": {"ffn": 0.5}}, "importance": "magnitude"}],
        "evaluate": [
            {
                "task": "zero-shot-image-classification",
                "data": "test",
                "templates": ["a photo of the digit {label}.", "a handwritten {label}."],
            }
        ],
        "gates": {"latency_ms": None},
        "benchmark": {"repeats": 3, "threads": 1, "memory": False},  # a process for each model takes seconds
        **changes,
    }


@pytest.fixture(scope="session")
def recipe() -> Callable[..., dict[str, Any]]:
    """Return `small_recipe`."""
    return small_recipe


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a small recipe, with keys replaced, and returns its file."""

    def write_recipe(name: str = "recipe.yaml", **changes: Any) -> Path:  # noqa: ANN401 - any key of a recipe
        file = tmp_path / name
        file.write_text(yaml.safe_dump(small_recipe(**changes), sort_keys=False), encoding="utf-8")
        return file

    return write_recipe


@dataclass(frozen=True)
class Ran:
    """A run of `hfcompress run --json` and the folder that it was to leave."""

    folder: Path
    code: int
    stdout: str
    stderr: str


def _run(folder: Path, recipe: Path | dict[str, Any], *arguments: str) -> Ran:
    if isinstance(recipe, dict):
        file = folder.with_name("recipe.yaml")
        file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        recipe = file
    done = _python("-m", "hfcompress", "run", recipe, "-o", folder, "--json", *arguments)
    return Ran(folder, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Return the quickstart, run from its own file and pushed to the Hub of the tests."""
    # no test depends on a time, and what memory takes has a run of its own
    changes = ("push={repo: alice/digits, private: true}", "gates.latency_ms=null", "benchmark.memory=false")
    arguments = [word for change in changes for word in ("--set", change)]
    return _run(tmp_path_factory.mktemp("quickstart") / "out", QUICKSTART / "recipe.yaml", *arguments)


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Return a static quantization; its gate on speed is lifted."""
    recipe = small_recipe(
        steps=[{"use": "quantize", "runtime": "onnxruntime", "mode": "static", "calibration": "calibration"}]
    )
    recipe["data"]["calibration"] = {
        "dataset": str(QUICKSTART / "data"),
        "split": "calibration[:32]",
        "columns": {"image": "image", "text": "caption"},
    }
    return _run(tmp_path_factory.mktemp("static") / "out", recipe)


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Return a recipe that stays in torch: `prune` alone."""
    return _run(tmp_path_factory.mktemp("pruned") / "out", small_recipe())
