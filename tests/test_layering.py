"""Imports point down: a part knows those below it and none above."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hfcompress

PACKAGE = Path(hfcompress.__file__).parent
LAYERS = (
    {"redaction"},
    {"errors"},
    {"contracts"},
    {"registry", "imports", "narrow_layers", "nibbles", "quantized", "graph_names", "rounding", "checksums", "shards"}
    | {"remote_code", "containment"},
    {"narrowing"},
    {
        "extras",
        "cost_details",
        "environment",
        "yaml_text",
        "anatomy",
        "intervals",
        "loader",
        "outputs",
        "changes",
        "licenses",
        "durable",
    },
    {"processes"},
    {"audio", "locks", "predictions", "space", "needs"},
    {"cache"},
    {"yaml_source", "validation", "inputs", "probes"},
    {"runtimes", "recipe_checks", "report", "twin", "canvas"},
    {"pruning", "quantization", "casting", "evaluation", "recipe", "gates", "part_plots", "snippet"}
    | {"timing", "sizes", "flops", "peak_memory"},
    {"plots", "tower_bytes", "call_inputs", "hub", "staging"},
    {"card", "schema", "data", "inspection", "overlap"},
    {"ingredients", "reuse"},
    {"artifact", "measure", "costs", "page", "chain"},
    {"publication"},
    {"api", "pipeline", "comparison"},
    {"reproduction"},
    {"display"},
    {"cache_commands"},
    {"cli"},
    {"__main__"},
)
"""The parts, lowest first: a module or, where one is, a folder. The package itself only names what is public."""
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def part_of(file: Path) -> str:
    """Return the part that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """Return the modules that a file imports anywhere in it, but for those that only type checkers read."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        waiting += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down(file: Path) -> None:
    """A module imports its own part and the layers below, also inside of its functions."""
    part = part_of(file)
    parts = {name.split(".")[1] for name in imports(file) if name.startswith("hfcompress.")}
    above = {name for name in parts if name != part and RANK[name] >= RANK[part]}

    assert above == set(), f"{part} is in the layer of {sorted(LAYERS[RANK[part]])}"


def test_every_part_has_its_layer() -> None:
    """A new part must be given its place, and one that is gone must lose it."""
    assert {part_of(file) for file in MODULES} == set(RANK)


def test_the_network_is_in_two_places() -> None:
    """Only `hub` and `data` use the client and `datasets`; the card and its snippet use its forms and checks alone.

    The classes of the client's errors come without the client.
    """
    network = {"huggingface_hub", "datasets"}
    used = {file: imports(file) - {"huggingface_hub.errors"} for file in MODULES}
    users = {part_of(file) for file, names in used.items() if {name.split(".")[0] for name in names} & network}
    assert users == {"hub", "data", "card", "snippet"}
