"""Promises of reading weights in several files: all of them lie in the checkpoint's own folder."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

import hfcompress
from hfcompress.anatomy import load_model
from hfcompress.errors import CheckpointError
from hfcompress.shards import check_shards, check_weights

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(clip: Path, tmp_path: Path) -> Path:
    """Return the quickstart's model in several files, in a folder beside which another file of weights lies."""
    load_model(clip).save_pretrained(tmp_path / "sharded", max_shard_size="1MB")
    for file in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        shutil.copyfile(clip / file, tmp_path / "sharded" / file)
    shutil.copyfile(clip / "model.safetensors", tmp_path / "outside.safetensors")
    return tmp_path / "sharded"


def test_shards_load(sharded: Path, clip: Path) -> None:
    """A checkpoint in several files is the same model."""
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert str(hfcompress.load(sharded).state_dict()) == str(hfcompress.load(clip).state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../outside.safetensors", "expected the name of a file in the same folder"),
        ("/etc/hostname", "expected the name of a file in the same folder"),
        ("..", "expected the name of a file in the same folder"),
        ("a\\b", "expected the name of a file in the same folder"),
        (None, "got None, expected the name of a file"),
        ("model-9.safetensors", "there is no model-9.safetensors in"),
    ],
)
def test_shards_elsewhere(name: str | None, expected: str, sharded: Path) -> None:
    """A path that leaves the folder, and a file that is not there, are refused by name before anything is read."""
    rows = json.loads((sharded / INDEX).read_text(encoding="utf-8"))
    rows["weight_map"]["logit_scale"] = name
    (sharded / INDEX).write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"weight_map.logit_scale: .*{expected}"):
        hfcompress.load(sharded)


@pytest.mark.parametrize("rows", ["", "[]", "{}", {"weight_map": []}, {"weight_map": {}}])
def test_index_that_is_none(rows: Any, tmp_path: Path) -> None:  # noqa: ANN401 - JSON
    """What is no index is refused by its path."""
    (tmp_path / INDEX).write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"{INDEX} (is not JSON|has no mapping `weight_map`)"):
        check_shards(tmp_path)


def test_pruned_shards_leave_no_index(sharded: Path, tmp_path: Path) -> None:
    """An index of the source's files is no part of a result, whose weights are in one."""
    hfcompress.prune(sharded, towers={"text": {"ffn": 0.5}}, importance="magnitude", output=tmp_path / "small")
    assert not (tmp_path / "small" / INDEX).exists()


@pytest.mark.parametrize("whole", [True, False])
def test_damaged_header(whole: bool, clip: Path, sharded: Path, tmp_path: Path) -> None:  # noqa: FBT001 - a parameter
    """A file that cannot be opened is named, in one file and in several; weights that can be pass, and so do none."""
    folder = shutil.copytree(clip, tmp_path / "whole") if whole else sharded
    check_weights(folder)
    damaged = max(folder.glob("model*.safetensors"))
    os.truncate(damaged, 5000)
    with pytest.raises(CheckpointError, match=rf"the weights in {folder} cannot be loaded: {damaged.name}: "):
        check_weights(folder)
    (tmp_path / "empty").mkdir()
    check_weights(tmp_path / "empty")
