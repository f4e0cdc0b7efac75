"""Promises of results that are reused: made once, given back as they were, made again if damaged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hfcompress.cache import Cache
from hfcompress.contracts import Progress, StepRecord
from hfcompress.errors import QuantizationError, RunError
from hfcompress.registry import TASKS
from hfcompress.reuse import Reuse

if TYPE_CHECKING:
    from pathlib import Path

    from hfcompress.contracts import Json

KEY = "ab" * 32
TASK = TASKS.get("image-to-text")(None)


class Notes(Progress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)


@dataclass
class Maker:
    """A step and a prediction that count how often they are made."""

    folder: Path
    detail: dict[str, Json] = field(default_factory=lambda: {"layers": 2})
    predicted: Any = 0.5
    calls: int = 0

    def step(self, progress: Progress) -> dict[str, Json]:
        """Write a file, say something, and return the detail."""
        self.calls += 1
        progress.note("two layers were left alone")
        (self.folder / "config.json").write_text("{}", encoding="utf-8")
        return self.detail

    def predict(self, progress: Progress) -> Any:  # noqa: ANN401 - whatever is predicted
        """Return the predictions."""
        self.calls += 1
        progress.note("no VQA accuracy")
        return self.predicted


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_step_is_taken_once(tmp_path: Path) -> None:
    """The second time the files, the detail, the seconds and the notes are those of the first."""
    records, told = [], []
    makers = [Maker(_folder(tmp_path / name)) for name in ("one", "two")]
    for maker in makers:
        notes = Notes()
        reuse = Reuse(Cache(tmp_path / "cache"), "me/model", notes)
        records.append(reuse.step(KEY, "prune", maker.folder, maker.step))
        told.append(notes.notes)

    assert [maker.calls for maker in makers] == [1, 0]
    assert records[0] == StepRecord("prune", records[0].seconds, cached=False, detail={"layers": 2})
    assert records[1] == StepRecord("prune", records[0].seconds, cached=True, detail={"layers": 2})
    assert (makers[1].folder / "config.json").read_text(encoding="utf-8") == "{}"
    assert told[0] == ["two layers were left alone"]
    assert told[1] == ["two layers were left alone", "prune: the result of an earlier run, from the cache"]


def test_damaged_step_is_taken_again(tmp_path: Path) -> None:
    """A damaged entry is removed with a note, the step runs, and the entry is whole again."""
    maker, notes = Maker(_folder(tmp_path / "one")), Notes()
    cache = Cache(tmp_path / "cache")
    Reuse(cache, "me/model", notes).step(KEY, "prune", maker.folder, maker.step)
    (cache.root / "entries" / KEY / "files" / "config.json").write_text("{!", encoding="utf-8")
    again = Maker(_folder(tmp_path / "two"))
    record = Reuse(cache, "me/model", notes).step(KEY, "prune", again.folder, again.step)

    assert (again.calls, record.cached) == (1, False)
    assert f"the cached result {KEY[:12]} is removed and made again: config.json is not what was written" in notes.notes
    cache.check(KEY)


def test_without_a_cache_everything_is_made(tmp_path: Path) -> None:
    """Without a cache a step and a prediction are made each time, and nothing is kept."""
    maker, reuse = Maker(tmp_path), Reuse(None, "me/model", Progress())
    for _ in range(2):
        assert not reuse.step(KEY, "prune", tmp_path, maker.step).cached
        assert reuse.predictions(KEY, "image-to-text", TASK, maker.predict) == 0.5
    assert maker.calls == 4
    assert reuse.room_for(5) == {}


def test_predictions_are_made_once(tmp_path: Path) -> None:
    """The second time the predictions and the notes are those of the first."""
    notes, maker = Notes(), Maker(tmp_path)
    reuse = Reuse(Cache(tmp_path / "cache"), "me/model", notes)
    found = [reuse.predictions(KEY, "image-to-text", TASK, maker.predict) for _ in range(2)]

    assert (found, maker.calls) == ([0.5, 0.5], 1)
    assert notes.notes[0] == notes.notes[1] == "no VQA accuracy"
    assert notes.notes[2] == "image-to-text: predictions of an earlier run, from the cache"
    assert reuse.room_for(5) == {tmp_path / "cache": 5}


def test_predictions_without_a_form_are_told(tmp_path: Path) -> None:
    """Predictions that cannot be kept are used, and the user is told that they are not kept."""
    notes, maker = Notes(), Maker(tmp_path, predicted={np.dtype("int8")})
    cache = Cache(tmp_path / "cache")
    assert Reuse(cache, "m", notes).predictions(KEY, "image-to-text", TASK, maker.predict) == {np.dtype("int8")}
    assert notes.notes[-1].startswith(
        "image-to-text: its predictions are not kept for another run, because a builtins.set"
    )
    assert cache.keys() == []


def test_failed_step_is_not_kept(tmp_path: Path) -> None:
    """A step that fails leaves no entry and lets go of its lock."""

    def fail(progress: Progress) -> dict[str, Json]:
        del progress
        message = "no such node"
        raise QuantizationError(message)

    cache = Cache(tmp_path / "cache")
    with pytest.raises(QuantizationError, match=r"^no such node$"):
        Reuse(cache, "m", Progress()).step(KEY, "quantize", tmp_path, fail)
    assert cache.keys() == []
    with cache.hold(KEY):
        pass


@pytest.mark.parametrize("value", [float("nan"), {1}])
def test_detail_must_be_json(value: Any, tmp_path: Path) -> None:  # noqa: ANN401 - what no JSON can hold
    """A detail that no report could hold is an error that names the step."""
    maker = Maker(_folder(tmp_path / "one"), detail={"loss": value})
    with pytest.raises(RunError, match=r"what the step round says of its work cannot be kept: .*must be plain JSON"):
        Reuse(Cache(tmp_path / "cache"), "m", Progress()).step(KEY, "round", maker.folder, maker.step)
