"""Promises of the batches on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hfcompress.quantization.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path


def test_batches_come_again(tmp_path: Path) -> None:
    """What went in comes out, in order and with its types, as often as it is asked for."""
    batches = [{"input_ids": np.array([[number]]), "x/y": np.ones((1, 2), np.float32)} for number in range(3)]
    spool = Spool(tmp_path, iter(batches))
    for _ in range(2):
        found = list(spool())
        assert [int(batch["input_ids"][0, 0]) for batch in found] == [0, 1, 2]
        assert {batch["x/y"].dtype for batch in found} == {np.dtype(np.float32)}
    assert len(spool) == 3
