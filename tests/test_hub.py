"""Promises of `hfcompress.hub` and of recipes whose model and data come from the Hub."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import constants

import hfcompress
from hfcompress.errors import CheckpointError, HubError, NotOnHubError, RecipeError
from hfcompress.hub import content_revision, download_weights, resolve_dataset, resolve_model
from hfcompress.hub.pickles import WEIGHTS
from hfcompress.hub.pull import missing_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Write
    from tests.loopback_hub import LoopbackHub


@pytest.fixture
def online(hub: LoopbackHub, clip: Path) -> LoopbackHub:
    """Return a Hub that holds the quickstart's model."""
    try:
        hub.repository("acme/clip")
    except KeyError:
        hub.add_repo("acme/clip", clip)
    return hub


def test_model_resolves_to_a_commit(online: LoopbackHub) -> None:
    """A branch becomes its commit; the configuration is there, the weights are not until they are asked for."""
    source = resolve_model("acme/clip", "main")
    assert source.revision == online.commits("acme/clip")[0].oid
    assert (source.id, source.on_hub, source.license) == ("acme/clip", True, "apache-2.0")
    assert not [request for request in online.requests if request.path.endswith(".safetensors")]
    assert (download_weights(source) / "model.safetensors").is_file()


TITLE = "Adding `safetensors` variant of this model"


@pytest.mark.parametrize(
    ("title", "author", "taken"),
    [(TITLE, "SFconvertbot", True), (TITLE, "mallory", False), ("Add weights", "SFconvertbot", False)],
)
def test_safetensors_in_a_pull_request(
    title: str,
    author: str,
    taken: bool,  # noqa: FBT001 - a case of the table
    hub: LoopbackHub,
    clip: Path,
    tmp_path: Path,
) -> None:
    """A main branch of pickles stands for what the Hub's converter offers, and for nobody else's pull request."""
    shutil.copytree(clip, tmp_path / "pickled")
    weights = (tmp_path / "pickled/model.safetensors").rename(tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"pickle")
    name = f"acme/pickled-{len(title)}-{author}"
    main = hub.add_repo(name, tmp_path / "pickled")
    offer = hub.offer(name, {"model.safetensors": weights}, title=title, author=author)
    source = resolve_model(name, "main")

    assert (source.revision, source.converted) == ((offer.oid, "refs/pr/1") if taken else (main.oid, None))
    if taken:
        assert (download_weights(source) / "model.safetensors").read_bytes() == weights
    else:
        with pytest.raises(
            CheckpointError, match=r"nothing but safetensors: .+ name it with `revision: refs/pr/\.\.\.`"
        ):
            download_weights(source)


def test_bytes_to_download(hub: LoopbackHub, clip: Path, tmp_path: Path) -> None:
    """What is still to be downloaded is told before: the weights' size, and nothing once another commit had them."""
    folder = shutil.copytree(clip, tmp_path / "alike")
    hub.add_repo("alice/alike", folder)
    source = resolve_model("alice/alike", "main")
    assert missing_bytes(resolve_model(str(clip), "main"), WEIGHTS) == 0
    assert missing_bytes(source, WEIGHTS) == (clip / "model.safetensors").stat().st_size
    download_weights(source)
    assert missing_bytes(source, WEIGHTS) == 0

    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    hfcompress.push(folder, "alice/alike")
    moved = resolve_model("alice/alike", "main")
    assert moved.revision != source.revision
    assert missing_bytes(moved, WEIGHTS) == 0


