"""Promises of weights that were converted from a pickle: kept once, listed, checked and removed as every result is."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from hfcompress.cache import Cache, cache_home
from hfcompress.hub.pickles import as_safetensors

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Cli


@pytest.fixture
def converted(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the quickstart's model, as it lies in the client's cache with a pickle, converted in an empty cache."""
    monkeypatch.setenv("HFCOMPRESS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "models--acme--pickled" / "snapshots" / "0123"
    shutil.copytree(clip, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return as_safetensors(folder, "0123")


def again(converted: Path, tmp_path: Path) -> Path:
    """Convert the same revision once more, from a folder that has no weights any more."""
    source = tmp_path / "models--acme--pickled" / "snapshots" / "0123"
    (source / "pytorch_model.bin").unlink()
    assert as_safetensors(source, "0123") == converted
    return converted


def test_converted_once(converted: Path, clip: Path, tmp_path: Path) -> None:
    """The tensors are those of the pickle, and the second time nothing is converted."""
    found, expected = (load_file(folder / "model.safetensors") for folder in (again(converted, tmp_path), clip))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (converted / "tokenizer.json").read_bytes() == (clip / "tokenizer.json").read_bytes()


def test_damaged_is_converted_again(converted: Path, tmp_path: Path) -> None:
    """What was damaged since is not read."""
    before = (converted / "model.safetensors").read_bytes()
    (converted / "model.safetensors").write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert as_safetensors(tmp_path / "models--acme--pickled" / "snapshots" / "0123", "0123") == converted
    assert (converted / "model.safetensors").read_bytes() == before
    assert list((tmp_path / "cache" / "partial").iterdir()) == []


def test_commands(converted: Path, cli: Cli) -> None:
    """`hfcompress cache` lists it with its repository and size, finds what is damaged, and removes it."""
    (row,) = json.loads(cli("cache", "ls", "--json").stdout)
    assert (row["kind"], row["title"], row["model"]) == ("weights", "safetensors", "acme/pickled")
    assert row["size_bytes"] > (converted / "model.safetensors").stat().st_size
    assert cli("cache", "verify").stdout == "1 result checked, 0 corrupt\n"
    (converted / "model.safetensors").write_bytes(b"")
    found = cli("cache", "verify")
    assert (found.returncode, found.stdout) == (1, "1 result checked, 1 corrupt\n")
    assert f"{row['key'][:12]}: model.safetensors is not what was written" in found.stderr
    assert cli("cache", "rm", row["key"][:12]).stdout.startswith("removed 1 result, ")
    assert not converted.exists()
    assert Cache(cache_home()).keys() == []
