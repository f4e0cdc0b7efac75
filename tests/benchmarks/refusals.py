"""How long each mistake of `tests/bad` takes to be told, in a process of its own, imports and all.

    python -m tests.benchmarks.refusals

prints the slowest in seconds, and ends with 1 where one takes more than five. Inputs are made within that time.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bad_inputs import FOLDER, cases

LIMIT_S = 5.0
SHOWN = 15


def seconds(file: str, name: str) -> float:
    """Return the wall-clock time of one case."""
    start = time.perf_counter()
    subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-m", "tests.bad_inputs", file, name],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def main() -> int:
    """Time every mistake and print the slowest."""
    every = [(file.name, case.name) for file in FOLDER.glob("*.yaml") for case in cases(file)]
    taken = sorted(((seconds(file, name), file, name) for file, name in every), reverse=True)
    over = sum(took > LIMIT_S for took, _, _ in taken)
    table = Table("seconds", "file", "mistake", title=f"{len(taken)} mistakes, {over} of them over {LIMIT_S:g} s")
    for took, file, name in taken[:SHOWN]:
        table.add_row(f"{took:.2f}", file, name)
    Console().print(table)
    return over > 0


if __name__ == "__main__":
    sys.exit(main())
