"""Results of earlier runs in place of making them again."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hfcompress.cache import About
from hfcompress.contracts import Progress, StepRecord
from hfcompress.durable import remove
from hfcompress.errors import CacheError, CorruptEntryError, RunError
from hfcompress.predictions import load_predictions, save_predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pydantic import JsonValue

    from hfcompress.cache import Cache, Kind
    from hfcompress.contracts import Json, Task
    from hfcompress.errors import BusyError

__all__ = ["Reuse"]

T = TypeVar("T")


class Reuse:
    """Gives what a run asks for from the cache, or has it made and keeps it there.

    Whoever asks for what another process makes at that time waits for it.

    Args:
        cache: Where results are kept; without one, everything is made.
        model: The model that the run begins with, as a list of the entries names it.
        progress: Hears what is found, and what a step or a task would have said if it had run.
    """

    def __init__(self, cache: Cache | None, model: str, progress: Progress) -> None:
        self._cache = cache
        self._model = model
        self._progress = progress

    def room_for(self, size_bytes: int) -> dict[Path, int]:
        """Return how many bytes a result of that size takes, and where."""
        return {} if self._cache is None else {self._cache.root: size_bytes}

    def step(self, key: str, use: str, folder: Path, make: Callable[[Progress], dict[str, Json]]) -> StepRecord:
        """Fill an empty folder with what a step makes.

        Args:
            key: The hash of everything that goes into it.
            use: The step's name.
            folder: The folder.
            make: Fills it and returns the step's detail.

        Returns:
            The record of the step; the seconds of one that comes from the cache are those it took when it ran.

        Raises:
            RunError: The step failed, or its detail is not plain JSON.
        """
        if self._cache is None:
            detail, about = self._made("step", use, make)
            return StepRecord(use, about.seconds, cached=False, detail=detail)
        with self._cache.hold(key, self._waiting):
            found = self._fetched(key, folder)
            if found is not None:
                self._progress.note(f"{use}: the result of an earlier run, from the cache")
                return StepRecord(use, found.seconds, cached=True, detail=cast("dict[str, Json]", found.detail))
            detail, about = self._made("step", use, make)
            self._cache.store(key, folder, replace(about, detail=_plain(use, detail)))
        return StepRecord(use, about.seconds, cached=False, detail=detail)

    def predictions(self, key: str, title: str, task: Task, make: Callable[[Progress], T]) -> T:
        """Return what a model predicts for a task.

        Args:
            key: The hash of everything that goes into it.
            title: The task's name.
            task: The task; its package is where the predictions' classes may come from.
            make: Predicts.
        """
        if self._cache is None:
            return make(self._progress)
        with self._cache.hold(key, self._waiting), self._cache.workspace(key) as folder:
            if self._fetched(key, folder) is not None:
                packages = {"hfcompress", type(task).__module__.partition(".")[0]}
                self._progress.note(f"{title}: predictions of an earlier run, from the cache")
                return cast("T", load_predictions(folder, packages))
            predicted, about = self._made("predictions", title, make)
            try:
                save_predictions(predicted, folder)
            except CacheError as error:
                self._progress.note(f"{title}: its predictions are not kept for another run, because {error}")
            else:
                self._cache.store(key, folder, about)
        return predicted

    def _made(self, kind: Kind, title: str, make: Callable[[Progress], T]) -> tuple[T, About]:
        """Have something made, and tell how long it took and what was said meanwhile."""
        heard, start = _Heard(self._progress), time.perf_counter()
        made = make(heard)
        seconds = round(time.perf_counter() - start, 3)
        return made, About(kind, title, self._model, seconds, notes=tuple(heard.notes))

    def _fetched(self, key: str, folder: Path) -> About | None:
        """Fill the empty folder from the cache, if the entry is there and whole; one that is not is removed."""
        if self._cache is None:
            return None
        try:
            about = self._cache.fetch(key, folder)
        except CorruptEntryError as error:
            self._progress.note(f"the cached result {key[:12]} is removed and made again: {error}")
            self._cache.drop(key)
            for path in folder.iterdir():
                remove(path)
            return None
        for note in () if about is None else about.notes:
            self._progress.note(note)
        return about

    def _waiting(self, busy: BusyError) -> None:
        self._progress.note(f"waiting: {busy}")


def _plain(use: str, detail: dict[str, Json]) -> JsonValue:
    try:
        return cast("JsonValue", json.loads(json.dumps(detail, allow_nan=False)))
    except (TypeError, ValueError) as error:
        msg = f"what the step {use} says of its work cannot be kept: {error}; every detail must be plain JSON"
        raise RunError(msg) from error


class _Heard(Progress):
    """Hands on what it hears and keeps the notes."""

    def __init__(self, listener: Progress) -> None:
        self.notes: list[str] = []
        self._listener = listener

    def stage(self, name: str) -> None:
        self._listener.stage(name)

    def track(self, items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        return self._listener.track(items, total, label)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._listener.note(text)
