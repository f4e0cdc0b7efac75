"""Promises of `hfcompress.benchmark`: any two models, whatever their runtimes, from a folder or from the Hub."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import hfcompress
from hfcompress.errors import UnknownNameError, UsageError
from tests.checkpoints import save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli, Ran
    from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.filterwarnings("ignore")
FAST: dict[str, Any] = {"repeats": 2, "threads": 1, "memory": False}


def test_two_checkpoints_in_torch(clip: Path, pruned: Ran) -> None:
    """The first is what the other is compared with; sizes, parameters and operations are those of the run's report."""
    found = hfcompress.benchmark(clip, pruned.folder, **FAST)
    report = hfcompress.Report.load(pruned.folder)

    assert (found.a.id, found.a.load_with, found.b.format) == ("clip-digits", "transformers.CLIPModel", "transformers")
    for name in ("size_bytes", "parameters", "flops"):
        assert (found[name].source, found[name].compressed) == (report[name].source, report[name].compressed)
    assert report.cost_details is not None
    assert (found.tower_flops, found.unmeasured) == (report.cost_details.tower_flops, ())
    assert found.environment["threads"] == 1
    assert found.a.files == report.cost_details.source_files
    assert found.a.inputs["pixel_values"] == (1, 3, 32, 32)


@pytest.mark.onnxruntime
def test_an_export_and_a_checkpoint(clip: Path, quickstart: Ran) -> None:
    """Each runs in its own runtime; the operations of an export are those that its report tells."""
    found = hfcompress.benchmark(quickstart.folder, clip, **FAST)
    report = hfcompress.Report.load(quickstart.folder)
    assert (found.a.format, found.b.format) == ("onnx", "transformers")
    for name in ("parameters", "flops", "size_bytes"):
        assert found[name].source == report[name].compressed
    assert found["latency_ms"].n == 2


@pytest.mark.onnxruntime
def test_an_export_that_nothing_tells_of(clip: Path, quickstart: Ran, tmp_path: Path) -> None:
    """Without a report, or with one of other files, parameters and operations are missing, and it says why."""
    bare = shutil.copytree(quickstart.folder, tmp_path / "bare")
    (bare / "config.json").write_text((bare / "config.json").read_text() + "\n")
    found = hfcompress.benchmark(clip, bare, **FAST, throughput_batch_sizes=[])
    assert [row.name for row in found.measurements] == ["size_bytes", "latency_ms", "latency_p90_ms"]
    assert {(row.name, row.reason) for row in found.unmeasured} == {
        (name, "they cannot be counted for B: it is an export (onnx) whose files are not those of its report.json")
        for name in ("parameters", "flops")
    }
    with pytest.raises(UnknownNameError, match=r"^'flops' was not measured \(they cannot be counted for B: .*size_b"):
        found["flops"]
    (bare / "report.json").unlink()
    parameters, flops = hfcompress.benchmark(bare, bare, **FAST, throughput_batch_sizes=[]).unmeasured
    why = "it is an export (onnx), of which only a report.json of hfcompress would tell"
    assert parameters.reason == flops.reason == f"they cannot be counted for A: {why}"


@pytest.mark.openvino
def test_two_exports(clip: Path, tmp_path: Path) -> None:
    """An export for OpenVINO stands beside one for ONNX Runtime."""
    hfcompress.quantize(clip, runtime="onnxruntime", mode="dynamic", output=tmp_path / "onnx")
    hfcompress.cast(clip, dtype="float16", runtime="openvino", output=tmp_path / "openvino")
    found = hfcompress.benchmark(tmp_path / "onnx", tmp_path / "openvino", **FAST)
    assert (found.a.format, found.b.format) == ("onnx", "openvino")
    assert found.b.load_with.startswith("optimum.intel.openvino.OVModelFor")


def test_models_of_different_inputs(clip: Path, tmp_path: Path) -> None:
    """Two models that take different inputs are each given their own, and the shapes are told."""
    save_checkpoint("whisper", tmp_path)
    found = hfcompress.benchmark(clip, tmp_path, **FAST)
    assert "input_features" in found.b.inputs
    assert {row.name for row in found.tower_flops} == {"text", "vision", "model"}


def test_a_revision_of_the_hub(hub: LoopbackHub, clip: Path) -> None:
    """A Hub id can name a revision, which is resolved to its commit."""
    hub.add_repo("acme/compared", clip)
    found = hfcompress.benchmark(clip, "acme/compared@main", **FAST)
    assert (found.b.id, found.b.revision) == ("acme/compared", hub.commits("acme/compared")[0].oid)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeat": 3}, r"^repeat: unknown key 'repeat' \(did you mean 'repeats'\?\); known keys: batch_size, repeats"),
        ({"batch_size": 0}, r"^batch_size: got 0, expected an integer of at least 1$"),
    ],
)
def test_wrong_options(options: dict[str, int], message: str, clip: Path) -> None:
    """An option is checked as a recipe's is."""
    with pytest.raises(UsageError, match=message):
        hfcompress.benchmark(clip, clip, **options)


# the command


def test_command_prints_a_table(cli: Cli, clip: Path, pruned: Ran) -> None:
    """The table names both models and what became of each cost, and the machine; stages go to standard error."""
    done = cli("benchmark", clip, pruned.folder, "--repeats", "2", "--threads", "1", "--no-memory")
    assert done.returncode == 0, done.stderr
    for words in ("A: clip-digits, transformers.CLIPModel", "B: out, transformers.CLIPModel", "threads: 1", "fewer"):
        assert words in done.stdout
    assert "memory" not in done.stdout
    assert "] benchmark" in done.stderr


def test_command_as_json(cli: Cli, clip: Path, pruned: Ran) -> None:
    """`--json` has every option's effect: batch sizes, calls, and the memory of each model."""
    options = ("--batch-size", "2", "--throughput-batch-size", "1", "--throughput-batch-size", "3")
    done = cli("benchmark", clip, pruned.folder, "--repeats", "2", "--threads", "1", "--json", *options)
    found = json.loads(done.stdout)
    rows = {row["name"]: row for row in found["measurements"]}

    assert found["a"]["inputs"]["pixel_values"] == [2, 3, 32, 32]
    assert (rows["latency_ms"]["label"], rows["latency_ms"]["n"]) == ("latency, p50, 2 rows", 2)
    assert rows["throughput_per_s_at_1"]["label"] == "throughput, 1 row a call"
    assert rows["parameters"]["ratio"] == rows["parameters"]["a"]["value"] / rows["parameters"]["b"]["value"] > 1
    assert rows["peak_memory_bytes"]["a"]["value"] > rows["model_memory_bytes"]["a"]["value"] > 0
    assert found["unmeasured"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{clip}", "{empty}"), r"{empty} holds no config.json, so it is not a checkpoint; "),
        (("{clip}", "acme/nobody"), "there is no model acme/nobody on the Hub, or it is private: "),
        (("{clip}", "{clip}", "--repeats", "0"), "repeats: got 0, expected an integer of at least 1"),
    ],
    ids=["no checkpoint", "no model", "no calls"],
)
def test_command_that_is_wrong(arguments: tuple[str, ...], message: str, cli: Cli, clip: Path, tmp_path: Path) -> None:
    """What is wrong with the command line is one line and exit code 2."""
    names = {"clip": str(clip), "empty": str(tmp_path)}
    done = cli("benchmark", *(word.format(**names) for word in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(message.format(**names))