def test_folder_has_a_fingerprint(tmp_path: Path) -> None:
    """The fingerprint of a folder follows names and contents, and nothing else."""
    (tmp_path / "a").write_bytes(b"1")
    first = content_revision(tmp_path)
    (tmp_path / "a").touch()
    assert content_revision(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert content_revision(tmp_path) != first


@pytest.mark.parametrize(
    ("name", "revision", "match"),
    [
        ("acme/none", "main", "^there is no model acme/none on the Hub, or it is private: check the name, or log in"),
        ("acme/clip", "v9", "^the model acme/clip has no revision 'v9'; look at its branches and tags on its page$"),
    ],
)
def test_what_is_not_on_the_hub(name: str, revision: str, match: str, online: LoopbackHub) -> None:
    """A repository or a revision that does not exist is one sentence that says which."""
    assert online.commits("acme/clip")
    with pytest.raises(NotOnHubError, match=match):
        resolve_model(name, revision)


def test_gated_model(online: LoopbackHub, clip: Path) -> None:
    """A gated model says how to get in."""
    online.add_repo("owned/gated", clip, gated="manual")
    with pytest.raises(HubError, match=r"^the model owned/gated is gated: ask for access on its page, then log in"):
        resolve_model("owned/gated", "main")


@pytest.mark.parametrize("status", [500, 503])
def test_hub_out_of_order(status: int, online: LoopbackHub) -> None:
    """A Hub that fails is one sentence with the status and what to do."""
    online.fail("GET", "/api/models/*", status=status, times=None)
    with pytest.raises(HubError, match=rf"^the Hub refused the model acme/clip \({status}\): .+; try again$"):
        resolve_model("acme/clip", "main")


def test_repository_without_configuration(online: LoopbackHub, tmp_path: Path) -> None:
    """A repository that is no transformers checkpoint says so."""
    (tmp_path / "notes.txt").write_text("none", encoding="utf-8")
    online.add_repo("acme/notes", tmp_path)
    with pytest.raises(CheckpointError, match=r"^the repository acme/notes holds no config\.json"):
        resolve_model("acme/notes", "main")


def test_dataset_that_does_not_exist(online: LoopbackHub) -> None:
    """A dataset's name is explained like a model's."""
    assert online.endpoint == constants.ENDPOINT
    with pytest.raises(NotOnHubError, match=r"^there is no dataset acme/none on the Hub"):
        resolve_dataset("acme/none", None)


# Recipes with Hub ids


@pytest.mark.filterwarnings("ignore")
def test_recipe_from_the_hub(
    online: LoopbackHub, quickstart_folder: Path, recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Model and rows come from the Hub by commit, and the report holds both commits."""
    online.add_repo("acme/digits", quickstart_folder / "data", repo_type="dataset")
    values = recipe(model={"id": "acme/clip", "revision": "main"})
    values["data"]["test"]["dataset"] = "acme/digits"
    report = hfcompress.run(values, output=tmp_path / "out")
    row = report["zero_shot_accuracy"]

    assert (report.source.id, report.source.revision) == ("acme/clip", online.commits("acme/clip")[0].oid)
    assert (row.dataset, row.revision) == ("acme/digits", online.commits("acme/digits", "dataset")[0].oid)
    assert "base_model: acme/clip" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    wanted = [request.path for request in online.requests if "/resolve/" in request.path]
    assert all(row.revision in path or report.source.revision in path for path in wanted)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"id": "acme/none"}, r":3:3: model\.id: there is no model acme/none on the Hub, or it is private"),
        ({"id": "acme/clip", "revision": "v9"}, r":4:3: model\.revision: the model acme/clip has no revision 'v9'"),
        ({"id": "acme/data-only"}, r":3:3: model\.id: the repository acme/data-only holds no config\.json"),
    ],
)
def test_wrong_names_are_mistakes_of_the_recipe(
    model: dict[str, str], expected: str, online: LoopbackHub, write: Write
) -> None:
    """A model that the Hub does not have is placed in the recipe."""
    if model["id"] == "acme/data-only":
        online.add_repo("acme/data-only")
    with pytest.raises(RecipeError, match=expected):
        hfcompress.plan(write(model=model))


def test_loaded_from_the_hub(online: LoopbackHub) -> None:
    """`hfcompress.load` gives the stock class, with the weights of the Hub."""
    assert online.commits("acme/clip")
    model = hfcompress.load("acme/clip")
    assert (type(model).__name__, model.num_parameters()) == ("CLIPModel", 973489)
