"""Promises of a pull: one commit, the right bytes, no code and no pickle that nobody allowed, and offline too."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from huggingface_hub import scan_cache_dir
from safetensors.torch import load_file
from transformers import AutoModel

import hfcompress
from hfcompress.errors import CheckpointError, HubError, RecipeError
from hfcompress.hub import download_weights, resolve_model
from hfcompress.hub.explanations import without_secrets
from hfcompress.hub.references import keep_commit, kept_commit
from hfcompress.hub.retries import LONGEST_WAIT_S, is_passing, wait_s
from tests.loopback_hub import OWNER, LoopbackHub

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Cli, Python, Write

pytestmark = pytest.mark.filterwarnings("ignore")

CODE = """
from transformers import CLIPConfig, CLIPModel


class OwnConfig(CLIPConfig):
    model_type = "own-clip"


class OwnModel(CLIPModel):
    config_class = OwnConfig
"""


@pytest.fixture
def pickled(clip: Path, tmp_path: Path) -> Path:
    """Return the quickstart's model with its weights in pickle alone."""
    folder = shutil.copytree(clip, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def own_code(clip: Path, tmp_path: Path) -> Path:
    """Return the quickstart's model with classes that its own code defines."""
    folder = shutil.copytree(clip, tmp_path / "own-code")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "own-clip",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "own.py").write_text(CODE, encoding="utf-8")
    return folder


def test_branch_that_moves_during_a_run(hub: LoopbackHub, clip: Path) -> None:
    """What was resolved stays: the weights come from the commit that the configuration came from."""
    hub.add_repo("acme/moving", clip)
    source = resolve_model("acme/moving", "main")
    hfcompress.push(clip, "acme/moving")
    hub.forget_requests()
    download_weights(source)
    asked = [request.path for request in hub.requests if "/resolve/" in request.path or "/revision/" in request.path]
    assert asked
    assert all(source.revision in path for path in asked)


