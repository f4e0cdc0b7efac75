"""YAML text → nodes that know their line and column, and plain values → YAML text.

Only plain scalars, lists and mappings are read, so a recipe from the Hub never runs code. Numbers follow YAML 1.2
(`1e-3` is one) and there are no dates: `2024-01-01` is text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.reader import Reader

from hfcompress.errors import Problem, RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["MAX_DEPTH", "MAX_INTEGER", "KeyPath", "Node", "Place", "compose", "dotted", "dump", "fail"]

KeyPath: TypeAlias = "tuple[str | int, ...]"

MAX_DEPTH = 50
MAX_ALIASED_NODES = 10_000
MAX_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_BaseLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_BaseLoader):  # type: ignore[misc, valid-type]  # libyaml's loader where PyYAML was built with it
    yaml_implicit_resolvers = dict(_RESOLVERS)  # noqa: RUF012 - as PyYAML declares it


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = dict(_RESOLVERS)  # noqa: RUF012

    def ignore_aliases(self, data: object) -> bool:
        """Write every value out in full."""
        del data
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))

_CONSTRUCTOR = SafeConstructor()
_SCALARS: dict[str, Callable[[Any], Any]] = {
    f"{_TAG}str": _CONSTRUCTOR.construct_scalar,
    f"{_TAG}int": _CONSTRUCTOR.construct_yaml_int,
    f"{_TAG}float": _CONSTRUCTOR.construct_yaml_float,
    f"{_TAG}bool": _CONSTRUCTOR.construct_yaml_bool,
    f"{_TAG}null": _CONSTRUCTOR.construct_yaml_null,
}


@dataclass(frozen=True)
class Place:
    """Where something is written; `line` and `column` count from 1 and are `None` outside of files."""

    source: str
    line: int | None = None
    column: int | None = None

    def problem(self, path: KeyPath, message: str) -> Problem:
        """Return the problem that a key has here."""
        return Problem(self.source, dotted(path), message, self.line, self.column)


@dataclass(frozen=True)
class Node:
    """A value and its place; in a mapping, the place of its key."""

    value: str | float | bool | dict[str, Node] | list[Node] | None
    place: Place


def dotted(path: KeyPath) -> str:
    """Return a path as people write it: `steps[0].towers.vision`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def dump(values: Mapping[str, Any]) -> str:
    """Return YAML text that reads back as `values`, keys in their order and aliases written out."""
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def compose(text: str, place: Place, problems: list[Problem]) -> Node:
    """Return the tree of a YAML text.

    Args:
        text: The text.
        place: Where the text begins; without a line, nothing of it gets one.
        problems: Gathers the mistakes that do not hinder reading on: duplicate keys and keys that are no text.

    Raises:
        RecipeError: The text is not one YAML document of plain values of a sane size.
    """
    return _Composer(place, problems).compose(text)


def fail(place: Place, message: str, path: KeyPath = ()) -> NoReturn:
    """Raise the one problem after which there is nothing to read on."""
    raise RecipeError([place.problem(path, message)])


class _Composer:
    """Turns one YAML text into nodes."""

    def __init__(self, start: Place, problems: list[Problem]) -> None:
        self._start = start
        self._problems = problems
        self._seen: set[int] = set()
        self._open: set[int] = set()
        self._aliased = 0

    def compose(self, text: str) -> Node:
        odd = Reader.NON_PRINTABLE.search(text)
        if odd:
            before = text[: odd.start()]
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            fail(self._at(line, column), f"not YAML: the character {odd.group()!r} is not allowed")
        try:
            self._check_depth(text)
            node = yaml.compose(text, Loader=_Loader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = self._at(mark.line + 1, mark.column + 1) if mark else self._start
            tab = "; indent with spaces, not with tabs" if mark and _is_tab(text, mark) else ""
            fail(place, f"not YAML: {error.problem or error.context}{tab}")
        if node is None:
            fail(self._start, "the file is empty, expected a recipe")
        return self._walk(node, self._place(node), ())

    def _check_depth(self, text: str) -> None:
        """Look at the flat stream of events first: composing deep nests would overflow the stack."""
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > MAX_DEPTH:
                fail(self._place(event), _TOO_DEEP)

    def _at(self, line: int, column: int) -> Place:
        return Place(self._start.source, line, column) if self._start.line else self._start

    def _place(self, node: yaml.Node | yaml.Event) -> Place:
        mark: Any = node.start_mark  # the parsers always set it
        return self._at(mark.line + 1, mark.column + 1)

    def _walk(self, node: yaml.Node, place: Place, path: KeyPath) -> Node:
        if id(node) in self._open:
            fail(place, "the alias contains itself", path)
        if len(path) > MAX_DEPTH:
            fail(place, _TOO_DEEP)
        self._aliased += id(node) in self._seen
        if self._aliased > MAX_ALIASED_NODES:
            fail(place, f"its aliases expand to more than {MAX_ALIASED_NODES} values", path[:1])
        self._seen.add(id(node))
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
                return Node(self._mapping(node, path), place)
            if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
                children = enumerate(node.value)
                return Node([self._walk(child, self._place(child), (*path, i)) for i, child in children], place)
            if isinstance(node, ScalarNode) and node.tag in _SCALARS:
                return Node(_scalar(node), place)
        except (ValueError, ConstructorError):
            fail(place, f"not YAML: {node.value!r} cannot be read as {node.tag.removeprefix(_TAG)}", path)
        finally:
            self._open.discard(id(node))
        return fail(place, f"the tag {node.tag.replace(_TAG, '!!')} is not allowed; expected plain values", path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Node]:
        items: dict[str, Node] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            place = self._place(key_node)
            key = key_node.value
            if key_node.tag == f"{_TAG}merge":
                merged.extend(value_node.value if isinstance(value_node, SequenceNode) else [value_node])
            elif key_node.tag != f"{_TAG}str":
                got = repr(key) if isinstance(key_node, ScalarNode) else "a list or a mapping"
                self._problems.append(place.problem(path, f"got {got} as a key, expected text; put it in quotes"))
            elif key in items:
                first = items[key].place
                text = f"duplicate key; the first one stands at {first.line}:{first.column}"
                self._problems.append(place.problem((*path, key), text))
            else:
                items[key] = self._walk(value_node, place, (*path, key))
        for value_node in merged:
            below = self._walk(value_node, self._place(value_node), path).value
            if not isinstance(below, dict):
                fail(self._place(value_node), "`<<` merges mappings only", path)
            items = {**below, **items}
        return items


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _scalar(node: ScalarNode) -> Any:  # noqa: ANN401 - text, number, boolean or nothing
    value = _SCALARS[node.tag](node)
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise ValueError
    return value


def _is_tab(text: str, mark: Any) -> bool:  # noqa: ANN401 - a mark of either loader
    lines = text.splitlines()
    return bool(mark.line < len(lines) and lines[mark.line][: mark.column + 1].endswith("\t"))
