"""Code that comes with a checkpoint: it is run only where a recipe trusts it, and then exactly that code."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["REFUSAL", "is_trusted", "trust", "trust_files", "trusted_files", "wants_code"]

REFUSAL = (
    "its classes are code of its own (`auto_map`), and such code is not run; if you have read it, allow it "
    "with `trust_remote_code: true` under the recipe's `model`"
)

_TRUSTED: set[str] = set()
"""SHA-256 of every file of code that may run in this process: what a run writes holds copies, in other folders."""


def trust(folder: Path) -> None:
    """Let the code in a checkpoint folder run, there and wherever else the same files lie."""
    _TRUSTED.update(_digests(folder))


def trusted_files() -> list[str]:
    """Return the SHA-256 of every file of code that may run in this process, for one that it starts."""
    return sorted(_TRUSTED)


def trust_files(digests: Iterable[str]) -> None:
    """Let code run whose SHA-256 the process that started this one has given."""
    _TRUSTED.update(digests)


def is_trusted(folder: Path) -> bool:
    """Return whether all code of a checkpoint folder may run: there is some, it is trusted, and there is no other.

    A checkpoint that takes its code from another repository is never trusted: no commit pins that code.
    """
    digests = set(_digests(folder))
    return bool(digests) and digests <= _TRUSTED and not any("--" in name for name in _classes(folder))


def wants_code(folder: Path) -> bool:
    """Return whether a checkpoint names classes of its own."""
    return any(True for _ in _classes(folder))


def _digests(folder: Path) -> Iterator[str]:
    for file in sorted(folder.rglob("*.py")):
        yield hashlib.sha256(file.read_bytes()).hexdigest()


def _classes(folder: Path) -> Iterator[str]:
    """Yield what any `auto_map` of the folder's configurations names, those of their parts included."""
    for file in sorted(folder.glob("*config.json")):
        try:
            waiting = [json.loads(file.read_text(encoding="utf-8"))]
        except (OSError, ValueError, RecursionError):
            continue  # whoever needs this file says what is wrong with it
        while waiting:
            values = waiting.pop()
            if isinstance(values, dict):
                names = values.get("auto_map")
                for name in names.values() if isinstance(names, dict) else ():
                    yield from (str(part) for part in (name if isinstance(name, list) else [name]) if part is not None)
                waiting += values.values()
