"""The hash of everything that goes into a result, under which it is kept and found again."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfcompress.environment import DISTRIBUTIONS, instruction_sets, versions
from hfcompress.overlap import content_digests
from hfcompress.registry import REGISTRIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hfcompress.contracts import Json, Rows
    from hfcompress.hub import Source
    from hfcompress.recipe import ModelReference, StepSpec, TaskSpec

__all__ = ["Ingredients"]

_READERS = ("accelerate", "pillow", "safetensors", "scikit-learn", "scipy", "soundfile", "tokenizers")
"""What decodes rows and computes beside the libraries that a report names."""


class Ingredients:
    """Keys of the results of one run: SHA-256, in hexadecimal.

    Two results have one key if they are made from the same source and rows, by the same options with defaults filled
    in, the same code and libraries, on processors with the same instruction sets: what `target: auto` chooses and how
    sums are rounded depends on those.

    Args:
        source: The model, its revision resolved.
        reference: What the recipe says of it.
        rows: The rows under each name of the recipe's `data`.
    """

    def __init__(self, source: Source, reference: ModelReference, rows: Mapping[str, Rows]) -> None:
        trusted = reference.model_dump(mode="json", exclude={"id", "revision"})
        self.source = _key({"source": source.revision, **trusted})
        self._rows = rows
        self._contents: dict[str, str] = {}

    def step(self, before: str, spec: StepSpec, seed: int) -> str:
        """Return the key of what a step makes of the checkpoint with the key `before`."""
        calibration = getattr(spec.options, "calibration", None)
        return _key(
            {
                "before": before,
                "use": spec.use,
                "options": spec.options.model_dump(mode="json", exclude={"calibration"}),
                # beside their content, what the report says of the rows
                "calibration": calibration and [self._content(calibration), self._rows[calibration].record()],
                "seed": seed,
                **_surroundings(),
            }
        )

    def predictions(self, checkpoint: str, spec: TaskSpec, source: str | None = None) -> str:
        """Return the key of what the checkpoint with a key predicts for a task.

        Args:
            checkpoint: Key of the source or of a step.
            spec: The task.
            source: Key of the source's predictions, where they are known to the one that follows.
        """
        return _key(
            {
                "checkpoint": checkpoint,
                "task": spec.task,
                "options": spec.options.model_dump(mode="json", exclude={"data"}),
                "rows": self._content(spec.options.data),
                "source": source,
                **_surroundings(),
            }
        )

    def _content(self, name: str) -> str:
        if name not in self._contents:
            self._contents[name] = _rows_sha256(self._rows[name])
        return self._contents[name]


def _key(parts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _rows_sha256(rows: Rows) -> str:
    """Return the SHA-256 of what all columns hold, and of what they are."""
    total = hashlib.sha256(repr(rows.dataset.features).encode())
    for column in rows.dataset.column_names:
        total.update(f"\0{column}\0".encode())
        for digest in content_digests(rows, column):
            total.update(digest)
    return total.hexdigest()


@cache
def _surroundings() -> dict[str, Json]:
    """Return what a result depends on beside its inputs and options."""
    providers = {registry.provider(name) for registry in REGISTRIES for name in registry}
    packages = sorted({provider.partition(":")[0].partition(".")[0] for provider in providers})
    return {
        "versions": {**versions((*DISTRIBUTIONS, *_READERS))},
        "code": {package: _code_sha256(package) for package in packages},
        "machine": platform.machine(),
        "instruction_sets": instruction_sets(),
    }


def _code_sha256(package: str) -> str:
    """Return the SHA-256 of a package's Python files: its version stays the same while somebody works on it."""
    spec = importlib.util.find_spec(package)
    total = hashlib.sha256()
    if spec is not None:
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        files = [(file.relative_to(folder), file) for folder in folders for file in folder.rglob("*.py")]
        if not folders and spec.origin is not None:
            files = [(Path(package), Path(spec.origin))]
        for name, file in sorted(files):
            total.update(f"{name.as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()
