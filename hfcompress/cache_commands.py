"""`hfcompress cache`: list, remove and check the results that runs have kept."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hfcompress.cache import Cache, cache_home
from hfcompress.changes import format_value
from hfcompress.errors import BusyError, CorruptEntryError, UsageError

if TYPE_CHECKING:
    from hfcompress.cache import Entry

__all__ = ["cache_app"]

cache_app = typer.Typer(help="List, remove and check the results that runs have kept.", no_args_is_help=True)
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_SHOWN = 12
"""Digits of a key that a table shows; `rm` takes as many as tell it from the others."""


@cache_app.command(name="ls")
def list_entries(as_json: _AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """List the kept results: of which step or task, for which model, their size and age."""
    cache = Cache(cache_home())
    entries = sorted((cache.entry(key) for key in cache.keys()), key=lambda entry: -entry.created)  # noqa: SIM118
    if as_json:
        typer.echo(json.dumps([_row(entry) for entry in entries], indent=2))
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("key", "kind", "of", "model"):
        table.add_column(name, overflow="fold")
    for name in ("size", "age"):
        table.add_column(name, justify="right")
    for entry in entries:
        about = entry.about
        words = ("corrupt", "", "") if about is None else (about.kind, about.title, about.model)
        table.add_row(
            entry.key[:_SHOWN], *map(escape, words), format_value(entry.size_bytes, "bytes"), _age(entry.created)
        )
    total = format_value(sum(entry.size_bytes for entry in entries), "bytes")
    Console().print(table)
    Console(stderr=True).print(f"{_results(len(entries))}, {total}, in {cache.root}", markup=False, highlight=False)


@cache_app.command(name="rm")
def remove_entries(
    keys: Annotated[list[str] | None, typer.Argument(help="Keys, or how they begin.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every result.")] = False,  # noqa: FBT002
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Remove what is older: 30m, 12h, 7d, 4w.")
    ] = None,
    as_json: _AsJson = False,  # noqa: FBT002
) -> None:
    """Remove kept results; the next run that needs one makes it again."""
    if not keys and not everything and older_than is None:
        msg = "nothing to remove is named; give keys that `hfcompress cache ls` lists, --older-than AGE, or --all"
        raise UsageError(msg)
    age = None if older_than is None else _seconds(older_than)
    cache = Cache(cache_home())
    chosen = _chosen(cache, keys or [])
    if everything or age is not None:
        chosen += [cache.entry(key) for key in cache.keys()]  # noqa: SIM118
    if age is not None:
        chosen = [entry for entry in chosen if time.time() - entry.created > age]
    chosen = list({entry.key: entry for entry in chosen}.values())
    busy: list[BusyError] = []
    removed: list[Entry] = []
    for entry in chosen:
        try:
            with cache.hold(entry.key):
                cache.drop(entry.key)
        except BusyError as error:
            busy.append(error)
        else:
            removed.append(entry)
    if as_json:
        typer.echo(json.dumps([entry.key for entry in removed], indent=2))
    else:
        freed = format_value(sum(entry.size_bytes for entry in removed), "bytes")
        typer.echo(f"removed {_results(len(removed))}, {freed}")
    if busy:
        raise busy[0]


@cache_app.command()
def verify(as_json: _AsJson = False) -> None:  # noqa: FBT002 - typer's form
    """Read every kept result and compare it with its manifest; exit code 1 if one differs."""
    cache = Cache(cache_home())
    corrupt: dict[str, str] = {}
    keys = cache.keys()
    for key in keys:
        try:
            with cache.hold(key):
                cache.check(key)
        except CorruptEntryError as error:
            corrupt[key] = str(error)
    if as_json:
        typer.echo(json.dumps({"checked": keys, "corrupt": corrupt}, indent=2))
    else:
        typer.echo(f"{_results(len(keys))} checked, {len(corrupt)} corrupt")
    if corrupt:
        lines = "\n".join(f"{key[:_SHOWN]}: {text}" for key, text in corrupt.items())
        msg = f"{lines}\nTo remove them:\n  hfcompress cache rm {' '.join(key[:_SHOWN] for key in corrupt)}"
        raise CorruptEntryError(msg)


def _row(entry: Entry) -> dict[str, str | float | None]:
    """Return an entry as `ls --json` lists it; a corrupt one has no kind."""
    about = entry.about
    told = {name: None if about is None else getattr(about, name) for name in ("kind", "title", "model", "seconds")}
    return {"key": entry.key, **told, "size_bytes": entry.size_bytes, "created": entry.created}


def _chosen(cache: Cache, prefixes: list[str]) -> list[Entry]:
    """Return the entries whose keys begin so.

    Raises:
        UsageError: None does, for one of the prefixes.
    """
    keys = cache.keys()
    found: list[str] = []
    for prefix in prefixes:
        matching = [key for key in keys if prefix and key.startswith(prefix)]
        if not matching:
            msg = f"no cached result has a key that begins with {prefix!r}; `hfcompress cache ls` lists them"
            raise UsageError(msg)
        found += matching
    return [cache.entry(key) for key in found]


def _seconds(age: str) -> float:
    """Return the seconds of "30m", "12h", "7d" or "4w".

    Raises:
        UsageError: The text is no such age.
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([mhdw])", age)
    if match is None:
        msg = f"--older-than: got {age!r}, expected a number with its unit: 30m, 12h, 7d or 4w"
        raise UsageError(msg)
    return float(match[1]) * _SECONDS[match[2]]


def _age(created: float) -> str:
    """Return how long ago something was, in the largest unit of which there is one: "3 d"."""
    seconds = max(0.0, time.time() - created)
    for unit in ("w", "d", "h", "m"):
        if seconds >= _SECONDS[unit]:
            return f"{int(seconds // _SECONDS[unit])} {unit}"
    return f"{int(seconds)} s"


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count} results"
