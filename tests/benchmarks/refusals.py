"""How long `hfcompress` takes to tell each mistake of `tests/bad`: the command as a user types it, imports and all.

    python -m tests.benchmarks.refusals

prints the slowest in seconds, and ends with 1 where one takes more than five. The Hub is that of the tests, so what
is asked of it is answered at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.bad_inputs import FOLDER, cases, named, prepare
from tests.loopback_hub import OWNER, LoopbackHub

if TYPE_CHECKING:
    from tests.bad_inputs import Case

LIMIT_S = 5.0
SHOWN = 15


def seconds(case: Case, environment: dict[str, str]) -> float:
    """Return the wall-clock time of a command, whose files are made before.

    Raises:
        RuntimeError: It ends with another exit code than it should.
    """
    with tempfile.TemporaryDirectory(prefix="hfcompress-bad-") as folder:
        prepare(case, Path(folder).resolve())
        start = time.perf_counter()
        done = subprocess.run(  # noqa: S603 - this interpreter
            [sys.executable, "-m", "hfcompress", *map(named, case.command)],
            cwd=folder,
            env={**os.environ, **environment},
            check=False,
            capture_output=True,
            text=True,
        )
        took = time.perf_counter() - start
    if done.returncode != case.exit:
        msg = f"{case.name}: exit code {done.returncode}, expected {case.exit}: {done.stderr}"
        raise RuntimeError(msg)
    return took


def main() -> int:
    """Time every mistake and print the slowest."""
    root = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory(prefix="hfcompress-home-") as home, LoopbackHub(Path(home, "hub")) as hub:
        environment = {**hub.environment(Path(home, "home"), OWNER), "PYTHONPATH": root}
        every = [(file.name, case) for file in sorted(FOLDER.glob("*.yaml")) for case in cases(file)]
        taken = [(seconds(case, environment), file, case.name) for file, case in every]
    taken.sort(reverse=True)
    over = sum(took > LIMIT_S for took, _, _ in taken)
    table = Table("seconds", "file", "mistake", title=f"{len(taken)} mistakes, {over} of them over {LIMIT_S:g} s")
    for took, file, name in taken[:SHOWN]:
        table.add_row(f"{took:.2f}", file, name)
    Console().print(table)
    return over > 0


if __name__ == "__main__":
    sys.exit(main())
