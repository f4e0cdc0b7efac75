"""Promises of what a checkpoint's folder may lead to: its own files, and nothing else on the machine."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import pytest

import hfcompress
from hfcompress.anatomy import load_config
from hfcompress.containment import check_contained, is_contained
from hfcompress.errors import CheckpointError
from hfcompress.inputs import load_processor

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Cli, Ran

pytestmark = pytest.mark.filterwarnings("ignore")
GRAPH = "onnx/model_quantized.onnx"
TASK = "zero-shot-image-classification"
FAST = {"repeats": 2, "threads": 1, "memory": False}


@pytest.fixture
def copy(clip: Path, tmp_path: Path) -> Path:
    """Return a copy of the quickstart's model, beside which lies what is not its own."""
    (tmp_path / "secret.bin").write_bytes(b"secret")
    return shutil.copytree(clip, tmp_path / "copy")


@pytest.fixture
def in_cache(copy: Path, tmp_path: Path) -> Callable[[Path], Path]:
    """Return a function that puts a folder where the client of the Hub would: links to blobs beside the snapshot."""
    del copy

    def cached(folder: Path) -> Path:
        home = tmp_path / "models--acme--clip"
        snapshot = home / "snapshots" / "0123"
        (home / "blobs").mkdir(parents=True)
        for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
            blob = Path(shutil.copyfile(file, home / "blobs" / str(number)))
            link = snapshot / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(*[".."] * (len(link.relative_to(home).parts) - 1), "blobs", blob.name))
        return snapshot

    return cached


def replace(folder: Path, name: str, target: str) -> None:
    """Put a link in the place of a file."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "notes.txt"])
@pytest.mark.parametrize("target", ["../secret.bin", "{}/secret.bin", "/etc/hostname"])
def test_links_that_lead_out(name: str, target: str, copy: Path, tmp_path: Path) -> None:
    """A link out of the folder is refused by its name and where it leads."""
    target = target.format(tmp_path)
    replace(copy, name, target)
    with pytest.raises(CheckpointError, match=re.escape(f"{copy / name} is a symbolic link to {target!r}")):
        hfcompress.load(copy)


@pytest.mark.parametrize("target", ["..", "../nothing", "onnx/../.."])
def test_folders_that_lead_out(target: str, copy: Path) -> None:
    """A folder that is a link out of the checkpoint is refused as a file is, and so is what is not there yet."""
    replace(copy, "onnx", target)
    with pytest.raises(CheckpointError, match=f"onnx is a symbolic link to {re.escape(repr(target))}"):
        hfcompress.load(copy)


def test_shard_that_leads_out(clip: Path, tmp_path: Path) -> None:
    """One of several files of weights may be no link out of the folder either."""
    folder = tmp_path / "sharded"
    hfcompress.load(clip).save_pretrained(folder, max_shard_size="1MB")
    (shard, *_) = sorted(folder.glob("model-*.safetensors"))
    shard.rename(tmp_path / shard.name)
    shard.symlink_to(tmp_path / shard.name)
    with pytest.raises(CheckpointError, match=rf"{shard.name} is a symbolic link to .*, which is outside of"):
        hfcompress.load(folder)


def test_links_within(copy: Path) -> None:
    """A link to another file of the folder is followed."""
    (copy / "model.safetensors").rename(copy / "weights")
    (copy / "model.safetensors").symlink_to("weights")
    assert hfcompress.load(copy).num_parameters() > 0


def test_cache_of_the_client(in_cache: Callable[[Path], Path], clip: Path, tmp_path: Path) -> None:
    """A snapshot in the cache, all of links to its blobs, loads; a blob that leads on from there does not."""
    snapshot = in_cache(clip)
    assert hfcompress.load(snapshot).num_parameters() > 0
    assert load_processor(snapshot) is not None
    blob = (snapshot / "merges.txt").resolve()
    blob.unlink()
    blob.symlink_to(tmp_path / "secret.bin")
    with pytest.raises(CheckpointError, match=r"merges.txt is a symbolic link"):
        hfcompress.load(snapshot)


def test_blobs_that_are_a_link(in_cache: Callable[[Path], Path], clip: Path, tmp_path: Path) -> None:
    """A folder made to look like the client's cache opens no other folder by a link named `blobs`."""
    snapshot = in_cache(clip)
    blobs = (tmp_path / "models--acme--clip" / "blobs").rename(tmp_path / "elsewhere")
    (tmp_path / "models--acme--clip" / "blobs").symlink_to(blobs)
    assert not is_contained(snapshot, snapshot / "config.json")


@pytest.mark.parametrize("key", ["tokenizer_file", "vocab_file", "vocab", "source_spm"])
def test_tokenizer_that_names_another_file(key: str, copy: Path, tmp_path: Path) -> None:
    """A tokenizer's configuration that names a file outside, as transformers 4 would open it, is refused by key."""
    file = copy / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**values, key: str(tmp_path / "secret.bin")}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"tokenizer_config.json: {key}: got '.*secret.bin'"):
        load_config(copy)


def test_tokenizer_that_names_a_file_of_the_current_folder(copy: Path, here: Path) -> None:
    """A relative name is one in the current folder, as transformers 4 takes it, whatever the checkpoint holds."""
    (here / "vocab.json").write_text("{}", encoding="utf-8")
    assert (copy / "vocab.json").is_file()
    file = copy / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**values, "vocab_file": "vocab.json"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: vocab_file: got 'vocab.json'"):
        load_config(copy)


