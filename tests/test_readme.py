"""Promises of README.md that nothing else tests: what it shows of the program is what the program prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Cli

README = Path(__file__).parents[1] / "README.md"
RECIPE = """\
version: 1
model: {id: openai/clip-vit-base-patch32}
data:
  test: {dataset: uoft-cs/cifar10, split: test, columns: {image: img, label: label}}

steps:
  - use: prun
    towers: {all: {ffn: 0.1}}
  - use: quantize
    runtime: onnxruntime
    mode: 8bit
evaluate:
  - task: zero-shot-image-classification
    data: test
gates:
  zero_shot_accuracy: {max_dorp: 0.01}
"""


def test_mistakes(cli: Cli, tmp_path: Path) -> None:
    """The block of mistakes is what `validate` says of such a recipe, where no step of another package is installed."""
    (tmp_path / "my-recipe.yaml").write_text(RECIPE, encoding="utf-8")
    shown = re.search(
        r"### Mistakes\n\n```text\n\$ hfcompress validate my-recipe\.yaml\n(.*?)```",
        README.read_text("utf-8"),
        re.DOTALL,
    )
    done = cli("validate", "my-recipe.yaml", cwd=tmp_path)

    assert shown is not None
    assert done.returncode == 2
    assert done.stderr.replace(", round-weights", "") == shown[1]