def test_commit_is_described_once(
    hub: LoopbackHub, clip: Path, quickstart_folder: Path, recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A run asks for the files of its model's commit once, and of its dataset's, however often it needs them."""
    model = hub.add_repo("acme/asked", clip).oid
    rows = hub.add_repo("acme/asked-digits", quickstart_folder / "data", repo_type="dataset").oid
    step = {"use": "prune", "towers": {"all": {"ffn": 0.5}}, "importance": "activation", "calibration": "calibration"}
    values = recipe(model={"id": "acme/asked"}, steps=[step])
    values["data"]["test"] |= {"dataset": "acme/asked-digits", "split": "test[:20]"}
    columns = {"image": "image", "text": "caption"}
    values["data"]["calibration"] = {"dataset": "acme/asked-digits", "split": "calibration[:8]", "columns": columns}
    hfcompress.run(values, output=tmp_path / "out", cache=False)
    asked = [request.path for request in hub.requests if "blobs" in request.query]
    assert sorted(asked) == [
        f"/api/datasets/acme/asked-digits/revision/{rows}",
        f"/api/models/acme/asked/revision/{model}",
    ]


def test_gate_that_closes(hub: LoopbackHub, clip: Path) -> None:
    """What is known of a commit, and all of it in the cache, opens no gate that has been closed since."""
    hub.add_repo("owned/closing", clip, gated="manual", admitted=(OWNER.user,))
    download_weights(resolve_model("owned/closing", "main"))
    hub.expel("owned/closing", OWNER.user)
    with pytest.raises(HubError, match=r"^the model owned/closing is gated: ask for access on its page"):
        resolve_model("owned/closing", "main")


def test_damaged_cache(hub: LoopbackHub, clip: Path) -> None:
    """A file that went bad in the cache is fetched again before it is used."""
    hub.add_repo("acme/rotten", clip)
    source = resolve_model("acme/rotten", "main")
    weights = download_weights(source) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    download_weights(source)
    assert weights.read_bytes() == (clip / "model.safetensors").read_bytes()


def test_offline(hub: LoopbackHub, clip: Path, python: Python) -> None:
    """What was pulled once is found offline by its branch; what is missing or damaged is told with the way out."""
    hub.add_repo("acme/offline", clip)
    hub.add_repo("acme/light", clip)
    source = resolve_model("acme/offline", "main")
    weights = download_weights(source) / "model.safetensors"
    resolve_model("acme/light", "main")
    hub.forget_requests()
    program = (
        "import sys; from hfcompress.hub import *; from hfcompress.errors import HfcompressError\n"
        "try: print(download_weights(resolve_model(sys.argv[1], sys.argv[2])))\n"
        "except HfcompressError as error: print(error)"
    )

    def say(name: str, revision: str = "main") -> str:
        done = python("-c", program, name, revision, HF_HUB_OFFLINE="1")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert say("acme/offline") == str(weights.parent)
    assert say("acme/offline", source.revision) == str(weights.parent)
    assert say("acme/never").startswith(
        "the model acme/never is not in the cache at 'main' and offline mode is on; unset"
    )
    assert "acme/light" in say("acme/light")
    assert "unset HF_HUB_OFFLINE" in say("acme/light")
    weights.resolve().write_bytes(b"rotten")
    assert say("acme/offline").startswith("model.safetensors of the model acme/offline is damaged in the cache; unset")
    assert hub.requests == []


def test_conversion_offline(hub: LoopbackHub, clip: Path, pickled: Path, python: Python) -> None:
    """Offline a main branch of pickles stands for the pull request that it stood for, until it has its own weights."""
    name = "alice/converted"
    hub.add_repo(name, pickled)
    weights = (clip / "model.safetensors").read_bytes()
    hub.offer(
        name, {"model.safetensors": weights}, title="Adding `safetensors` variant of this model", author="SFconvertbot"
    )
    program = (
        "import sys; from hfcompress.hub import *\n"
        "source = resolve_model(sys.argv[1], 'main'); download_weights(source); print(source)"
    )

    def offline() -> str:
        done = python("-c", program, name, HF_HUB_OFFLINE="1")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    source = resolve_model(name, "main")
    download_weights(source)
    assert source.converted == "refs/pr/1"
    assert offline() == str(source)
    # the client finds nothing wrong with its folder
    assert not [warning for warning in scan_cache_dir().warnings if "alice--converted" in str(warning)]

    hfcompress.push(clip, name)
    moved = resolve_model(name, "main")
    download_weights(moved)
    assert (moved.revision, moved.converted) == (hub.commits(name)[0].oid, None)
    assert offline() == str(moved)


@pytest.mark.parametrize("revision", ["../../../escaped", "{home}/escaped"])
def test_revision_that_is_a_path(revision: str, hub: LoopbackHub, clip: Path, tmp_path: Path) -> None:
    """Whatever the Hub calls a revision, nothing is kept outside of the folder of references."""
    hub.add_repo("acme/escaping", clip)
    revision = revision.format(home=tmp_path)
    with pytest.raises(HubError, match="has no revision"):
        resolve_model("acme/escaping", revision)
    keep_commit("acme/escaping", "model", revision, "0" * 40)
    assert kept_commit("acme/escaping", "model", revision) is None
    assert not list(tmp_path.iterdir())


def test_run_from_a_warm_cache_offline(
    hub: LoopbackHub, clip: Path, quickstart_folder: Path, write: Write, cli: Cli, tmp_path: Path
) -> None:
    """A run whose model and data were pulled before needs no Hub."""
    hub.add_repo("acme/warm", clip)
    hub.add_repo("acme/warm-digits", quickstart_folder / "data", repo_type="dataset")
    data: dict[str, Any] = {
        "test": {"dataset": "acme/warm-digits", "split": "test[:20]", "columns": {"image": "image", "label": "label"}}
    }
    recipe = write(model={"id": "acme/warm"}, data=data)
    first = cli("run", recipe, "-o", tmp_path / "first")
    assert first.returncode == 0, first.stderr
    hub.forget_requests()
    again = cli("run", recipe, "-o", tmp_path / "again", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert hub.requests == []


def test_pickle_needs_leave(pickled: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    """Pickle weights are not read unless the recipe says so, and are safetensors with the same values then."""
    hub.add_repo("acme/pickled", pickled)
    source = resolve_model("acme/pickled", "main")
    with pytest.raises(
        CheckpointError, match=r"^acme/pickled holds no model\.safetensors; .+ `allow_pickle: true` under"
    ):
        download_weights(source)
    assert not [request for request in hub.requests if request.path.endswith(".bin")]
    folder = download_weights(source, tmp_path / "converted")
    assert folder == tmp_path / "converted"
    written, original = load_file(folder / "model.safetensors"), torch.load(pickled / "pytorch_model.bin")
    assert all(torch.equal(original[name], tensor) for name, tensor in written.items())
    assert not list(folder.glob("*.bin"))
    assert (folder / "tokenizer.json").read_bytes() == (pickled / "tokenizer.json").read_bytes()


def test_run_on_a_pickle(pickled: Path, clip: Path, write: Write, tmp_path: Path) -> None:
    """A pickle that a recipe allows is compressed as the same weights in safetensors are, and leaves nothing behind."""
    model = {"id": str(pickled), "allow_pickle": True}
    for name, wanted in (("pickle", model), ("safetensors", {"id": str(clip)})):
        hfcompress.run(write(model=wanted), output=tmp_path / name, cache=False)
    made, expected = (tmp_path / name for name in ("pickle", "safetensors"))
    assert (made / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    assert sorted(file.name for file in made.rglob("*")) == sorted(file.name for file in expected.rglob("*"))
    assert not (tmp_path / ".pickle.partial").exists()
    assert not list(pickled.glob("*.safetensors"))


class _Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        """Make a folder when unpickled."""
        return os.mkdir, ("harmed",)


def test_pickle_with_code(pickled: Path, here: Path) -> None:
    """A pickle that holds more than tensors is refused, and what it holds does not run."""
    torch.save({"weight": _Harmful()}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"^the pickle weights in .+ cannot be read as tensors alone: "):
        download_weights(resolve_model(str(pickled), "main"), here / "converted")
    assert not (here / "harmed").exists()


def test_remote_code_needs_leave(own_code: Path, write: Write) -> None:
    """A checkpoint whose classes are its own code is refused with the key that allows it, and nothing of it runs."""
    (own_code / "own.py").write_text(f"{CODE}\n\nraise SystemExit('it ran')\n", encoding="utf-8")
    with pytest.raises(
        RecipeError, match=r"`auto_map`\), and such code is not run; .+ `trust_remote_code: true` under"
    ):
        hfcompress.plan(write(model={"id": str(own_code)}))


def test_remote_code_of_another_repository(own_code: Path, write: Write) -> None:
    """Code that no commit pins is not run, whatever the recipe says."""
    config = json.loads((own_code / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {name: f"evil/code--{value}" for name, value in config["auto_map"].items()}
    (own_code / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RecipeError, match="such code is not run"):
        hfcompress.plan(write(model={"id": str(own_code), "trust_remote_code": True}))


def test_remote_code_with_leave(own_code: Path, hub: LoopbackHub, write: Write, cli: Cli, tmp_path: Path) -> None:
    """With the recipe's leave it runs to the end, the plan and the card say so, and the artifact holds the code."""
    hub.add_repo("acme/own-code", own_code)
    recipe = write(
        model={"id": "acme/own-code", "trust_remote_code": True}, steps=[{"use": "cast", "dtype": "bfloat16"}]
    )
    planned = cli("plan", recipe)
    assert planned.returncode == 0, planned.stderr
    assert "trust_remote_code: the source's own code runs" in planned.stdout
    done = cli("run", recipe, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "its classes are code of its own, which ran with `trust_remote_code`" in card
    assert (tmp_path / "out/own.py").is_file()
    assert type(AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)).__name__ == "OwnModel"


@pytest.mark.parametrize(
    ("attempt", "expected"), [(1, 0.5), (2, 1.0), (4, 4.0), (30, LONGEST_WAIT_S)], ids=["1", "2", "4", "30"]
)
def test_waits_grow(attempt: int, expected: float) -> None:
    """Each wait is twice the one before, and none is longer than the longest."""
    assert wait_s(ConnectionError(), attempt, 0.5) == expected


@pytest.mark.parametrize(("asked", "expected"), [(0, 0.0), (7, 7.0), (86_400, LONGEST_WAIT_S)])
def test_retry_after(asked: int, expected: float, hub: LoopbackHub, clip: Path) -> None:
    """The Hub's own word on when to come back is followed, up to the longest wait."""
    hub.add_repo(f"acme/after{asked}", clip)
    hub.fail("GET", f"/api/models/acme/after{asked}/*", status=418, retry_after_s=asked)
    with pytest.raises(HubError, match=r"\(418\)") as raised:
        resolve_model(f"acme/after{asked}", "main")
    assert wait_s(raised.value.__cause__, 1, 0.5) == expected
    assert not is_passing(raised.value.__cause__ or raised.value)


def test_wait_that_is_no_number(hub: LoopbackHub, cli: Cli) -> None:
    """A wait that cannot be is said with the variable's name."""
    done = cli("inspect", "acme/any", HFCOMPRESS_RETRY_WAIT_S="soon")
    assert done.returncode == 2
    assert "HFCOMPRESS_RETRY_WAIT_S is 'soon'; expected a number of seconds from 0 to 60" in done.stderr
    assert hub.requests == []


def test_secrets_are_cut(tmp_path: Path, python: Python) -> None:
    """Neither tokens nor the signatures of links are told, nor a token of another form that the client stores."""
    told = without_secrets(
        f"403 for https://cdn.example/file?X-Signature=abc&b=1, token hf_{'aB3' * 8}, hf_hub_download"
    )
    assert told == "403 for https://cdn.example/file token hf_***, hf_hub_download"
    (tmp_path / "token").write_text("own-form-of-token\n", encoding="utf-8")
    program = (
        "from hfcompress.hub.explanations import without_secrets; print(without_secrets('Bearer own-form-of-token'))"
    )
    done = python("-c", program, HF_TOKEN="", HF_TOKEN_PATH=str(tmp_path / "token"))
    assert done.stdout == "Bearer hf_***\n", done.stderr
