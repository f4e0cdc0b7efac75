"""Promises of `hfcompress.yaml_source`: files, includes and overrides become one recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hfcompress.recipe import Gate
from tests.recipe_files import problem_lines, written_and_loaded

if TYPE_CHECKING:
    from pathlib import Path

H = "version: 1\nmodel: {id: me/clip}\n"
S = "steps: [{use: round-weights}]\n"
KEYS = "include, version, model, data, steps, evaluate, gates, benchmark, card, push, seed"


def test_include_merges_and_local_keys_win(here: Path) -> None:
    """Mappings merge deeply, lists are replaced, later includes win over earlier ones and the file over all."""
    (here / "parts").mkdir()
    (here / "parts" / "base.yaml").write_text(H + S + "benchmark: {repeats: 3, batch_size: 2}\nseed: 1\n", "utf-8")
    (here / "parts" / "two.yaml").write_text("include: base.yaml\nseed: 2\n", "utf-8")
    text = (
        "include: [parts/base.yaml, parts/two.yaml]\nbenchmark: {repeats: 5}\nsteps: [{use: round-weights, bits: 3}]\n"
    )
    recipe = written_and_loaded(text, here)

    assert (recipe.benchmark.repeats, recipe.benchmark.batch_size, recipe.seed) == (5, 2, 2)
    assert [step.options.bits for step in recipe.steps] == [3]  # type: ignore[attr-defined]
    assert "include" not in recipe.text


def test_mistakes_in_included_files_are_placed_there(here: Path) -> None:
    """An error names the file that holds the mistake."""
    (here / "base.yaml").write_text(H + "seed: x\n", "utf-8")
    (here / "recipe.yaml").write_text("include: base.yaml\n" + S, "utf-8")

    assert problem_lines("recipe.yaml") == ["base.yaml:3:1: seed: got 'x', expected an integer in [0, 4294967296)"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"recipe.yaml": "include: b.yaml\n", "b.yaml": "include: [recipe.yaml]\n"},
            "b.yaml:1:11: include[0]: the files include each other in a circle: recipe.yaml → b.yaml → recipe.yaml",
        ),
        ({"recipe.yaml": "include: none.yaml\n"}, "recipe.yaml:1:1: include: no such file: none.yaml"),
        (
            {"recipe.yaml": "include: 3\n"},
            "recipe.yaml:1:1: include: expected the name of a file, or a list of such names",
        ),
        (
            {"recipe.yaml": "include: b.yaml\n", "b.yaml": "include: [c.yaml, c.yaml]\n", "c.yaml": "seed:\n\t1"},
            "c.yaml:2:1: not YAML: found character that cannot start any token; indent with spaces, not with tabs",
        ),
    ],
)
def test_includes_that_cannot_be_followed(files: dict[str, str], expected: str, here: Path) -> None:
    """A circle, a missing file and an unreadable one are errors at the key that asks for them or in the file itself."""
    for name, text in files.items():
        (here / name).write_text(text, encoding="utf-8")

    assert problem_lines("recipe.yaml") == [expected]


def test_overrides_replace_and_create(here: Path) -> None:
    """`--set` reaches into lists, makes mappings that are missing, and reads its value as YAML."""
    recipe = written_and_loaded(
        H + S, here, "steps.0.bits=3", "gates.latency_ms=null", "push.repo=me/small", "benchmark={repeats: 9}"
    )

    assert recipe.steps[0].options.bits == 3  # type: ignore[attr-defined]
    assert recipe.gates == {"latency_ms": None, "size_bytes": Gate(min_ratio=1.0)}
    assert recipe.push is not None
    assert recipe.benchmark.repeats == 9


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "steps.3.bits=1",
            "--set steps.3.bits: steps[3]: cannot be reached: steps has 1 items, numbered from 0, got '3'",
        ),
        ("steps.x=1", "--set steps.x: steps.x: cannot be reached: steps has 1 items, numbered from 0, got 'x'"),
        ("version.x=1", "--set version.x: version.x: cannot be reached: version is 1, not a mapping"),
        ("seed", "--set seed: got 'seed', expected key=value, as in steps.0.use=prune"),
        ("a..b=1", "--set a..b: got 'a..b=1', expected key=value, as in steps.0.use=prune"),
        ("seed=[", "--set seed: not YAML: did not find expected node content"),
        ("include=b.yaml", "--set include: files are included before overrides apply; write it in the recipe"),
        ("seed=x", "--set seed: seed: got 'x', expected an integer in [0, 4294967296)"),
        ("sed=1", f"--set sed: sed: unknown key 'sed' (did you mean 'seed'?); known keys: {KEYS}"),
    ],
)
def test_overrides_that_are_wrong(override: str, expected: str, here: Path) -> None:
    """A mistake in `--set` is placed at the override, not in the file."""
    (here / "recipe.yaml").write_text(H + S, encoding="utf-8")

    assert problem_lines("recipe.yaml", override) == [expected]


def test_missing_file_and_folder(here: Path) -> None:
    """What cannot be a recipe is refused with its name."""
    (here / "folder").mkdir()

    assert problem_lines("none.yaml") == ["none.yaml: no such file"]
    assert problem_lines(here / "folder") == [f"{here / 'folder'}: this is a folder, expected a YAML file"]
