"""A recipe's file, the files it includes and the `--set` overrides → one tree of values that know their places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfcompress.errors import Problem, RecipeError
from hfcompress.yaml_text import MAX_DEPTH, MAX_INTEGER, KeyPath, Node, Place, compose, dotted, fail

__all__ = ["Document", "read_document"]

MAX_BYTES = 1_000_000
MAX_FILES = 100


@dataclass(frozen=True)
class Document:
    """A recipe as it is written, after includes and overrides.

    Attributes:
        values: Plain scalars, lists and mappings.
        base: The folder that relative paths start from.
        problems: Mistakes that do not hinder reading on: duplicate keys, overrides that lead nowhere.
    """

    values: dict[str, Any]
    base: Path
    problems: tuple[Problem, ...]
    _root: Node = field(compare=False)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Return the problem of a key, placed at the key or, where it is not written, at its nearest parent."""
        node = self._root
        for part in path:
            child = _child(node, part)
            if child is None:
                break
            node = child
        return node.place.problem(path, message)


def read_document(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), base: Path | None = None
) -> Document:
    """Read a recipe, merge what it includes, then apply overrides in order.

    Args:
        source: A YAML file, or the values themselves.
        overrides: Each `a.b.0.c=value`, the value in YAML.
        base: Where relative paths of models and datasets start; by default in the file's folder, or the current one.

    Raises:
        RecipeError: The text cannot be read as one mapping.
    """
    reader = _Reader()
    if isinstance(source, Mapping):
        default = Path.cwd()
        root = reader.included(reader.from_python(source, Place("recipe"), ()), Path(), ())
    else:
        default = Path(source).absolute().parent
        root = reader.file(Path(source), Place(str(source)), ())
    for override in overrides:
        root = reader.overridden(root, override)
    return Document(_plain(root), base or default, tuple(reader.problems), root)


def _plain(node: Node) -> Any:  # noqa: ANN401 - whatever YAML can say
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child) for child in node.value]
    return node.value


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(part))
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def _merged(base: Node, local: Node) -> Node:
    """Return `base` with everything that `local` says; mappings merge, anything else is replaced."""
    if not (isinstance(base.value, dict) and isinstance(local.value, dict)):
        return local
    value = dict(base.value)
    for key, child in local.value.items():
        value[key] = _merged(value[key], child) if key in value else child
    return Node(value, local.place)


class _Reader:
    """Reads the files of one recipe and gathers the problems that do not stop it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._files = 0

    def file(self, path: Path, asked: Place, chain: tuple[Path, ...], key: KeyPath = ()) -> Node:
        """Read a file and what it includes; `asked` is the place that names it and `chain` the files around it."""
        self._files += 1
        if self._files > MAX_FILES:
            fail(asked, f"includes more than {MAX_FILES} files", key)
        content = _content(path, asked, key)
        resolved = path.resolve()
        if resolved in chain:
            names = " → ".join(file.name for file in (*chain[chain.index(resolved) :], resolved))
            fail(asked, f"the files include each other in a circle: {names}", key)
        root = self._text(content, str(path))
        return self.included(root, path.parent, (*chain, resolved))

    def included(self, root: Node, folder: Path, chain: tuple[Path, ...]) -> Node:
        """Return the mapping on top of the files that its key `include` names."""
        if not isinstance(root.value, dict) or "include" not in root.value:
            return root
        local = dict(root.value)
        include = local.pop("include")
        names = include.value if isinstance(include.value, list) else [include]
        below = Node({}, root.place)
        for index, name in enumerate(names):
            key: KeyPath = ("include", index) if isinstance(include.value, list) else ("include",)
            if not isinstance(name.value, str):
                fail(name.place, "expected the name of a file, or a list of such names", key)
            below = _merged(below, self.file(folder / name.value, name.place, chain, key))
        return _merged(below, Node(local, root.place))

    def overridden(self, root: Node, override: str) -> Node:
        """Return the tree with one `a.b.0.c=value` in it; a path that leads nowhere is noted and changes nothing."""
        name, equals, text = override.partition("=")
        place = Place(f"--set {name}")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            self.problems.append(place.problem((), f"got {override!r}, expected key=value, as in steps.0.use=prune"))
            return root
        if parts[0] == "include":
            self.problems.append(place.problem((), "files are included before overrides apply; write it in the recipe"))
            return root
        try:
            value = compose(text, place, self.problems) if text.strip() else Node(None, place)
            return _replaced(root, parts, (), value)
        except RecipeError as error:
            self.problems.extend(error.problems)
            return root

    def from_python(self, value: object, place: Place, path: KeyPath) -> Node:
        """Return Python values as nodes."""
        if len(path) > MAX_DEPTH:
            fail(place, f"nested deeper than {MAX_DEPTH} levels", path[:3])
        if isinstance(value, Mapping):
            items: dict[str, Node] = {}
            for key, child in value.items():
                if isinstance(key, str):
                    items[key] = self.from_python(child, place, (*path, key))
                else:
                    self.problems.append(place.problem(path, f"got the key {key!r}, expected text"))
            return Node(items, place)
        if isinstance(value, (list, tuple)):
            return Node([self.from_python(child, place, (*path, i)) for i, child in enumerate(value)], place)
        if isinstance(value, Path):
            return Node(str(value), place)
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            fail(place, f"expected a number of at most {MAX_INTEGER} in size", path)
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            fail(place, "expected text that can be written as UTF-8", path)
        if value is None or isinstance(value, (str, bool, int, float)):
            return Node(value, place)
        return fail(place, f"got an object of type {type(value).__name__}, expected what YAML can say", path)

    def _text(self, text: str, source: str) -> Node:
        place = Place(source, 1, 1)
        root = compose(text, place, self.problems)
        if isinstance(root.value, dict):
            return root
        got = {str: "text", list: "a list", type(None): "null"}.get(type(root.value), repr(root.value))
        return fail(root.place, f"got {got}, expected a mapping with the keys version, model, steps")


def _content(path: Path, asked: Place, key: KeyPath) -> str:
    named = f": {path}" if key else ""
    try:
        if path.is_dir():
            fail(asked, f"this is a folder, expected a YAML file{named}", key)
        if not path.is_file():
            fail(asked, f"{'not a regular file' if path.exists() else 'no such file'}{named}", key)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        fail(asked, f"cannot be read: {error.strerror}{named}", key)
    if len(content) > MAX_BYTES:
        fail(Place(str(path)), f"larger than {MAX_BYTES // 1_000_000} MB, which no recipe is")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        before = content[content.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8-sig", "replace")
        fail(Place(str(path), line, len(before) + 1), "not UTF-8 text; save the file with that encoding")


def _replaced(node: Node, parts: list[str], done: KeyPath, value: Node) -> Node:
    """Return `node` with `value` at `parts`; mappings that are missing on the way are made."""
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    held = node.value
    if isinstance(held, list):
        if not part.isdecimal() or int(part) >= len(held):
            there = f"{len(held)} items, numbered from 0" if held else "no items"
            fail(
                value.place,
                f"cannot be reached: {dotted(done)} has {there}, got {part!r}",
                (*done, int(part) if part.isdecimal() else part),
            )
        index = int(part)
        changed = _replaced(held[index], rest, (*done, index), value)
        return Node([*held[:index], changed, *held[index + 1 :]], node.place)
    if isinstance(held, dict) or held is None:
        items = held or {}
        inner = items.get(part, Node(None, value.place))
        return Node({**items, part: _replaced(inner, rest, (*done, part), value)}, node.place)
    return fail(value.place, f"cannot be reached: {dotted(done)} is {held!r}, not a mapping", (*done, part))