def test_paths_of_the_machine_it_was_saved_on(copy: Path, tmp_path: Path) -> None:
    """A path that nothing opens, or at which there is nothing, is no reason to refuse a checkpoint."""
    file = copy / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    told = {"special_tokens_map_file": str(tmp_path / "secret.bin"), "vocab_file": "/nowhere/vocab.json"}
    file.write_text(json.dumps({**values, **told}), encoding="utf-8")
    check_contained(copy)


def test_nothing_is_copied_from_outside(copy: Path, tmp_path: Path) -> None:
    """What a link leads to does not become part of a result, which may be pushed."""
    replace(copy, "notes.txt", "../secret.bin")
    with pytest.raises(CheckpointError, match=r"notes.txt is a symbolic link"):
        hfcompress.prune(copy, towers={"all": {"ffn": 0.5}}, importance="magnitude", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _outside(folder: Path, location: str) -> None:
    """Let a graph have its largest weight in another file, which is there and right; no checksums tell of it."""
    import onnx
    from onnx.external_data_helper import set_external_data

    graph = onnx.load(folder / GRAPH)
    tensor = max(graph.graph.initializer, key=lambda held: len(held.raw_data))
    (folder.parent / "weights.bin").write_bytes(tensor.raw_data)
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    (folder / GRAPH).write_bytes(graph.SerializeToString())
    (folder / "SHA256SUMS").unlink()


LOCATIONS = {
    "../../weights.bin": {},
    "{}/weights.bin": {},
    "data.bin": {"onnx/data.bin": "../../weights.bin"},
    "nested/weights.bin": {"onnx/nested": "../.."},
    "..\\..\\weights.bin": {},
    "C:\\weights.bin": {},
}
"""Where a graph says that its weights are → links in the artifact that make it so."""


@pytest.fixture(params=LOCATIONS)
def leaking(request: pytest.FixtureRequest, quickstart: Ran, tmp_path: Path) -> tuple[Path, str]:
    """Return an artifact whose graph has weights outside of it, and what an error must tell of it."""
    folder = shutil.copytree(quickstart.folder, tmp_path / "artifact")
    location = request.param.format(tmp_path)
    _outside(folder, location)
    for name, target in LOCATIONS[request.param].items():
        (folder / name).symlink_to(target)
        return folder, re.escape(f"{folder / name} is a symbolic link to {target!r}")
    return folder, re.escape(f"{folder / GRAPH}: got weights in {location!r}")


@pytest.mark.onnxruntime
def test_weights_of_a_graph_outside(leaking: tuple[Path, str], quickstart_folder: Path, clip: Path) -> None:
    """`load`, `evaluate` and `benchmark` refuse a graph with weights outside by file and location."""
    folder, expected = leaking
    rows = datasets.load_dataset(str(quickstart_folder / "data"), split="test[:4]")
    with pytest.raises(CheckpointError, match=expected):
        hfcompress.load(folder)
    with pytest.raises(CheckpointError, match=expected):
        hfcompress.evaluate(folder, TASK, rows, templates=["{label}"])
    with pytest.raises(CheckpointError, match=expected):
        hfcompress.benchmark(clip, folder, **FAST)


@pytest.mark.onnxruntime
def test_weights_outside_on_the_command_line(quickstart: Ran, tmp_path: Path, clip: Path, cli: Cli) -> None:
    """`hfcompress benchmark` says so in one line and exits with 2."""
    folder = shutil.copytree(quickstart.folder, tmp_path / "artifact")
    _outside(folder, "../../weights.bin")
    done = cli("benchmark", clip, folder, "--no-memory", "--repeats", "2")
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (2, "", False)
    assert f"{folder / GRAPH}: got weights in '../../weights.bin'" in done.stderr


@pytest.mark.onnxruntime
def test_weights_beside_a_graph_in_the_cache(quickstart: Ran, in_cache: Callable[[Path], Path], tmp_path: Path) -> None:
    """A graph whose weights lie beside it loads from the client's cache, where both are links to blobs."""
    import onnx

    from hfcompress.runtimes.onnx_files import save_graph

    folder = shutil.copytree(quickstart.folder, tmp_path / "artifact")
    (folder / "SHA256SUMS").unlink()
    save_graph(onnx.load(folder / GRAPH), folder / GRAPH, 0)
    assert (folder / f"{GRAPH}_data").is_file()
    assert hfcompress.load(folder) is not None
    assert hfcompress.load(in_cache(folder)) is not None


@pytest.mark.openvino
def test_openvino_weights_outside(clip: Path, tmp_path: Path) -> None:
    """Weights of an OpenVINO graph, whose name is that of the graph, are no link out of the folder."""
    folder = tmp_path / "artifact"
    hfcompress.quantize(clip, runtime="openvino", mode="weight_only", output=folder)
    (folder / "SHA256SUMS").unlink()
    (folder / "openvino_model.bin").rename(tmp_path / "weights.bin")
    (folder / "openvino_model.bin").symlink_to("../weights.bin")
    with pytest.raises(CheckpointError, match=r"openvino_model.bin is a symbolic link to '../weights.bin'"):
        hfcompress.load(folder)
