"""Promises of `hfcompress.yaml_text`: what YAML is read, and how what cannot be read is reported."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.recipe_files import problem_lines, written_and_loaded

if TYPE_CHECKING:
    from pathlib import Path

H = "version: 1\nmodel: {id: me/clip}\n"
S = "steps: [{use: round-weights}]\n"

BAD = [
    pytest.param("version: 1\nmodel: [1\n", ["3:1: not YAML: did not find expected ',' or ']'"], id="not yaml"),
    pytest.param(
        "version: 1: 2\n", ["1:11: not YAML: mapping values are not allowed in this context"], id="two colons"
    ),
    pytest.param(
        "version: 1\nmodel:\n\tid: me/clip\n",
        ["3:1: not YAML: found character that cannot start any token; indent with spaces, not with tabs"],
        id="tab",
    ),
    pytest.param(
        "version: 1\nmodel: {id: me/\x01clip}\n",
        ["2:16: not YAML: the character '\\x01' is not allowed"],
        id="control character",
    ),
    pytest.param(H + S + "---\n" + H, ["4:1: not YAML: but found another document"], id="two documents"),
    pytest.param("", ["1:1: the file is empty, expected a recipe"], id="empty"),
    pytest.param("# nothing yet\n", ["1:1: the file is empty, expected a recipe"], id="only a comment"),
    pytest.param(
        "- version: 1\n", ["1:1: got a list, expected a mapping with the keys version, model, steps"], id="list on top"
    ),
    pytest.param(
        "a recipe\n", ["1:1: got text, expected a mapping with the keys version, model, steps"], id="text on top"
    ),
    pytest.param(
        H + "model: {id: me/other}\n" + S,
        ["3:1: model: duplicate key; the first one stands at 2:1"],
        id="duplicate key",
    ),
    pytest.param(
        H + "steps:\n  - use: round-weights\n    bits: 7\n    bits: 8\n    use: prune\n",
        [
            "6:5: steps[0].bits: duplicate key; the first one stands at 5:5",
            "7:5: steps[0].use: duplicate key; the first one stands at 4:5",
        ],
        id="duplicate keys, nested",
    ),
    pytest.param(
        H + S + "on: 3\n", ["4:1: got 'on' as a key, expected text; put it in quotes"], id="key that is a boolean"
    ),
    pytest.param(
        H + S + "[a, b]: 3\n",
        ["4:1: got a list or a mapping as a key, expected text; put it in quotes"],
        id="key that is a list",
    ),
    pytest.param(
        H + "steps: !!python/object/apply:os.system [ls]\n",
        ["3:1: steps: the tag !!python/object/apply:os.system is not allowed; expected plain values"],
        id="python tag",
    ),
    pytest.param(
        H + S + "seed: !env SEED\n", ["4:1: seed: the tag !env is not allowed; expected plain values"], id="own tag"
    ),
    pytest.param(
        H + S + "push: {repo: !!binary aGk=}\n",
        ["4:8: push.repo: the tag !!binary is not allowed; expected plain values"],
        id="binary",
    ),
    pytest.param(
        H + S + "seed: !!int seven\n", ["4:1: seed: not YAML: 'seven' cannot be read as int"], id="unreadable number"
    ),
    pytest.param(
        H + S + "seed: 0xfffffffffffffffffff\n",
        ["4:1: seed: not YAML: '0xfffffffffffffffffff' cannot be read as int"],
        id="huge number",
    ),
    pytest.param(H + "steps: *mine\n", ["3:8: not YAML: found undefined alias"], id="undefined alias"),
    pytest.param(H + "steps: &a [*a]\n", ["3:8: steps[0]: the alias contains itself"], id="alias of itself"),
    pytest.param(H + S + "push: {<<: 3}\n", ["4:12: push: `<<` merges mappings only"], id="merge of a list"),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_what_cannot_be_read_is_named_with_its_place(text: str, expected: list[str], here: Path) -> None:
    """The place is that of the character or the key that is wrong."""
    (here / "recipe.yaml").write_text(text, encoding="utf-8")

    assert [f"recipe.yaml:{line}" for line in expected] == problem_lines("recipe.yaml")


def test_text_reads_back_as_the_same_recipe(here: Path) -> None:
    """`text` holds the whole recipe as it ran, and `sha256` is its hash."""
    push = 'push: {repo: me/small, message: "1e-3", revision: 2024-01-01}\n'
    first = written_and_loaded(H + S + push, here, "seed=7")
    second = written_and_loaded(first.text, here)

    assert first.push is not None
    assert (first.push.message, first.push.revision) == ("1e-3", "2024-01-01")
    assert first == second
    assert first.text == second.text
    assert first.sha256 == hashlib.sha256(first.text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"version: 1\nmodel: \xc3\xa9\xff\n", ":2:9: not UTF-8 text; save the file with that encoding"),
        (b"#" * 1_000_001, ": larger than 1 MB, which no recipe is"),
        (b"[" * 60 + b"]" * 60, ":1:51: nested deeper than 50 levels"),
        (b"[" * 100_000, ":1:51: nested deeper than 50 levels"),
        (b"- " * 100_000, ":1:101: nested deeper than 50 levels"),
    ],
)
def test_hostile_files_are_refused(content: bytes, expected: str, here: Path) -> None:
    """Size, encoding and depth are checked before anything is built."""
    (here / "recipe.yaml").write_bytes(content)

    assert problem_lines("recipe.yaml") == ["recipe.yaml" + expected]


@pytest.mark.parametrize(
    "link", ["[*{0}, *{0}, *{0}, *{0}, *{0}, *{0}]", "{{<<: [*{0}, *{0}, *{0}, *{0}, *{0}, *{0}]}}"]
)
def test_alias_bombs_are_refused(link: str, here: Path) -> None:
    """Aliases of aliases, as values or as merge keys, stop at 10,000 values."""
    bomb = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {link.format(f'a{i - 1}')}\n" for i in range(1, 30))
    (here / "recipe.yaml").write_text(bomb, encoding="utf-8")

    (line,) = problem_lines("recipe.yaml")
    assert line.endswith("its aliases expand to more than 10000 values")


def test_aliases_and_merge_keys_are_read(here: Path) -> None:
    """Plain YAML reuse works, and keys beside `<<` win."""
    text = H + "benchmark: &b {repeats: 3, threads: 2}\nsteps: [&s {use: round-weights, bits: 4}, {<<: *s, bits: 5}]\n"
    recipe = written_and_loaded(text, here)

    assert [step.options.bits for step in recipe.steps] == [4, 5]  # type: ignore[attr-defined]
