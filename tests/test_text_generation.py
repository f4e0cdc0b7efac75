"""Promises of the tasks that write texts, within a whole run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from hfcompress.changes import format_value
from hfcompress.report import Report
from tests.checkpoints import image_rows, save_checkpoint, sound_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli


@pytest.mark.parametrize(
    ("family", "task", "columns", "measured"),
    [
        (
            "whisper",
            "automatic-speech-recognition",
            ("audio", "text"),
            ["word_error_rate", "character_error_rate"],
        ),
        ("blip_captioning", "image-to-text", ("image", "text"), ["exact_match", "bleu", "chrf", "rouge_l", "cider"]),
    ],
)
def test_run_measures_source_and_result(
    family: str, task: str, columns: tuple[str, ...], measured: list[str], cli: Cli, tmp_path: Path
) -> None:
    """A recipe measures how texts changed, with differences that have intervals, and holds a gate on the divergence."""
    save_checkpoint(family, tmp_path / "model")
    rows = (sound_rows if "audio" in columns else image_rows)(6)
    rows.dataset.to_parquet(tmp_path / "rows" / "test.parquet")
    recipe = {
        "version": 1,
        "model": {"id": "model"},
        "data": {"rows": {"dataset": "rows", "split": "test", "columns": {name: name for name in columns}}},
        "steps": [{"use": "prune", "towers": {"all": {"ffn": 0.3}}, "importance": "magnitude"}],
        "evaluate": [{"task": task, "data": "rows", "max_new_tokens": 5, "batch_size": 4}],
        "gates": {"latency_ms": None, "output_kl_divergence": {"max_value": 20}},
        "benchmark": {"repeats": 1, "memory": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = cli("run", tmp_path / "recipe.yaml", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr

    report = Report.load(tmp_path / "out")
    found = {row.name: row for row in report.measurements if row.task == task}
    fidelity = ["identical_generations", "output_kl_divergence", "top1_agreement"]
    assert list(found) == [*measured, *fidelity]
    assert all((found[name].source is None) == (name in fidelity) for name in found)
    assert all((found[name].difference is None) == (name in fidelity) for name in found)
    divergence = found["output_kl_divergence"].compressed.value
    assert divergence > 0
    (gate,) = [gate for gate in report.gates if gate.name == "output_kl_divergence"]
    assert (gate.held, gate.got) == (True, divergence)
    assert format_value(divergence, "nats") in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
