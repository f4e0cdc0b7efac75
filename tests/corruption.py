"""Folders with something wrong in them: one mistake for each number, the same at every run."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["corrupt"]

_LENGTH_BYTES = 8
"""How long the number is that tells the length of a safetensors header."""

ODD: tuple[Any, ...] = (None, True, 0, -1, 2**40, 1e30, "", "relu\x00", [], {}, [[1, 2], "x"], {"a": {"b": []}})
"""Values of every type of JSON, those included that fit a key by type alone."""


def corrupt(folder: Path, number: int) -> str:
    """Change one thing in a folder and tell what; the number decides which file and what becomes of it."""
    draw = random.Random(number)  # noqa: S311 - no secret
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = files[number % len(files)]
    ways = [_truncated, _flipped, _emptied, _removed, _folder]
    if file.suffix == ".json":
        ways += [_retyped, _retyped, _retyped, _without_key, _with_key, _renamed, _listed]
    if file.suffix == ".safetensors":
        ways += [_shapes_swapped, _shape_changed, _tensor_renamed, _tensor_dropped, _dtype_changed, _offsets_moved]
    way = draw.choice(ways)
    return f"{number}: {file.relative_to(folder).as_posix()} {way.__name__.strip('_')} {way(file, draw) or ''}".strip()


def _truncated(file: Path, draw: random.Random) -> str:
    content = file.read_bytes()
    length = draw.randrange(max(1, len(content)))
    file.write_bytes(content[:length])
    return f"to {length} of {len(content)} bytes"


def _flipped(file: Path, draw: random.Random) -> str:
    content = bytearray(file.read_bytes() or b"\0")
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    content[at] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {at}"


def _emptied(file: Path, _: random.Random) -> None:
    file.write_bytes(b"")


def _removed(file: Path, _: random.Random) -> None:
    file.unlink()


def _folder(file: Path, _: random.Random) -> None:
    file.unlink()
    file.mkdir()


def _places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value inside of a JSON value; of long lists and mappings, of their first items."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())[:60]
    elif isinstance(value, list):
        items = list(enumerate(value))[:8]
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _holder(value: Any, path: tuple[str | int, ...]) -> Any:  # noqa: ANN401 - JSON
    for part in path[:-1]:
        value = value[part]
    return value


def _retyped(file: Path, draw: random.Random) -> str:
    value = json.loads(file.read_text(encoding="utf-8"))
    path, odd = draw.choice(list(_places(value))), draw.choice(ODD)
    _holder(value, path)[path[-1]] = odd
    file.write_text(json.dumps(value), encoding="utf-8")
    return f"{'.'.join(map(str, path))} = {odd!r}"


def _keyed(value: object) -> list[tuple[str | int, ...]]:
    return [path for path in _places(value) if isinstance(path[-1], str)]


def _without_key(file: Path, draw: random.Random) -> str:
    value = json.loads(file.read_text(encoding="utf-8"))
    path = draw.choice(_keyed(value))
    del _holder(value, path)[path[-1]]
    file.write_text(json.dumps(value), encoding="utf-8")
    return ".".join(map(str, path))


def _with_key(file: Path, draw: random.Random) -> str:
    value = json.loads(file.read_text(encoding="utf-8"))
    path = draw.choice(_keyed(value))
    _holder(value, path)["surprise"] = draw.choice(ODD)
    file.write_text(json.dumps(value), encoding="utf-8")
    return ".".join(map(str, path[:-1]))


def _renamed(file: Path, draw: random.Random) -> str:
    value = json.loads(file.read_text(encoding="utf-8"))
    path = draw.choice(_keyed(value))
    held = _holder(value, path)
    held[f"{path[-1]}x"] = held.pop(path[-1])
    file.write_text(json.dumps(value), encoding="utf-8")
    return ".".join(map(str, path))


def _listed(file: Path, _: random.Random) -> None:
    file.write_text("[1, 2]", encoding="utf-8")


def _header(file: Path) -> tuple[dict[str, Any], bytes]:
    content = file.read_bytes()
    length = int.from_bytes(content[:_LENGTH_BYTES], "little")
    return json.loads(content[_LENGTH_BYTES : _LENGTH_BYTES + length]), content[_LENGTH_BYTES + length :]


def _with_header(file: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(_LENGTH_BYTES, "little") + text + data)


def _tensors(header: dict[str, Any]) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def _shapes_swapped(file: Path, draw: random.Random) -> str:
    """Exchange rows and columns of a matrix, which no size of a file gives away."""
    header, data = _header(file)
    name = draw.choice([name for name in _tensors(header) if len(set(header[name]["shape"])) > 1])
    header[name]["shape"].reverse()
    _with_header(file, header, data)
    return name


def _shape_changed(file: Path, draw: random.Random) -> str:
    header, data = _header(file)
    name = draw.choice(_tensors(header))
    header[name]["shape"] = draw.choice([[], [0], [1, *header[name]["shape"]], [2**60, 2**10], [-1], "x", None, [1.5]])
    _with_header(file, header, data)
    return f"{name} = {header[name]['shape']}"


def _tensor_renamed(file: Path, draw: random.Random) -> str:
    header, data = _header(file)
    name = draw.choice(_tensors(header))
    header[f"{name}x"] = header.pop(name)
    _with_header(file, header, data)
    return name


def _tensor_dropped(file: Path, draw: random.Random) -> str:
    """Take the last tensor out, with its data, so that the file is a right one by itself."""
    del draw
    header, data = _header(file)
    name = max(_tensors(header), key=lambda tensor: header[tensor]["data_offsets"][1])
    start = header.pop(name)["data_offsets"][0]
    _with_header(file, header, data[:start])
    return name


def _dtype_changed(file: Path, draw: random.Random) -> str:
    header, data = _header(file)
    name = draw.choice(_tensors(header))
    header[name]["dtype"] = draw.choice(["I32", "U32", "F64", "F16", "F99", 7, None])
    _with_header(file, header, data)
    return f"{name} = {header[name]['dtype']}"


def _offsets_moved(file: Path, draw: random.Random) -> str:
    header, data = _header(file)
    name = draw.choice(_tensors(header))
    start, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = draw.choice(
        [[end, start], [start + 4, end + 4], [0, end - start], [-4, end], [0, 2**62]]
    )
    _with_header(file, header, data)
    return f"{name} = {header[name]['data_offsets']}"
